"""Tokenizers in GGUF facts against the tokenizers they were written from, and transformers' own."""

from __future__ import annotations

import json
import random
from itertools import pairwise
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from tests.codecs.open_tokenizers import fuzzed_text
from tests.model.gguf_files import text_facts
from whorl.codecs.gguf_tokens import gguf_tokenizer_files, read_gguf_tokens
from whorl.core.errors import DataError
from whorl.testing.corpus import tiny_texts, tiny_tokens

GPT4_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN_PATTERN = GPT4_PATTERN.replace("{1,3}", "")


def _isolated(pattern: str) -> Any:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


# How the published tokenizers of these rules split text.
RULES = {
    "gpt-2": pre_tokenizers.ByteLevel(add_prefix_space=False),
    "smollm": pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    ),
    "llama-bpe": _isolated(GPT4_PATTERN),
    "qwen2": _isolated(QWEN_PATTERN),
}
TEXTS = [
    *tiny_texts(3, seed=9),
    "In 1969, 384400 km away; don't PANIC at 3.14159!\n\n\tdef f(x): return x**2  # 007\r\n",
    "naïve 东京 12345678 👩‍🚀 x²",
]


def trained(rule: str) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(ignore_merges=rule == "llama-bpe"))
    tokenizer.pre_tokenizer = RULES[rule]
    tokenizer.decoder = decoders.ByteLevel()
    if rule == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        show_progress=False,
        special_tokens=["<|end|>", "<|start|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator([*tiny_texts(30), "1234567890 12 345 6789 0123"] * 2, trainer)
    return tokenizer


def facts_of(tokenizer: Tokenizer, rule: str) -> dict[str, Any]:
    value = json.loads(tokenizer.to_str())
    texts = sorted(value["model"]["vocab"], key=value["model"]["vocab"].__getitem__)
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": rule,
        "tokenizer.ggml.tokens": texts,
        "tokenizer.ggml.token_type": [3 if text.startswith("<|") else 1 for text in texts],
        "tokenizer.ggml.merges": [" ".join(merge) for merge in value["model"]["merges"]],
        "tokenizer.ggml.eos_token_id": 0,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.add_bos_token": False,
    }


@pytest.mark.parametrize("rule", RULES)
def test_ids_are_those_of_the_tokenizer_written(rule: str) -> None:
    tokenizer = trained(rule)
    tokens = read_gguf_tokens(facts_of(tokenizer, rule), 600)
    chooser = random.Random(3)
    for text in [*TEXTS, *(fuzzed_text(chooser, []) for _ in range(60))]:
        ids = tokens.encode_prompt(text)
        assert ids == tokenizer.encode(text, add_special_tokens=False).ids, text
        if rule != "qwen2":
            assert tokens.decode(ids) == text
    assert tokens.contract.stop_ids == (0,)
    assert tokens.contract.special == {"<|end|>": 0, "<|start|>": 1}


def test_smollm_splits_digits_one_by_one() -> None:
    tokens = read_gguf_tokens(facts_of(trained("smollm"), "smollm"), 600)
    ids = tokens.encode_prompt("1969 and 384,400")
    pieces = [tokens.decode([i]) for i in ids]
    assert [piece for piece in pieces if piece.strip().isdigit()] == [*"1969", *"384", *"400"]


def test_whorls_own_tokenizer_comes_back() -> None:
    """Special ids in front, a start id, the template, what ends answers."""
    ours = tiny_tokens(512)
    found = read_gguf_tokens(text_facts(ours), 512)
    chat = {"messages": [{"role": "user", "content": "A shell? <|eos|>"}]}
    for text in TEXTS:
        assert found.encode_prompt(text) == ours.encode_prompt(text)
    assert found.encode_chat(chat, ask=True)[0].tolist() == ours.encode_chat(chat, True)[0].tolist()
    assert found.contract.id_of("eos_token") == ours.contract.id_of("eos_token")


@pytest.mark.parametrize("starts", [True, False, None])
def test_whether_a_text_begins_with_bos(starts: bool | None) -> None:
    """As the file says; without a word, Llama 3's begin, the others do not."""
    for rule in ("llama-bpe", "smollm"):
        facts = facts_of(trained(rule), rule)
        del facts["tokenizer.ggml.add_bos_token"]
        if starts is not None:
            facts["tokenizer.ggml.add_bos_token"] = starts
        expected = rule == "llama-bpe" if starts is None else starts
        tokens = read_gguf_tokens(facts, 600)
        assert tokens.contract.start_ids == ((1,) if expected else ()), rule


