"""xz baselines: the stream's parts sum to what xz itself writes; training text helps."""

from __future__ import annotations

import lzma
import random

import numpy as np
import pytest

from whorl.core.ports import Document, Part
from whorl.fields.compressors import condition_text, stream_bytes, xz_baselines
from whorl.testing.corpus import tiny_texts

PRESET = 9 | lzma.PRESET_EXTREME
XZ_FRAME_BYTES = 100  # header, block header, index and checks of a small .xz file, at most


def document(text: str, number: int = 0) -> Document:
    return Document(f"d{number}", (Part("text", text),))


def test_a_stream_costs_what_xz_writes() -> None:
    texts = [text.encode() for text in tiny_texts(120)]
    found = stream_bytes(b"", texts)
    assert len(found) == 120 and (found >= 0).all()
    xz_bytes = len(lzma.compress(b"".join(texts), preset=PRESET))
    assert found.sum() == pytest.approx(xz_bytes, abs=XZ_FRAME_BYTES)
    assert found.sum() <= xz_bytes


def test_after_other_text_it_is_the_difference_of_two_files() -> None:
    before = "".join(tiny_texts(200, seed=1)).encode()
    texts = [text.encode() for text in tiny_texts(60, seed=2)]
    found = stream_bytes(before, texts).sum()
    whole = len(lzma.compress(before + b"".join(texts), preset=PRESET))
    difference = whole - len(lzma.compress(before, preset=PRESET))
    assert found == pytest.approx(difference, abs=XZ_FRAME_BYTES / 2)


def test_each_document_is_charged_its_own_cost() -> None:
    rng = random.Random(0)
    before = rng.randbytes(100_000)
    copy, fresh = before[20_000:60_000], rng.randbytes(40_000)
    found = stream_bytes(before, [copy, fresh, copy])
    assert found[0] < 1_000 and found[2] < 1_000
    assert found[1] == pytest.approx(40_000, rel=0.03)


def test_baselines_in_order_of_what_they_may_see() -> None:
    train = [document(text) for text in tiny_texts(300, seed=3)]
    held = [document(text, number) for number, text in enumerate(tiny_texts(20, seed=4))]
    alone, stream, after = xz_baselines(train, held)
    assert alone.value > stream.value > after.value
    assert "each document alone" in alone.name and "training text" in after.name
    num_bytes = [len((one.text or "").encode()) for one in held]
    for score in (alone, stream, after):
        assert score.low is not None and score.high is not None
        assert score.low < score.value < score.high
        assert score.measure is not None and score.measure.denominator.tolist() == num_bytes
    alone_bytes = [
        len(lzma.compress((one.text or "").encode(), preset=PRESET)) - XZ_FRAME_BYTES
        for one in held
    ]
    assert alone.measure is not None
    assert (alone.measure.numerator / 8 > np.array(alone_bytes)).all()


def test_no_training_text_or_no_text() -> None:
    held = [document("some text that is scored", number) for number in range(3)]
    assert len(xz_baselines([], held)) == 2
    picture = Document("p", (Part("image", np.zeros((2, 2))),))
    assert xz_baselines([], [picture]) == [] and xz_baselines([], []) == []


def test_condition_text_is_cut_and_repeatable() -> None:
    train = [document(text) for text in tiny_texts(50)]
    found = condition_text(train, 5_000)
    assert len(found) == 5_000 and found == condition_text(train, 5_000)
    assert len(condition_text(train)) == sum(len((d.text or "").encode()) for d in train)
