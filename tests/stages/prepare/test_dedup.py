"""Duplicates against brute force over all pairs."""

from __future__ import annotations

import os
import random

import numpy as np
import pytest

from tests.stages.prepare.prose import CHINESE, ENGLISH
from tests.stages.prepare.test_shingles import edited, windows
from whorl.core.digests import digest_bytes
from whorl.stages.prepare.dedup import Duplicates, find_duplicates
from whorl.stages.prepare.shingles import distinct_windows, sketch

TRIALS = int(float(os.environ.get("WHORL_TRIALS", "1")) * 6)


def find(texts: list[str], preferred: list[bool] | None = None, limit: float = 0.8) -> Duplicates:
    data = [text.encode() for text in texts]
    sketches = sketch(data)
    digests = b"".join(bytes.fromhex(digest_bytes(d)) for d in data)
    return find_duplicates(
        np.frombuffer(digests, np.dtype((np.void, 32))),
        sketches.bands,
        sketches.has_windows,
        np.array(preferred or [False] * len(texts), np.bool_),
        limit,
        lambda number: distinct_windows(data[number]),
    )


def brute_force(texts: list[str], limit: float) -> list[bool]:
    """First in order stays; a later one goes if it equals or is alike to one that stays."""
    sets = [set(windows(text.encode())) for text in texts]
    kept: list[int] = []
    gone = []
    for number, text in enumerate(texts):
        alike = any(
            text == texts[other]
            or (
                sets[number] | sets[other]
                and len(sets[number] & sets[other]) / len(sets[number] | sets[other]) >= limit
            )
            for other in kept
        )
        gone.append(alike)
        if not alike:
            kept.append(number)
    return gone


@pytest.mark.parametrize("seed", range(TRIALS))
def test_what_goes_is_what_brute_force_says(seed: int) -> None:
    """No document goes wrongly, and of planted copies at most one in twenty is missed."""
    chooser = random.Random(seed)
    texts = list(chooser.choices([*CHINESE, *ENGLISH, "tiny", ""], k=14))
    texts += [
        edited(text, chooser.choice([1, 1, 2, 8]), seed + n)
        for n, text in enumerate(texts)
        if len(text) > 9
    ]
    chooser.shuffle(texts)
    result = find(texts)
    gone = (result.exact | result.near).tolist()
    expected = brute_force(texts, 0.8)
    assert not (result.exact & result.near).any()
    wrongly = [n for n, (a, b) in enumerate(zip(gone, expected, strict=True)) if a and not b]
    missed = [n for n, (a, b) in enumerate(zip(gone, expected, strict=True)) if b and not a]
    assert not wrongly and len(missed) <= max(1, sum(expected) // 20)


def test_planted_copies_are_found() -> None:
    texts = [*CHINESE, *ENGLISH]
    copies = [edited(text, 1, seed) for seed, text in enumerate(texts)]
    result = find(texts + copies + texts)
    first, second, third = (range(k * len(texts), (k + 1) * len(texts)) for k in range(3))
    assert not result.exact[list(first)].any() and not result.near[list(first)].any()
    assert result.near[list(second)].all() and result.exact[list(third)].all()
    assert result.copies == {len(texts) + n: n for n in first}
    assert result.pairs_verified == len(texts)


def test_alike_but_not_enough_stays() -> None:
    """Candidates that meet in a band are refused by the true likeness."""
    texts = [ENGLISH[0], edited(ENGLISH[0], 3, 1)]
    assert not find(texts, limit=0.95).near.any() and find(texts, limit=0.4).near[1]
    assert find(texts, limit=0.95).pairs_refused == 1


def test_preferred_documents_stay() -> None:
    """A held-out document that comes later wins over the copies before it."""
    texts = [ENGLISH[0], edited(ENGLISH[1], 1, 0), "tiny", ENGLISH[0], ENGLISH[1], "tiny"]
    result = find(texts, [False, False, False, True, True, True])
    assert result.exact.tolist() == [True, False, True, False, False, False]
    assert result.near.tolist() == [False, True, False, False, False, False]


def test_many_copies_of_one_text() -> None:
    """A large cluster costs one comparison each, not one per pair."""
    texts = [edited(CHINESE[0] * 2, 1, seed) for seed in range(300)]
    result = find(texts)
    assert not result.near[0] and (result.near | result.exact).sum() >= 297
    assert result.pairs_verified + result.pairs_refused < 600


def test_nothing_in_nothing_out() -> None:
    result = find([])
    assert result.exact.shape == (0,) and result.near.shape == (0,)
