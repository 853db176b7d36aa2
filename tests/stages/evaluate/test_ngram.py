"""Kneser-Ney: against a naive implementation from the definitions, sums to one, known values."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from math import log2

import numpy as np
import pytest

from whorl.core.errors import DataError
from whorl.stages.evaluate.ngram import KneserNey

Gram = tuple[int, ...]


class Naive:
    """Chen and Goodman's definitions over Python dictionaries; slow and plain."""

    def __init__(self, pieces: Sequence[Sequence[int]], num_targets: int, order: int) -> None:
        self.num_targets, self.order = num_targets, order
        self.counts: list[dict[Gram, int]] = []
        for size in range(1, order + 1):
            raw: Counter[Gram] = Counter()
            left: dict[Gram, set[object]] = defaultdict(set)
            for number, piece in enumerate(pieces):
                for start in range(len(piece) - size + 1):
                    gram = tuple(piece[start : start + size])
                    raw[gram] += start > 0 or size > 1  # a beginning is never predicted
                    if start > 0:
                        left[gram].add(piece[start - 1])
                    elif size > 1:
                        left[gram].add(("beginning", number))
            adjusted = {gram: len(before) for gram, before in left.items()}
            self.counts.append(dict(raw) if size == order else adjusted)
        self.discounts = [self._discounts(list(counts.values())) for counts in self.counts]

    @staticmethod
    def _discounts(values: list[int]) -> list[float]:
        n = [0, *(values.count(number) for number in (1, 2, 3, 4))]
        fallback = [0.0, 0.5, 1.0, 1.5]
        if not (n[1] and n[2] and n[3]):
            return fallback
        y = n[1] / (n[1] + 2 * n[2])
        found = [0.0] + [i - (i + 1) * y * n[i + 1] / n[i] for i in (1, 2, 3)]
        return found if all(0 < found[i] <= i for i in (1, 2, 3)) else fallback

    def probability(self, context: Gram, token: int) -> float:
        return self._at(context[-(self.order - 1) :] if self.order > 1 else (), token)

    def _at(self, context: Gram, token: int) -> float:
        counts, discounts = self.counts[len(context)], self.discounts[len(context)]
        following = {g[-1]: c for g, c in counts.items() if g[:-1] == context}
        lower = self._at(context[1:], token) if context else 1 / self.num_targets
        total = sum(following.values())
        if not total:
            return lower
        kept = sum(discounts[min(count, 3)] for count in following.values())
        count = following.get(token, 0)
        return (count - discounts[min(count, 3)]) / total + kept / total * lower


def stream(pieces: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    ids = np.array([token for piece in pieces for token in piece], np.int64)
    starts = np.zeros(len(ids), np.bool_)
    starts[np.cumsum([0, *(len(piece) for piece in pieces[:-1])])] = True
    return ids, starts


def pieces_of(seed: int, count: int, length: int, vocab_size: int) -> list[list[int]]:
    """Pieces with structure: each id follows from the one before, with noise; 0 begins most."""
    rng = np.random.default_rng(seed)
    pieces = []
    for number in range(count):
        piece = [0 if number % 4 else int(rng.integers(1, vocab_size))]
        for _ in range(int(rng.integers(1, length))):
            step = rng.choice([1, 2, int(rng.integers(1, vocab_size))], p=[0.6, 0.3, 0.1])
            piece.append(1 + (piece[-1] + int(step)) % (vocab_size - 1))
        pieces.append(piece)
    return pieces


@pytest.mark.parametrize("order", [1, 2, 3, 5])
@pytest.mark.parametrize("seed", [0, 1])
def test_equals_the_naive_implementation(order: int, seed: int) -> None:
    vocab_size = 9
    train = pieces_of(seed, 25, 30, vocab_size)
    test = pieces_of(seed + 100, 6, 20, vocab_size)
    model = KneserNey.fit(*stream(train), vocab_size, vocab_size - 1, order)
    naive = Naive(train, vocab_size - 1, order)
    found = model.bits(*stream(test))
    expected = [
        0.0 if at == 0 else -log2(naive.probability(tuple(piece[:at]), piece[at]))
        for piece in test
        for at in range(len(piece))
    ]
    assert found == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("order", [1, 2, 5])
def test_probabilities_sum_to_one_after_any_context(order: int) -> None:
    vocab_size = 9
    model = KneserNey.fit(*stream(pieces_of(3, 30, 30, vocab_size)), vocab_size, 8, order)
    contexts = [[0], [5], [0, 1], [1, 2, 3, 4], [8, 8, 8, 8], [0, 3, 3, 1, 2, 3]]
    for context in contexts:
        tails = [[*context, token] for token in range(1, vocab_size)]
        bits = model.bits(*stream(tails)).reshape(len(tails), -1)[:, -1]
        assert (2.0**-bits).sum() == pytest.approx(1.0, abs=1e-12)


def test_learns_what_repeats_and_long_contexts_help() -> None:
    train, test = pieces_of(5, 400, 60, 30), pieces_of(6, 40, 60, 30)
    per_token = {}
    for order in (1, 2, 3):
        bits = KneserNey.fit(*stream(train), 30, 29, order).bits(*stream(test))
        per_token[order] = bits.sum() / sum(len(piece) - 1 for piece in test)
    assert per_token[2] < per_token[1] - 1.0 and per_token[1] < log2(29) + 0.01
    assert per_token[3] < per_token[2] + 0.1
    verbatim = [[0, *np.random.default_rng(7).integers(1, 30, 50).tolist()]]
    model = KneserNey.fit(*stream(verbatim * 3), 30, 29, 5)
    assert model.bits(*stream(verbatim)).sum() / 50 < 0.3


def test_pieces_shorter_than_the_order_and_too_little_text() -> None:
    model = KneserNey.fit(*stream([[0, 1], [0, 2], [0]]), 4, 3, 5)
    assert np.isfinite(model.bits(*stream([[0, 1, 2, 3, 1, 2]]))).all()
    with pytest.raises(DataError, match="text"):
        KneserNey.fit(*stream([[0], [0]]), 4, 3)
    with pytest.raises(DataError, match="begin"):
        KneserNey.fit(np.array([1, 2]), np.array([False, True]), 4, 3)
