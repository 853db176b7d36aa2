"""The order of training rows: a pure function of (seed, step), the same for any layout.

A balanced Feistel network with a splitmix64 round function and cycle walking permutes the row
numbers of each epoch, so that any position costs O(1) and resuming needs one integer.

Positions count rows from the start of training. Everything here is a pure function of its
arguments, vectorised over positions.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from whorl.core.errors import DataError

__all__ = ["I64", "check_step", "key_of", "permute", "rows_of_step", "splitmix64"]

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


def key_of(seed: int, *parts: I64) -> U64:
    """A 64-bit key per element from the seed and non-negative integers."""
    key = splitmix64(np.array([(seed * GOLDEN + 1) & MASK64], np.uint64))
    for part in parts:
        key = splitmix64(key + (part.astype(np.uint64) + np.uint64(1)) * np.uint64(GOLDEN))
    return key


def rows_of_step(step: int, rows_per_step: int, num_rows: int, seed: int) -> I64:
    """Row numbers of the global batch of a step: int64 [rows_per_step].

    Every epoch is a new order in which each row appears once. Raises DataError on no rows.
    """
    check_step(step, rows_per_step, num_rows)
    positions = np.arange(step * rows_per_step, (step + 1) * rows_per_step, dtype=np.int64)
    epochs = positions // num_rows
    return permute(positions - epochs * num_rows, num_rows, key_of(seed, epochs))


def check_step(step: int, rows_per_step: int, num_rows: int) -> None:
    """Raises DataError on a negative step, or no rows."""
    if step < 0 or rows_per_step < 1 or num_rows < 1:
        raise DataError(
            "there is no such batch",
            found=f"step {step}, {rows_per_step} rows per step, {num_rows} rows",
            expected="a step from 0, at least one row per step and one row in all",
        )
