"""An n-gram model to compare with: interpolated modified Kneser-Ney, in numpy.

Chen and Goodman 1998, section 3: three discounts per order from counts of counts; below the
highest order a gram counts its distinct left neighbours, and one that begins a piece of text
counts that beginning as a neighbour of its own (for <|bos|> that is the usual rule). The unigram
is interpolated with the uniform distribution.

No maintained Python package estimates such a model (kenlm only queries, nltk takes hours), so
grams of each order are numbered by sorting (number of the prefix gram, last token) pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from whorl.core.errors import DataError

__all__ = ["ORDER", "KneserNey"]

ORDER = 5
FALLBACK_DISCOUNTS = (0.5, 1.0, 1.5)  # where counts of counts give none; as in KenLM

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class _Level:
    """Grams of one order. A gram's number is its place in `keys`; of order 1, its id."""

    keys: Ints  # [grams] number of the prefix gram * vocab_size + last id, ascending
    share: Floats  # [grams] discounted count over the count of its context
    backoff: Floats  # [contexts] what the context leaves to the order below; 1 if never seen


@dataclass(frozen=True)
class KneserNey:
    vocab_size: int
    num_targets: int
    levels: tuple[_Level, ...]  # order 1 first

    @classmethod
    def fit(
        cls,
        ids: Ints,
        starts: NDArray[np.bool_],
        vocab_size: int,
        num_targets: int,
        order: int = ORDER,
    ) -> KneserNey:
        """From a stream of ids [n]; starts [n]: a piece begins there, which is only context.

        num_targets: how many of the ids may be predicted. Raises DataError on too little text.
        """
        depth = _depth(starts)
        if not (depth > 0).any():
            raise DataError("an n-gram model needs text", found=f"{len(ids)} tokens")
        grams, keys = ids.astype(np.int64), np.arange(vocab_size, dtype=np.int64)
        levels: list[_Level] = []
        num_contexts = 1
        for size in range(1, order + 1):
            at = np.flatnonzero(depth >= size)  # where a gram of the next size ends
            if size == order or not len(at):
                counts = np.bincount(grams[depth >= max(1, size - 1)], minlength=len(keys))
                levels.append(_level(keys // vocab_size, keys, counts, num_contexts))
                break
            longer = grams[at - 1] * vocab_size + ids[at]
            longer_keys, number = np.unique(longer, return_inverse=True)
            place = np.empty(len(longer_keys), np.int64)
            place[number] = at  # any place of each longer gram: what it ends with is the same
            counts = np.bincount(grams[place], minlength=len(keys))
            if size > 1:
                counts += np.bincount(grams[depth == size - 1], minlength=len(keys))
            levels.append(_level(keys // vocab_size, keys, counts, num_contexts))
            num_contexts = len(keys)
            keys = longer_keys
            grams = np.full(len(ids), -1, np.int64)
            grams[at] = number
        return cls(vocab_size, num_targets, tuple(levels))

    def bits(self, ids: Ints, starts: NDArray[np.bool_]) -> Floats:
        """-log2 of each id's probability given what precedes it in its piece; 0 at starts."""
        depth = _depth(starts)
        first = self.levels[0]
        probability = first.share[ids] + first.backoff[0] / self.num_targets
        grams = ids.astype(np.int64)
        for size, level in enumerate(self.levels[1:], start=2):
            context = np.full(len(ids), -1, np.int64)
            context[1:] = grams[:-1]
            context[depth < size - 1] = -1
            at = np.flatnonzero(context >= 0)
            keys = context[at] * self.vocab_size + ids[at]
            place = np.minimum(np.searchsorted(level.keys, keys), len(level.keys) - 1)
            known = level.keys[place] == keys
            share = np.where(known, level.share[place], 0.0)
            probability[at] = share + level.backoff[context[at]] * probability[at]
            grams = np.full(len(ids), -1, np.int64)
            grams[at[known]] = place[known]
        probability[starts] = 1.0
        return np.asarray(-np.log2(probability))


def _depth(starts: NDArray[np.bool_]) -> Ints:
    """How many ids of the same piece come before each position."""
    if len(starts) and not starts[0]:
        raise DataError("the first id must begin a piece")
    positions = np.arange(len(starts), dtype=np.int64)
    return positions - np.maximum.accumulate(np.where(starts, positions, 0))


def _level(context: Ints, keys: Ints, counts: Ints, num_contexts: int) -> _Level:
    """Discount the counts. context [grams]: number of each gram's prefix; 0 for single ids."""
    discounts = np.array([0.0, *_discounts(counts)])
    class_of = np.minimum(counts, 3)
    total = np.bincount(context, weights=counts, minlength=num_contexts)
    left = np.bincount(context, weights=discounts[class_of], minlength=num_contexts)
    seen = np.maximum(total, 1.0)
    backoff = np.where(total > 0, left / seen, 1.0)
    return _Level(keys, (counts - discounts[class_of]) / seen[context], backoff)


def _discounts(counts: Ints) -> tuple[float, float, float]:
    """D1, D2, D3+ from how many grams occur 1, 2, 3 and 4 times (Chen and Goodman, eq. 26)."""
    once, twice, thrice, four = (int((counts == number).sum()) for number in (1, 2, 3, 4))
    if not (once and twice and thrice):
        return FALLBACK_DISCOUNTS
    share = once / (once + 2 * twice)
    found = (
        1 - 2 * share * twice / once,
        2 - 3 * share * thrice / twice,
        3 - 4 * share * four / thrice,
    )
    if any(not 0 < discount <= number for number, discount in enumerate(found, start=1)):
        return FALLBACK_DISCOUNTS
    return found
