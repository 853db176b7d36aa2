"""The order of training rows: a pure function of (seed, step), the same for any layout.

A balanced Feistel network with a splitmix64 round function and cycle walking permutes the row
numbers of each epoch, so that any position costs O(1) and resuming needs one integer.

Positions count rows from the start of training. Everything here is a pure function of its
arguments, vectorised over positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from whorl.core.errors import DataError

__all__ = ["Mixture", "permute", "rank_slice", "rows_of_step", "splitmix64"]

GOLDEN = 0x9E3779B97F4A7C15  # 2**64 / golden ratio, the increment of splitmix64
MASK64 = 2**64 - 1
ROUNDS = 6
MIN_HALF_BITS = 2  # a domain of at least 16 values, however few rows there are

U64 = NDArray[np.uint64]
I64 = NDArray[np.int64]


def splitmix64(values: U64) -> U64:
    """The output function of splitmix64: a bijection of 64-bit words that mixes every bit.

    Source: Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014.
    """
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def permute(index: I64, size: int, key: U64) -> I64:
    """Where a keyed permutation of 0..size-1 sends each index.

    index: int64 [n], each in 0..size-1; key: uint64 [n] or [1]. Equal keys make one permutation.
    """
    half_bits = max(MIN_HALF_BITS, ((size - 1).bit_length() + 1) // 2)
    keys = np.broadcast_to(key, index.shape)
    values = _feistel(index.astype(np.uint64), keys, half_bits)
    outside = np.flatnonzero(values >= np.uint64(size))
    while outside.size:  # cycle walking: at most 4 rounds on average, 16/size for tiny sizes
        walked = _feistel(values[outside], keys[outside], half_bits)
        values[outside] = walked
        outside = outside[walked >= np.uint64(size)]
    return values.astype(np.int64)


def _feistel(values: U64, keys: U64, half_bits: int) -> U64:
    """A bijection of 0..4**half_bits-1."""
    shift, mask = np.uint64(half_bits), np.uint64(2**half_bits - 1)
    left, right = values >> shift, values & mask
    for number in range(ROUNDS):
        round_key = splitmix64(keys + np.uint64((number + 1) * GOLDEN & MASK64))
        left, right = right, left ^ (splitmix64(right + round_key) & mask)
    return (left << shift) | right


def _key(seed: int, *parts: I64) -> U64:
    """A 64-bit key per element from the seed and non-negative integers."""
    key = splitmix64(np.array([(seed * GOLDEN + 1) & MASK64], np.uint64))
    for part in parts:
        key = splitmix64(key + (part.astype(np.uint64) + np.uint64(1)) * np.uint64(GOLDEN))
    return key


def rows_of_step(step: int, rows_per_step: int, num_rows: int, seed: int) -> I64:
    """Row numbers of the global batch of a step: int64 [rows_per_step].

    Every epoch is a new order in which each row appears once. Raises DataError on no rows.
    """
    _check(step, rows_per_step, num_rows)
    positions = np.arange(step * rows_per_step, (step + 1) * rows_per_step, dtype=np.int64)
    epochs = positions // num_rows
    return permute(positions - epochs * num_rows, num_rows, _key(seed, epochs))


def _check(step: int, rows_per_step: int, num_rows: int) -> None:
    if step < 0 or rows_per_step < 1 or num_rows < 1:
        raise DataError(
            "there is no such batch",
            found=f"step {step}, {rows_per_step} rows per step, {num_rows} rows",
            expected="a step from 0, at least one row per step and one row in all",
        )


def rank_slice(num_rows: int, rank: int, world_size: int) -> slice:
    """The part of a global batch that one rank takes; the parts of all ranks join to the whole."""
    if not 0 <= rank < world_size:
        raise DataError(f"rank {rank} of {world_size} does not exist", expected="0 <= rank < world")
    return slice(num_rows * rank // world_size, num_rows * (rank + 1) // world_size)


@dataclass(frozen=True)
class Mixture:
    """Sources mixed by integer weights: of sum(weights) rows in a row, each has its weight.

    The places of the sources within such a cycle are permuted anew in each cycle, and each
    source goes through its own epochs.
    """

    num_rows: Sequence[int]  # per source
    weights: Sequence[int]  # per source, at least 1
    seed: int

    def order(self, positions: I64) -> tuple[I64, I64, I64]:
        """(source, epoch of that source, row within the source), each int64 [n].

        Raises DataError on a source without rows or a weight below 1.
        """
        self._check()
        weights = np.asarray(self.weights, np.int64)
        ends = np.cumsum(weights)
        total = int(ends[-1])
        cycles = positions // total
        slots = permute(positions - cycles * total, total, _key(self.seed, cycles))
        source = np.searchsorted(ends, slots, side="right").astype(np.int64)
        ordinal = cycles * weights[source] + slots - (ends - weights)[source]
        epoch, row = np.empty_like(ordinal), np.empty_like(ordinal)
        for number, count in enumerate(self.num_rows):
            here = np.flatnonzero(source == number)
            epoch[here] = ordinal[here] // count
            key = _key(self.seed, source[here], epoch[here])
            row[here] = permute(ordinal[here] % count, count, key)
        return source, epoch, row

    def rows_of_step(self, step: int, rows_per_step: int) -> I64:
        """Row numbers of a step's global batch, the sources' rows numbered one after another."""
        _check(step, rows_per_step, sum(self.num_rows))
        first = np.concatenate([[0], np.cumsum(np.asarray(self.num_rows, np.int64))])
        positions = np.arange(step * rows_per_step, (step + 1) * rows_per_step, dtype=np.int64)
        source, _, row = self.order(positions)
        return np.asarray(first[source] + row, np.int64)

    def _check(self) -> None:
        if (
            not self.num_rows
            or len(self.num_rows) != len(self.weights)
            or min(self.num_rows) < 1
            or min(self.weights) < 1
        ):
            raise DataError(
                "a mixture needs rows and a weight for each source",
                found=f"rows {list(self.num_rows)}, weights {list(self.weights)}",
                expected="one of each per source, all at least 1",
            )
