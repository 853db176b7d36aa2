"""The split: a share by content, never nothing on either side."""

from __future__ import annotations

import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.stages.prepare.prose import CHINESE, ENGLISH
from whorl.core.errors import DataError
from whorl.core.ports import Document, Part
from whorl.stages.prepare import split
from whorl.stages.prepare.split import (
    CUT,
    HELDOUT,
    TRAIN,
    SourceDocuments,
    choose_heldout,
    cut_document,
    split_hashes,
)

TRIALS = int(float(os.environ.get("WHORL_TRIALS", "1")) * 60)


def documents(num_bytes: list[int], seed: int = 0) -> SourceDocuments:
    hashes = np.random.default_rng(seed).random(len(num_bytes))
    return SourceDocuments(hashes, np.array(num_bytes, np.int64))


def test_hashes_are_uniform_and_depend_on_the_seed() -> None:
    digests = np.random.default_rng(0).integers(0, 256, (4000, 32)).astype(np.uint8)
    hashes = split_hashes(digests, seed=0)
    counts = np.histogram(hashes, bins=10, range=(0, 1))[0]
    assert counts.sum() == 4000 and abs(counts - 400).max() < 5 * 20
    assert not np.array_equal(hashes, split_hashes(digests, seed=1))
    np.testing.assert_array_equal(hashes[::-1], split_hashes(digests[::-1], seed=0))


def test_a_large_source_is_split_by_hash_alone() -> None:
    source = documents([1000] * 5000)
    found = choose_heldout(source, 0.05, wanted_bytes=4000, single_text=False)
    np.testing.assert_array_equal(found == HELDOUT, source.hashes < 0.05)


@settings(max_examples=TRIALS)
@given(
    st.lists(st.integers(1, 10**6), min_size=2, max_size=30),
    st.floats(0, 1),
    st.integers(0, 10**6),
    st.integers(0, 99),
)
def test_both_sides_have_documents(
    num_bytes: list[int], share: float, wanted_bytes: int, seed: int
) -> None:
    found = choose_heldout(documents(num_bytes, seed), share, wanted_bytes, False)
    assert (found == TRAIN).any() and (found == HELDOUT).any()
    assert ((found == TRAIN) | (found == HELDOUT)).all()


@settings(max_examples=TRIALS)
@given(st.lists(st.integers(1, 10**6), min_size=2, max_size=30), st.integers(0, 99))
def test_extra_documents_leave_most_to_train_on(num_bytes: list[int], seed: int) -> None:
    """Of what is held out to fill a row: at most 30% of the bytes, or else the one smallest."""
    found = choose_heldout(documents(num_bytes, seed), 0.0, 10**9, False)
    held = [n for n, action in zip(num_bytes, found, strict=True) if action == HELDOUT]
    assert sum(held) <= 0.3 * sum(num_bytes) or held == [min(num_bytes)]


def test_extra_documents_fill_a_validation_row() -> None:
    found = choose_heldout(documents([100] * 20), 0.05, wanted_bytes=450, single_text=False)
    assert (found == HELDOUT).sum() == 5


def test_a_huge_source_holds_out_no_more_than_is_useful(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(split, "MAX_HELDOUT_BYTES", 50_000)
    found = choose_heldout(documents([1000] * 5000), 0.2, 0, False)
    assert 25 < (found == HELDOUT).sum() < 80


def test_a_single_text_is_cut_and_a_single_other_refused() -> None:
    assert choose_heldout(documents([5]), 0.05, 9, single_text=True).tolist() == [CUT]
    with pytest.raises(DataError, match="one usable document"):
        choose_heldout(documents([5]), 0.05, 9, single_text=False)


@settings(max_examples=TRIALS)
@given(st.text(min_size=2), st.floats(0, 3))
def test_a_cut_text_joins_to_itself(text: str, share: float) -> None:
    first, last = cut_document(Document("x", (Part("text", text),)), share)
    assert first.text and last.text and first.text + last.text == text
    assert first.name == "x" and last.name != "x"


@pytest.mark.parametrize("text", ["\n".join(ENGLISH), " ".join(ENGLISH), CHINESE[0], CHINESE[1]])
def test_cuts_fall_on_ends(text: str) -> None:
    first, last = cut_document(Document("x", (Part("text", text),)), 0.1)
    assert first.text is not None and last.text is not None
    assert first.text[-1] in "\n.。！？!?" and len(last.text) < 0.5 * len(text)
