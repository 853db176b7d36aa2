"""The tokenizer in a GGUF file's facts, as the files of a Hugging Face folder.

Byte-level BPE (`tokenizer.ggml.model` gpt2) names its rule of splitting in `tokenizer.ggml.pre`;
each rule here is that of the model's published tokenizer.json, and llama.cpp follows the same.
SentencePiece (llama) has scores: the pair whose piece scores highest is joined first.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from whorl.codecs.contract import Tokens
from whorl.codecs.hf_tokens import read_hf_tokens
from whorl.codecs.tokenizer import FILE
from whorl.codecs.words import QWEN2_PATTERN
from whorl.core.errors import DataError

__all__ = ["gguf_tokenizer_files", "read_gguf_tokens"]

PREFIX = "tokenizer.ggml."
UNKNOWN, CONTROL, USER_DEFINED, UNUSED = 2, 3, 4, 5  # kinds of tokens
SPACE = "▁"  # SentencePiece's
MAX_TOKEN_CHARS = 1000

Steps = list[dict[str, Any]]


def _split(pattern: str) -> dict[str, Any]:
    return {
        "type": "Split",
        "pattern": {"Regex": pattern},
        "behavior": "Isolated",
        "invert": False,
    }


def _byte_level(use_regex: bool) -> dict[str, Any]:
    """use_regex: words end where GPT-2's own pattern says."""
    return {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": use_regex,
    }


LLAMA3_PATTERN = QWEN2_PATTERN.replace(r"|\p{N}|", r"|\p{N}{1,3}|")  # up to three digits a word
GPT2: Steps = [_byte_level(use_regex=True)]
DIGITS: Steps = [{"type": "Digits", "individual_digits": True}, *GPT2]
QWEN2: Steps = [_split(QWEN2_PATTERN), _byte_level(use_regex=False)]
LLAMA3: Steps = [_split(LLAMA3_PATTERN), _byte_level(use_regex=False)]
DEFAULT: Steps = [  # llama.cpp's, for files that do not name their rule
    _split(r"[\p{P}\$\+<=>\^~\|]+"),
    _split(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"),
    _split(r"\p{N}+"),
    _split(r"[0-9][0-9][0-9]"),
    _byte_level(use_regex=False),
]
# tokenizer.ggml.pre -> how text is split before pairs are joined.
RULES: dict[str, Steps] = {
    "default": DEFAULT,
    "gpt-2": GPT2,
    "smollm": DIGITS,
    "llama-bpe": LLAMA3,
    "llama3": LLAMA3,
    "llama-v3": LLAMA3,
    "qwen2": QWEN2,
    "deepseek-r1-qwen": QWEN2,
}
NFC = frozenset({"qwen2", "deepseek-r1-qwen"})  # text is normalised first, as their models' is
WHOLE_WORDS = frozenset({"llama-bpe", "llama3", "llama-v3"})  # a word that is a token is no merges
STARTED = frozenset({"llama-bpe", "llama3", "llama-v3"})  # a text begins with bos, unless told


def read_gguf_tokens(facts: Mapping[str, Any], vocab_size: int) -> Tokens:
    """The token contract of a file's facts, for a model of so many ids.

    Raises DataError naming a tokenizer that is not read, or facts that do not fit each other;
    RecordError if what they say is no tokenizer.
    """
    files = gguf_tokenizer_files(facts)
    files["config.json"] = json.dumps({"vocab_size": vocab_size})
    with tempfile.TemporaryDirectory(prefix="whorl-gguf-") as folder:
        for name, text in files.items():
            (Path(folder) / name).write_text(text, "utf-8")
        return read_hf_tokens(Path(folder))


def gguf_tokenizer_files(facts: Mapping[str, Any]) -> dict[str, str]:
    """tokenizer.json, tokenizer_config.json, generation_config.json and perhaps a chat template.

    Raises DataError as `read_gguf_tokens`.
    """
    texts, kinds = _vocabulary(facts)
    special = {
        key: _special(facts, key, len(texts)) for key in ("bos", "eos", "eot", "unknown", "padding")
    }
    model = facts.get(f"{PREFIX}model")
    if model == "gpt2":
        body, starts = _bpe(facts, texts, kinds)
    elif model == "llama":
        body, starts = _sentencepiece(facts, texts, kinds, special["unknown"])
    else:
        raise DataError(
            f"the tokenizer {model} is not read from GGUF",
            expected="gpt2 or llama (tokenizer.ggml.model)",
            do="import the model's Hugging Face folder",
        )
    begin = [special["bos"]] if _flag(facts, "add_bos_token", starts) else []
    end = [special["eos"]] if _flag(facts, "add_eos_token", False) else []
    body["post_processor"] = _around(texts, begin, end)
    names = {"bos": "bos_token", "eos": "eos_token", "padding": "pad_token", "unknown": "unk_token"}
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
    }
    config |= {
        name: texts[number] for key, name in names.items() if (number := special[key]) is not None
    }
    stops = [i for i in (special["eos"], special["eot"]) if i is not None]
    files = {
        FILE: json.dumps(body, ensure_ascii=False),
        "tokenizer_config.json": json.dumps(config, ensure_ascii=False),
        "generation_config.json": json.dumps({"eos_token_id": stops}),
    }
    template = facts.get("tokenizer.chat_template")
    if isinstance(template, str):
        files["chat_template.jinja"] = template
    return files