def sentencepiece_facts() -> dict[str, Any]:
    """Pieces of a tiny corpus, frequent and long ones scored best, with tokens of all bytes."""
    words = [f"▁{word}" for text in tiny_texts(20) for word in text.split()]
    pieces = sorted({word[:end] for word in words for end in range(1, len(word) + 1)})
    pieces += sorted({word[start:] for word in words for start in range(1, len(word))} - {*pieces})
    chars = sorted({char for piece in pieces for char in piece} - {*pieces})
    ordered = [*sorted(pieces, key=lambda p: (-len(p), p)), *chars]
    texts = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), *ordered]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": texts,
        "tokenizer.ggml.scores": [0.0] * 259 + [-float(i) for i in range(len(ordered))],
        "tokenizer.ggml.token_type": [2, 3, 3, *[6] * 256, *[1] * len(ordered)],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
    }


def joined_by_score(text: str, facts: dict[str, Any]) -> list[int]:
    """llama.cpp's rule, by brute force: join the pair whose piece scores best, leftmost first."""
    ids = {piece: i for i, piece in enumerate(facts["tokenizer.ggml.tokens"])}
    scores = facts["tokenizer.ggml.scores"]
    parts = list("▁" + text.replace(" ", "▁"))
    while True:
        pairs = [
            (-scores[ids[a + b]], at) for at, (a, b) in enumerate(pairwise(parts)) if a + b in ids
        ]
        if not pairs:
            break
        _, at = min(pairs)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    found: list[int] = []
    for part in parts:
        if part in ids:
            found.append(ids[part])
        else:
            found += [ids[f"<0x{byte:02X}>"] for byte in part.encode()]
    return found


def test_sentencepiece_joins_by_score_and_falls_back_to_bytes() -> None:
    facts = sentencepiece_facts()
    tokens = read_gguf_tokens(facts, len(facts["tokenizer.ggml.tokens"]))
    for text in [*TEXTS, " two  spaces "]:
        words = text.replace("\n", " ")
        assert tokens.encode_prompt(words) == [1, *joined_by_score(words, facts)], words
        assert tokens.decode(tokens.encode_prompt(words)[1:]) == words


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "another kind": ({"tokenizer.ggml.model": "t5"}, "t5"),
    "another rule": ({"tokenizer.ggml.pre": "chameleon"}, "chameleon"),
    "no tokens": ({"tokenizer.ggml.tokens": []}, "tokens is missing"),
    "tokens that are none": ({"tokenizer.ggml.tokens": [1, 2]}, "not a list"),
    "kinds of others": ({"tokenizer.ggml.token_type": [1]}, "token_type"),
    "an id beyond": ({"tokenizer.ggml.eos_token_id": 10**6}, "eos_token_id"),
    "no pairs": ({"tokenizer.ggml.merges": ["ab"]}, "no pair"),
    "a flag that is none": ({"tokenizer.ggml.add_bos_token": "yes"}, "add_bos_token"),
}


@pytest.mark.parametrize("name", BAD)
def test_facts_that_do_not_fit_are_named(name: str) -> None:
    changes, message = BAD[name]
    facts = facts_of(trained("gpt-2"), "gpt-2") | changes
    with pytest.raises(DataError, match=message):
        gguf_tokenizer_files(facts)


def test_one_text_twice_is_refused() -> None:
    facts = facts_of(trained("gpt-2"), "gpt-2")
    facts["tokenizer.ggml.tokens"][-1] = facts["tokenizer.ggml.tokens"][-2]
    with pytest.raises(DataError, match="2 times"):
        gguf_tokenizer_files(facts)


def test_unused_ids_are_no_text() -> None:
    facts = facts_of(trained("gpt-2"), "gpt-2")
    facts["tokenizer.ggml.tokens"] += ["[PAD600]", "[PAD600]"]
    facts["tokenizer.ggml.token_type"] += [5, 5]
    tokens = read_gguf_tokens(facts, 640)
    assert tokens.contract.vocab_size == 640
    assert "[PAD600]" not in tokens.contract.special
    assert tokens.decode(tokens.encode_prompt("[PAD600]")) == "[PAD600]"
