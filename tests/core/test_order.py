"""The order of rows: permutations per epoch, well mixed, the same for any layout."""

from __future__ import annotations

import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whorl.core.errors import DataError
from whorl.core.order import permute, rows_of_step, splitmix64

TRIALS = int(float(os.environ.get("WHORL_TRIALS", "1")) * 50)
sizes = st.integers(1, 3000)
seeds = st.integers(0, 2**63)


def test_splitmix64_gives_the_published_sequence() -> None:
    """First outputs of splitmix64 seeded with 1234567, as listed on Rosetta Code."""
    golden = 0x9E3779B97F4A7C15
    states = np.array([(1234567 + golden * n) % 2**64 for n in (1, 2, 3, 4, 5)], np.uint64)
    expected = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    assert splitmix64(states).tolist() == expected


@settings(max_examples=TRIALS)
@given(sizes, seeds)
def test_permute_is_a_permutation(size: int, key: int) -> None:
    found = permute(np.arange(size), size, np.array([key], np.uint64))
    assert sorted(found.tolist()) == list(range(size))


@settings(max_examples=TRIALS)
@given(st.integers(1, 300), st.integers(20, 50), seeds)
def test_each_epoch_has_every_row_once(num_rows: int, rows_per_step: int, seed: int) -> None:
    steps = -(-3 * num_rows // rows_per_step)
    rows = np.concatenate([rows_of_step(s, rows_per_step, num_rows, seed) for s in range(steps)])
    for epoch in range(3):
        part = rows[epoch * num_rows : (epoch + 1) * num_rows]
        assert sorted(part.tolist()) == list(range(num_rows))


def test_epochs_and_seeds_differ() -> None:
    first = rows_of_step(0, 1000, 1000, seed=0)
    assert not np.array_equal(first, rows_of_step(1, 1000, 1000, seed=0))
    assert not np.array_equal(first, rows_of_step(0, 1000, 1000, seed=1))
    np.testing.assert_array_equal(first, rows_of_step(0, 1000, 1000, seed=0))


def test_the_order_never_changes() -> None:
    """A change would silently give every resumed run other data: raise logic versions with it."""
    assert rows_of_step(0, 8, 1000, 0).tolist() == [283, 593, 296, 569, 544, 144, 977, 236]
    expected = [11067983, 117145690, 42569986, 92867183]
    assert rows_of_step(10**7, 4, 123_456_789, 7).tolist() == expected


@pytest.mark.parametrize("num_rows", [1000, 1024, 4097, 100_003])
def test_low_bits_are_shuffled(num_rows: int) -> None:
    """Parity of the row against parity of the position: about half agree, within five sigma."""
    rows = rows_of_step(0, num_rows, num_rows, seed=3)
    for shift in range(4):
        agree = float(np.mean((rows >> shift & 1) == (np.arange(num_rows) >> shift & 1)))
        assert abs(agree - 0.5) < 2.5 / np.sqrt(num_rows)


def test_places_and_neighbours_are_uniform() -> None:
    """Chi-square over 16 x 16 cells of (place, row) and over the distance of neighbours."""
    num_rows = 65_536
    rows = rows_of_step(0, num_rows, num_rows, seed=5)
    cells = np.bincount((np.arange(num_rows) * 16 // num_rows) * 16 + rows * 16 // num_rows)
    expected = num_rows / 256
    assert float(((cells - expected) ** 2 / expected).sum()) < 225 + 6 * np.sqrt(2 * 225)
    distances = np.bincount((np.diff(rows) % num_rows) * 64 // num_rows, minlength=64)
    expected = (num_rows - 1) / 64
    assert float(((distances - expected) ** 2 / expected).sum()) < 63 + 6 * np.sqrt(2 * 63)


def test_every_small_order_occurs() -> None:
    """All 24 orders of four rows over many epochs, none more than twice as often as expected."""
    epochs = 4800
    rows = rows_of_step(0, 4 * epochs, 4, seed=1).reshape(epochs, 4)
    orders, counts = np.unique(rows, axis=0, return_counts=True)
    assert len(orders) == 24 and counts.max() < 2 * epochs / 24


@pytest.mark.parametrize("arguments", [(-1, 1, 1), (0, 0, 1), (0, 1, 0)])
def test_impossible_batches_are_refused(arguments: tuple[int, int, int]) -> None:
    with pytest.raises(DataError, match="no such batch"):
        rows_of_step(*arguments, seed=0)
