"""Mixtures by share: counted row by row, against shares and epochs."""

from __future__ import annotations

import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whorl.core.errors import DataError, SpecError
from whorl.core.mixture import Mixture, check_repeats

TRIALS = int(float(os.environ.get("WHORL_TRIALS", "1")) * 60)
WIDTH = 32  # most trained tokens of a row

counts = st.lists(st.integers(0, WIDTH), min_size=1, max_size=40).filter(any)
mixtures = st.lists(st.tuples(counts, st.integers(1, 40)), min_size=2, max_size=7)


def mixture_of(sources: list[tuple[list[int], int]], seed: int = 0) -> Mixture:
    total = sum(weight for _, weight in sources)
    tokens = [np.array(rows, np.int64) for rows, _ in sources]
    return Mixture(tokens, [weight / total for _, weight in sources], seed)


def walk(mixture: Mixture, steps: int, rows_per_step: int) -> list[tuple[int, int]]:
    """(source, row of the source) of every row of a run, from the row numbers alone."""
    firsts = np.cumsum([0, *(len(tokens) for tokens in mixture.tokens)])
    found = []
    for step in range(steps):
        for row in mixture.rows_of_step(step, rows_per_step).tolist():
            source = int(np.searchsorted(firsts, row, side="right")) - 1
            found.append((source, row - int(firsts[source])))
    return found


@settings(max_examples=TRIALS)
@given(mixtures, st.integers(1, 17), st.integers(0, 2**63))
def test_shares_hold_at_every_row_and_epochs_are_whole(
    sources: list[tuple[list[int], int]], rows_per_step: int, seed: int
) -> None:
    mixture = mixture_of(sources, seed)
    trained = [0] * len(sources)
    seen: list[list[int]] = [[] for _ in sources]
    for source, row in walk(mixture, 200 // rows_per_step, rows_per_step):
        trained[source] += sources[source][0][row]
        seen[source].append(row)
        total = sum(trained)
        for number, share in enumerate(mixture.shares):
            others = share * (len(sources) - 2)
            bound = WIDTH / 2 * (1 + others)
            assert abs(trained[number] - share * total) <= bound + 1e-6
    for number, rows in enumerate(seen):
        size = len(sources[number][0])
        for start in range(0, len(rows) - size + 1, size):
            assert sorted(rows[start : start + size]) == list(range(size))
        assert len(rows) == mixture.drawn(200 // rows_per_step * rows_per_step)[number]


@pytest.mark.parametrize("shares", [(0.8, 0.2), (0.999, 0.001), (0.5, 0.3, 0.2), (0.25,) * 4])
def test_a_whole_run_has_each_share_to_one_row(shares: tuple[float, ...]) -> None:
    """Ten thousand steps of rows whose trained tokens differ as those of answers do."""
    rng = np.random.default_rng(0)
    tokens = [rng.integers(0, 513, 50_000 // (n + 1)) for n in range(len(shares))]
    mixture = Mixture(tokens, shares, seed=3)
    numbers = np.concatenate([mixture.rows_of_step(step, 100) for step in range(1000)])
    every = np.concatenate(tokens)
    owner = np.repeat(np.arange(len(tokens)), [len(part) for part in tokens])
    trained = np.bincount(owner[numbers], weights=every[numbers], minlength=len(tokens))
    assert np.all(np.abs(trained - np.array(shares) * trained.sum()) <= 512)


@settings(max_examples=TRIALS)
@given(mixtures, st.integers(0, 400), st.integers(1, 9))
def test_any_step_is_known_without_the_steps_before(
    sources: list[tuple[list[int], int]], step: int, rows_per_step: int
) -> None:
    fresh = mixture_of(sources).rows_of_step(step, rows_per_step)
    used = mixture_of(sources)
    for before in range(step - 3, step + 2):
        if before >= 0:
            used.rows_of_step(before, rows_per_step)
    np.testing.assert_array_equal(used.rows_of_step(step, rows_per_step), fresh)
    by_one = [mixture_of(sources).rows_of_step(n, 1) for n in range(12)]
    np.testing.assert_array_equal(np.concatenate(by_one), used.rows_of_step(0, 12))


def test_seeds_and_epochs_are_permuted_anew() -> None:
    sources = [([3] * 30, 1), ([5] * 30, 1)]
    first, other = (walk(mixture_of(sources, seed), 20, 6) for seed in (0, 1))
    assert first != other
    drawn = [row for source, row in first if source == 0]
    assert drawn[:30] != drawn[30:] and drawn[:30] != sorted(drawn[:30])


def test_a_late_step_of_a_huge_run() -> None:
    tokens = [np.full(1000, 500), np.full(77, 300)]
    mixture = Mixture(tokens, [0.75, 0.25], seed=0)
    rows = mixture.rows_of_step(10**9, 64)
    assert len(rows) == 64 and 0 < int((rows >= 1000).sum()) < 64
    drawn = mixture.drawn(64 * 10**9)
    assert drawn.sum() == 64 * 10**9
    trained = drawn * np.array([500, 300])
    assert abs(int(trained[0]) - 0.75 * int(trained.sum())) <= 250.5


@pytest.mark.parametrize(
    ("tokens", "shares"),
    [([], []), ([[1]], [0.5]), ([[0], [1]], [0.5, 0.5]), ([[1], [1]], [1.0, 0.0]), ([[1]], [])],
)
def test_impossible_mixtures_are_refused(tokens: list[list[int]], shares: list[float]) -> None:
    with pytest.raises(DataError, match="a mixture needs"):
        Mixture([np.array(part, np.int64) for part in tokens], shares, 0)


def test_too_many_repeats_are_refused_by_name() -> None:
    check_repeats([4.0, 3.9], ["text", "chat"], 4.0)
    with pytest.raises(SpecError, match=r"data.1 \(field chat\).*9.6 epochs.*at most 9.5"):
        check_repeats([4.0, 9.6], ["text", "chat"], 9.5)