def _vocabulary(facts: Mapping[str, Any]) -> tuple[list[str], list[int]]:
    """(texts, kinds) by id. Raises DataError."""
    texts = _list(facts, "tokens", str)
    if not texts:
        raise DataError(f"{PREFIX}tokens is missing", do="take a GGUF file with its tokenizer")
    kinds = _list(facts, "token_type", int) or [1] * len(texts)
    if len(kinds) != len(texts):
        raise DataError(f"{PREFIX}token_type", found=len(kinds), expected=f"{len(texts)} kinds")
    used = Counter(text for text, kind in zip(texts, kinds, strict=True) if kind != UNUSED)
    text, times = used.most_common(1)[0] if used else ("", 1)
    if times > 1:
        raise DataError(f"{PREFIX}tokens holds one text {times} times", found=repr(text)[:60])
    if (longest := max(map(len, texts))) > MAX_TOKEN_CHARS:
        raise DataError(
            f"{PREFIX}tokens holds a token that is too long",
            found=f"{longest:,} characters",
            expected=f"at most {MAX_TOKEN_CHARS:,}",
        )
    return texts, kinds


def _list(facts: Mapping[str, Any], key: str, kind: type | tuple[type, ...]) -> list[Any]:
    value = facts.get(PREFIX + key, [])
    if not isinstance(value, list) or not all(isinstance(item, kind) for item in value):
        raise DataError(f"{PREFIX}{key} is not a list of {kind}", found=repr(value)[:60])
    return value


def _flag(facts: Mapping[str, Any], key: str, default: bool) -> bool:
    value = facts.get(PREFIX + key, default)
    if not isinstance(value, bool):
        raise DataError(f"{PREFIX}{key}", found=repr(value)[:60], expected="true or false")
    return value


def _special(facts: Mapping[str, Any], key: str, count: int) -> int | None:
    """The id of a token by its purpose. Raises DataError if there is no such token."""
    number = facts.get(f"{PREFIX}{key}_token_id")
    if number is None:
        return None
    if not isinstance(number, int) or not 0 <= number < count:
        raise DataError(f"{PREFIX}{key}_token_id", found=number, expected=f"an id below {count}")
    return number


# ------------------------------------------------------------------ the two kinds


def _bpe(
    facts: Mapping[str, Any], texts: Sequence[str], kinds: Sequence[int]
) -> tuple[dict[str, Any], bool]:
    """(tokenizer.json, whether a text begins with bos when the file does not say)."""
    rule = facts.get(f"{PREFIX}pre", "default")
    if rule not in RULES:
        raise DataError(
            f"the tokenizer's rule {rule} of splitting text is not known",
            expected=", ".join(sorted(RULES)) + f" ({PREFIX}pre)",
            do="import the model's Hugging Face folder, whose tokenizer.json says the rule",
        )
    merges = [_halves(merge) for merge in _list(facts, "merges", str)]
    model = {"ignore_merges": rule in WHOLE_WORDS, "merges": merges}
    normalizer = {"type": "NFC"} if rule in NFC else None
    pre_tokenizer = {"type": "Sequence", "pretokenizers": RULES[rule]}
    decoder = _byte_level(use_regex=True)
    return _body(texts, kinds, model, normalizer, pre_tokenizer, decoder), rule in STARTED


