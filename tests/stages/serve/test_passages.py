"""Cut documents against their texts: with a tokenizer of single bytes places can be counted."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whorl.codecs.contract import Tokens
from whorl.codecs.text import train_text_codec
from whorl.core.heldout import HeldoutDocuments
from whorl.core.ports import Document, Part
from whorl.stages.serve.exercise import ServedAnswer
from whorl.stages.serve.passages import continue_passages, cut_place, last_lines, passages_of
from whorl.testing.corpus import tiny_texts, tiny_tokens

BYTES = Tokens.build({"text": train_text_codec(["a"], 256)}, 16 + 256)  # one token per byte


def ids_of(text: str, tokens: Tokens = BYTES) -> list[int]:
    return tokens.encode_document(Document("d", (Part("text", text),)))[0]


def heldout(texts: Sequence[str], tokens: Tokens, are_text: bool = True) -> HeldoutDocuments:
    documents = [ids_of(text, tokens) for text in texts]
    return HeldoutDocuments(
        tuple(f"document of {len(text)}" for text in texts),
        ("text",) * len(texts),
        np.cumsum([0, *(len(ids) for ids in documents)]),
        np.array([i for ids in documents for i in ids], np.int32),
        np.ones(sum(map(len, documents)), np.bool_),
        np.array([len(text.encode()) * are_text for text in texts], np.int64),
    )


@given(st.text("a漢é🎉 \t\n", min_size=8, max_size=300))
def test_the_cut_is_at_the_line_end_nearest_to_the_middle(text: str) -> None:
    ids = ids_of(text)[:-1]  # <|bos|> and the text's bytes
    data = BYTES.decode(ids).encode()
    cut = cut_place(ids, BYTES)
    quarter, middle = len(ids) // 4, len(ids) // 2
    ends = [at + 2 for at, byte in enumerate(data) if byte == ord("\n")]  # <|bos|> stands before
    inside = [end for end in ends if max(1, quarter) <= end <= len(ids) - quarter]
    if inside:
        assert cut in inside
        assert abs(cut - middle) == min(abs(end - middle) for end in inside)
    else:
        data[: cut - 1].decode()  # raises where a character is cut in two
        data[cut - 1 :].decode()
        assert abs(cut - middle) <= 2  # a character has at most four bytes


def test_prompt_and_truth_stand_side_by_side_in_the_document() -> None:
    tokens = tiny_tokens()
    texts = ["\n".join(tiny_texts(20, seed)) for seed in range(5)]
    passages = passages_of(heldout(texts, tokens), tokens)
    assert len(passages) == 3 and len({passage.document for passage in passages}) == 3
    for passage in passages:
        (text,) = (text for text in texts if passage.document == f"document of {len(text)}")
        prompt, truth = tokens.decode(passage.prompt_ids), tokens.decode(passage.truth_ids)
        assert len(passage.prompt_ids) == 96 and len(passage.truth_ids) == 64
        assert prompt.endswith("\n") and text.count(prompt + truth) == 1
        assert 0.3 < (text.index(prompt + truth) + len(prompt)) / len(text) < 0.7


def test_the_order_on_disk_does_not_matter_and_long_documents_come_first() -> None:
    words = ["short"] + [f"{n} " * n for n in (9, 10, 11, 12)] + [f"{n} " * n for n in (200, 300)]
    chosen = set()
    for seed in range(5):
        random.Random(seed).shuffle(words)
        passages = passages_of(heldout(words, BYTES), BYTES)
        chosen.add(tuple(passage.document for passage in passages))
    ((first, second, third),) = chosen
    assert {first, second} == {"document of 800", "document of 1200"}
    assert third not in (first, second, "document of 5")


def test_what_is_not_text_or_too_short_is_not_cut() -> None:
    assert passages_of(heldout(["word " * 200], BYTES, are_text=False), BYTES) == []
    assert passages_of(heldout(["13 bytes long"], BYTES), BYTES) == []  # 15 tokens with its ends
    (passage,) = passages_of(heldout(["fourteen bytes"], BYTES), BYTES)
    assert BYTES.decode([*passage.prompt_ids, *passage.truth_ids]) == "fourteen bytes"
    assert BYTES.contract.end_ids[0] not in passage.truth_ids
    assert passages_of(heldout([], BYTES), BYTES) == []


@pytest.mark.parametrize("context_tokens", [2, 3, 16, 64, 127, 128, 160, 2048])
def test_any_context_is_enough_and_the_truth_is_as_long_as_the_answer(context_tokens: int) -> None:
    text = "".join(f"{number}: 漢字 is written here\n" for number in range(60))
    passages = passages_of(heldout([text], BYTES), BYTES)
    asked: list[tuple[int, int, int]] = []

    def complete(prompt: Sequence[int], max_tokens: int, number: int) -> ServedAnswer:
        asked.append((len(prompt), max_tokens, number))
        assert not BYTES.decode(prompt).startswith("\ufffd")
        return ServedAnswer("answer", "stop", min(4, max_tokens), 0.0, 0.0, 0.0)

    (row,) = continue_passages(passages, BYTES, context_tokens, 64, complete)
    ((num_prompt, max_tokens, number),) = asked
    assert num_prompt >= 1 and max_tokens >= 1 and number == 0
    assert num_prompt + max_tokens <= context_tokens
    if context_tokens >= 160:
        assert max_tokens == 64 and 93 <= num_prompt <= 96  # less a cut character
    assert row["completion"] == "answer"
    assert len(row["truth"]) == min(4, max_tokens)  # ASCII there: a byte each
    assert (row["prompt"] + row["truth"]) in text
    assert row["document"] == f"document of {len(text)}"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("", ""),
        ("one", "one"),
        ("a\nb\nc", "b\nc"),
        ("a\nb\nc\n", "b\nc\n"),
        ("a\n\n\n", "\n\n"),
        ("page\x0cbreak\nb\n", "page\x0cbreak\nb\n"),
    ],
)
def test_last_lines(text: str, shown: str) -> None:
    assert last_lines(text, 2) == shown
