"""Sources mixed by shares of the trained tokens: a pure function of (seed, step), as the order is.

Each source goes through its own epochs, permuted anew each time. A row that begins after C and has
c trained tokens of its source gets the key (C + c / 2) / share; training takes all rows in the
order of their keys. So at every row of k sources, each has its share of the tokens trained so far
to within (1 + share * (k - 2)) / 2 rows: half a row of two sources, less than one of three.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from whorl.core.errors import DataError, SpecError
from whorl.core.order import I64, check_step, key_of, permute

__all__ = ["Mixture", "check_repeats"]

CACHED_EPOCHS = 2  # of each source

F64 = NDArray[np.float64]


@dataclass(frozen=True)
class _Epoch:
    """The rows of one epoch of a source as they are drawn; keys never fall."""

    rows: I64
    keys: F64


@dataclass(frozen=True)
class Mixture:
    """tokens: of each source, the trained tokens of each row; shares: more than 0, together 1.

    Raises DataError on a source without trained tokens or shares that do not fit.
    """

    tokens: Sequence[I64]
    shares: Sequence[float]
    seed: int
    _totals: list[int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_totals", [int(tokens.sum()) for tokens in self.tokens])
        if (
            len(self.tokens) != len(self.shares)
            or min(self._totals, default=0) < 1
            or min(self.shares) <= 0
            or abs(sum(self.shares) - 1) > 1e-6
        ):
            raise DataError(
                "a mixture needs trained tokens and a share of each source",
                found=f"tokens {self._totals}, shares {list(self.shares)}",
                expected="at least one token each, and shares above 0 that add up to 1",
            )

    def rows_of_step(self, step: int, rows_per_step: int) -> I64:
        """Row numbers of a step's global batch, the sources' rows numbered one after another."""
        check_step(step, rows_per_step, len(self.tokens))
        before = self.drawn(step * rows_per_step)
        after = self.drawn((step + 1) * rows_per_step)
        rows, keys, first = [], [], 0
        for source, tokens in enumerate(self.tokens):
            begin, end = int(before[source]), int(after[source])
            for number in range(begin // len(tokens), -(-end // len(tokens))):
                epoch = self._epochs(source, number)
                start = number * len(tokens)
                part = slice(max(0, begin - start), max(0, end - start))
                rows.append(first + epoch.rows[part])
                keys.append(epoch.keys[part])
            first += len(tokens)
        in_order = np.argsort(np.concatenate(keys), kind="stable")
        return np.asarray(np.concatenate(rows)[in_order], np.int64)

    def drawn(self, num_rows: int) -> I64:
        """How many of the first num_rows rows are of each source: int64 [sources]."""
        rates = [
            share * len(tokens) / total
            for share, tokens, total in zip(self.shares, self.tokens, self._totals, strict=True)
        ]
        middle = num_rows / sum(rates)  # where the key would be if all rows were equal
        reach = 1.0
        low, high = middle - reach, middle + reach
        while self._counts(low).sum() > num_rows or self._counts(high).sum() < num_rows:
            reach *= 4
            low, high = middle - reach, middle + reach
        while (middle := low + (high - low) / 2) not in (low, high):
            counts = self._counts(middle)
            if counts.sum() == num_rows:
                return counts
            low, high = (middle, high) if counts.sum() < num_rows else (low, middle)
        counts = self._counts(low)
        for source, upper in enumerate(self._counts(high).tolist()):  # rows of equal keys
            counts[source] += min(upper - counts[source], num_rows - counts.sum())
        return counts

    def epochs(self, num_rows: int) -> list[float]:
        """How often each source has been seen after the first num_rows rows."""
        drawn = self.drawn(num_rows).tolist()
        return [count / len(part) for count, part in zip(drawn, self.tokens, strict=True)]

    def _counts(self, key: float) -> I64:
        """Rows of each source whose key is at most this."""
        counts = []
        for source, (share, total) in enumerate(zip(self.shares, self._totals, strict=True)):
            number = max(0, int(key * share / total))
            while (number + 1) * total / share <= key:
                number += 1
            while number and number * total / share > key:
                number -= 1
            inside = np.searchsorted(self._epochs(source, number).keys, key, side="right")
            counts.append(number * len(self.tokens[source]) + int(inside))
        return np.array(counts, np.int64)

    @functools.cached_property
    def _epochs(self) -> functools._lru_cache_wrapper[_Epoch]:
        return functools.lru_cache(CACHED_EPOCHS * len(self.tokens))(self._epoch)

    def _epoch(self, source: int, number: int) -> _Epoch:
        tokens = self.tokens[source]
        key = key_of(self.seed, np.array([source]), np.array([number]))
        rows = permute(np.arange(len(tokens)), len(tokens), key)
        drawn = tokens[rows]
        middles = 2 * (np.cumsum(drawn) - drawn) + drawn + 2 * number * self._totals[source]
        return _Epoch(rows, middles / (2 * self.shares[source]))


def check_repeats(epochs: Sequence[float], fields: Sequence[str], max_repeats: float) -> None:
    """Raises SpecError naming a source that is seen more often than it may be.

    epochs: of each source of a recipe, in the whole of training; fields: their fields' names.
    """
    for number, (found, name) in enumerate(zip(epochs, fields, strict=True)):
        if found > max_repeats:
            raise SpecError(
                f"data.{number} (field {name}) is too small for its share",
                found=f"{found:.1f} epochs of it in training",
                expected=f"at most {max_repeats:g} (train.max_repeats)",
                do="lower its share, add to it, train on fewer tokens, or raise train.max_repeats",
            )