def _halves(merge: str) -> list[str]:
    left, gap, right = merge.partition(" ")
    if not gap or not left or not right:
        raise DataError(f"{PREFIX}merges holds no pair", found=repr(merge))
    return [left, right]


def _sentencepiece(
    facts: Mapping[str, Any], texts: Sequence[str], kinds: Sequence[int], unknown: int | None
) -> tuple[dict[str, Any], bool]:
    """The same for pieces with scores; bytes without a piece have tokens of their own."""
    scores = _list(facts, "scores", float)
    if len(scores) != len(texts):
        raise DataError(f"{PREFIX}scores", found=len(scores), expected=f"{len(texts)} scores")
    if not {f"<0x{byte:02X}>" for byte in range(256)} <= set(texts):
        raise DataError(
            "the SentencePiece tokenizer has no tokens of all bytes",
            do="import the model's Hugging Face folder",
        )
    model = {
        "unk_token": texts[0 if unknown is None else unknown],
        "fuse_unk": True,
        "byte_fallback": True,
        "merges": _merges(texts, scores),
    }
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    prepends = _flag(facts, "add_space_prefix", True)
    before = [{"type": "Prepend", "prepend": SPACE}] if prepends else []
    normalizer = {"type": "Sequence", "normalizers": [*before, replace]}
    after = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if prepends else []
    decoder = {
        "type": "Sequence",
        "decoders": [
            {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
            {"type": "ByteFallback"},
            {"type": "Fuse"},
            *after,
        ],
    }
    return _body(texts, kinds, model, normalizer, None, decoder), True


def _merges(texts: Sequence[str], scores: Sequence[float]) -> list[list[str]]:
    """Pairs of pieces that make a piece, best score first; equal ones as they stand."""
    ids = {text: number for number, text in enumerate(texts)}
    found = []
    for text, number in ids.items():
        cuts = [(text[:at], text[at:]) for at in range(1, len(text))]
        pairs = [(left, right) for left, right in cuts if left in ids and right in ids]
        pairs.sort(key=lambda pair: (ids[pair[0]], ids[pair[1]]))
        found += [(-scores[number], number, list(pair)) for pair in pairs]
    return [pair for _, _, pair in sorted(found, key=lambda item: item[:2])]


def _body(
    texts: Sequence[str],
    kinds: Sequence[int],
    model: Mapping[str, Any],
    normalizer: Any,
    pre_tokenizer: Any,
    decoder: Any,
) -> dict[str, Any]:
    """A tokenizer.json."""
    plain = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
    }
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    numbered = [(i, text, kind) for i, (text, kind) in enumerate(zip(texts, kinds, strict=True))]
    added = [
        {"id": i, "content": text, **flags, "special": kind != USER_DEFINED}
        for i, text, kind in numbered
        if kind in (UNKNOWN, CONTROL, USER_DEFINED)
    ]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": None,
        "decoder": decoder,
        "model": {
            **plain,
            **model,
            "vocab": {text: i for i, text, kind in numbered if kind != UNUSED},
        },
    }


def _around(
    texts: Sequence[str], begin: Sequence[int | None], end: Sequence[int | None]
) -> dict[str, Any] | None:
    """What puts these tokens before and after every text."""
    if None in begin or None in end:
        raise DataError(
            f"{PREFIX}add_bos_token or add_eos_token asks for a token that is not there"
        )
    if not begin and not end:
        return None

    def token(number: Any, of: int) -> dict[str, Any]:
        return {"SpecialToken": {"id": texts[number], "type_id": of}}

    def text(name: str, of: int) -> list[dict[str, Any]]:
        middle = {"Sequence": {"id": name, "type_id": of}}
        return [*(token(i, of) for i in begin), middle, *(token(i, of) for i in end)]

    used = {texts[i]: i for i in (*begin, *end) if i is not None}
    return {
        "type": "TemplateProcessing",
        "single": text("A", 0),
        "pair": [*text("A", 0), *text("B", 1)],
        "special_tokens": {
            name: {"id": name, "ids": [number], "tokens": [name]} for name, number in used.items()
        },
    }
