"""A token contract as the facts of a GGUF file: what `gguf_tokens` reads back.

Programs that run GGUF files split text by rules of their own, which a fact names; the rule is found
by trying which one gives this tokenizer's ids.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from whorl.codecs.contract import TEXT, Tokens
from whorl.codecs.gguf_tokens import (
    CONTROL,
    PREFIX,
    RULES,
    UNUSED,
    USER_DEFINED,
    read_gguf_tokens,
)
from whorl.codecs.tokenizer import FILE
from whorl.core.errors import DataError, RecordError, SpecError

__all__ = ["PROBES", "gguf_token_facts"]

NORMAL, BYTE = 1, 6  # kinds of tokens
UNMERGED = -1e9  # score of a piece that no pair makes
PROBES = (  # texts on which the rules of splitting differ
    "Hello, world! It's 2026; 1234567 and 3.14159.",
    "def f(x):\n\treturn  x ** 2   # done\n\n\n",
    "  leading, trailing  ",
    "naïve café, Ångström, Ａ１, ﬁne, 日本語 and русский текст",
    "e\u0301 a\u030a",  # not in the composed form
    "I'LL we've DON'T x='s'",
    "$<=>^~|+ «quoted» — dash… (a)[b]{c}",
    "\r\n\u00a0\u2003end",
)


def gguf_token_facts(tokens: Tokens) -> dict[str, Any]:
    """tokenizer.ggml.* and the chat template.

    Raises SpecError on tokens that a GGUF file cannot say: none of text, codecs beside text, a
    tokenizer whose ids no known rule gives.
    """
    contract = tokens.contract
    if [entry.name for entry in contract.codecs] != [TEXT]:
        raise SpecError(
            "a GGUF file holds models of text alone",
            found=", ".join(entry.name for entry in contract.codecs),
        )
    value = json.loads(tokens.codecs[TEXT].files()[FILE])
    if value["model"]["type"] != "BPE":
        raise SpecError("GGUF export of a tokenizer", found=value["model"]["type"], expected="BPE")
    facts = _vocabulary(value, contract.vocab_size)
    merges = [
        merge.split(" ", 1) if isinstance(merge, str) else merge
        for merge in value["model"]["merges"]
    ]
    facts |= _special(tokens)
    if value["model"].get("byte_fallback"):
        normalizers = json.dumps(value.get("normalizer"))
        facts[f"{PREFIX}model"] = "llama"
        facts[f"{PREFIX}scores"] = _scores(facts[f"{PREFIX}tokens"], merges)
        facts[f"{PREFIX}add_space_prefix"] = '"Prepend"' in normalizers
        rules: Sequence[str] = ("",)
    else:
        facts[f"{PREFIX}model"] = "gpt2"
        facts[f"{PREFIX}merges"] = [" ".join(merge) for merge in merges]
        steps = value.get("pre_tokenizer") or {}
        steps = steps.get("pretokenizers", [steps])
        rules = sorted(RULES, key=lambda rule: RULES[rule] != steps)  # the very same one first
    found = next((rule for rule in rules if _gives_the_ids(_by_rule(facts, rule), tokens)), None)
    if found is None:
        raise SpecError(
            "no rule of splitting text that GGUF files name gives this tokenizer's ids",
            expected=", ".join(sorted(RULES)),
            do="export to hf or openvino",
        )
    return _by_rule(facts, found)


def _by_rule(facts: Mapping[str, Any], rule: str) -> dict[str, Any]:
    return {**facts, **({f"{PREFIX}pre": rule} if rule else {})}


def _gives_the_ids(facts: Mapping[str, Any], tokens: Tokens) -> bool:
    try:
        read = read_gguf_tokens(facts, tokens.contract.vocab_size)
        return all(read.encode_prompt(text) == tokens.encode_prompt(text) for text in PROBES)
    except (DataError, RecordError):
        return False


def _vocabulary(value: Mapping[str, Any], vocab_size: int) -> dict[str, Any]:
    texts = {number: text for text, number in value["model"]["vocab"].items()}
    kinds = dict.fromkeys(texts, NORMAL)
    if value["model"].get("byte_fallback"):
        is_byte = {f"<0x{byte:02X}>" for byte in range(256)}
        kinds |= {number: BYTE for number, text in texts.items() if text in is_byte}
    for token in value["added_tokens"]:
        texts[token["id"]] = token["content"]
        kinds[token["id"]] = CONTROL if token["special"] else USER_DEFINED
    return {
        f"{PREFIX}tokens": [texts.get(i, f"[PAD{i}]") for i in range(vocab_size)],
        f"{PREFIX}token_type": [kinds.get(i, UNUSED) for i in range(vocab_size)],
    }


def _special(tokens: Tokens) -> dict[str, Any]:
    contract = tokens.contract
    bos, eos = contract.id_of("bos_token"), contract.id_of("eos_token")
    if contract.start_ids not in ((), (bos,)):
        raise SpecError(
            "in a GGUF file a text begins with one token or none", found=contract.start_ids
        )
    stops = [number for number in contract.stop_ids if number != eos]
    ids = {
        "bos": bos,
        "eos": eos if eos is not None else next(iter(contract.stop_ids), None),
        "eot": next(iter(stops), None),
        "padding": contract.pad_id,
        "unknown": contract.id_of("unk_token"),
    }
    facts: dict[str, Any] = {
        f"{PREFIX}{key}_token_id": number for key, number in ids.items() if number is not None
    }
    facts |= {f"{PREFIX}add_bos_token": bool(contract.start_ids), f"{PREFIX}add_eos_token": False}
    if contract.chat_template is not None:
        facts["tokenizer.chat_template"] = contract.chat_template
    return facts


def _scores(texts: Sequence[str], merges: Sequence[Sequence[str]]) -> list[float]:
    """The earlier a pair is joined, the higher the score of what it makes."""
    ranks: dict[str, int] = {}
    for rank, pair in enumerate(merges):
        ranks.setdefault("".join(pair), rank)
    return [float(-ranks[text]) if text in ranks else UNMERGED for text in texts]
