"""Intervals and shares of time against a simulated job and a solved chain of small time steps."""

from __future__ import annotations

import numpy as np
import pytest

from whorl.core.errors import SpecError
from whorl.stages.plan.whole_job.checkpoints import daly_interval_s, time_shares, young_interval_s

# mtbf, interval, stall, restart, write: seconds
CASES = [
    (3600, 600, 30, 300, 0),
    (7200, 900, 5, 600, 400),
    (600, 300, 60, 200, 0),
    (600, 100, 2, 100, 90),
    (100_000, 3000, 120, 900, 0),
]


@pytest.mark.parametrize(("mtbf", "interval", "stall", "restart", "write"), CASES)
def test_shares_are_those_of_a_simulated_job(
    mtbf: float, interval: float, stall: float, restart: float, write: float
) -> None:
    shares = time_shares(mtbf, interval, stall, restart, write)
    useful, restarting, failures_per_mtbf = _simulate(mtbf, interval, stall, restart, write)
    assert failures_per_mtbf == pytest.approx(1, rel=0.03)  # the simulation is what it should be
    assert shares.useful == pytest.approx(useful, rel=0.02)
    assert shares.restart == pytest.approx(restarting, rel=0.05)
    assert shares.checkpoint == pytest.approx(useful * stall / interval, rel=0.02)
    total = shares.useful + shares.checkpoint + shares.lost + shares.restart
    assert total == pytest.approx(1) and min(shares.lost, shares.restart) > 0


@pytest.mark.parametrize(("mtbf", "stall", "restart"), [(3600, 30, 300), (600, 60, 100)])
def test_daly_finds_the_optimum_of_the_chain(mtbf: float, stall: float, restart: float) -> None:
    grid = np.geomspace(0.2, 5, 81) * young_interval_s(stall, mtbf)
    efficiency = [_chain(mtbf, interval, stall, restart) for interval in grid]
    best = int(np.argmax(efficiency))
    daly_s, young_s = daly_interval_s(stall, mtbf), young_interval_s(stall, mtbf)
    assert daly_s == pytest.approx(grid[best], rel=0.05)
    assert _chain(mtbf, daly_s, stall, restart) > 0.9995 * efficiency[best]
    assert 0.97 * efficiency[best] < _chain(mtbf, young_s, stall, restart)
    shares = time_shares(mtbf, daly_s, stall, restart)
    assert shares.useful == pytest.approx(efficiency[best], rel=0.01)


def test_young_is_the_limit_of_rare_failures() -> None:
    for stall_s in (0.1, 10.0):
        young_s, daly_s = young_interval_s(stall_s, 1e9), daly_interval_s(stall_s, 1e9)
        assert daly_s == pytest.approx(young_s, rel=1e-3)
    # Young's own case, by hand: 2 x 50 s x 20,000 s = 1,414² s²
    assert young_interval_s(50, 20_000) == pytest.approx(1414.2, rel=1e-4)


def test_daly_gives_up_when_a_checkpoint_outlasts_two_failures() -> None:
    assert daly_interval_s(300, 100) == 100


def test_bloom_lost_half_an_interval_per_failure() -> None:
    # "We were saving a checkpoint every 3h ... on average we would lose 1.5h" (tr11 chronicles);
    # 1.5 failures a week
    mtbf_s = 7 * 86_400 / 1.5
    shares = time_shares(mtbf_s, 3 * 3600, 40, 1800)
    lost_h = shares.lost * mtbf_s * np.exp(1800 / mtbf_s) / 3600
    assert lost_h == pytest.approx(1.5, rel=0.02)


def test_expected_effective_time_of_kokolis() -> None:
    # arXiv 2410.21680: (1 - n r (u + interval / 2)) / (1 + write / interval), losses small
    failures_per_s, restart_s, interval_s, stall_s = 2048 * 6.5e-3 / 86_400, 60, 300, 5
    published = (1 - failures_per_s * (restart_s + interval_s / 2)) / (1 + stall_s / interval_s)
    shares = time_shares(1 / failures_per_s, interval_s, stall_s, restart_s)
    assert shares.useful == pytest.approx(published, rel=0.005)


def test_hopeless_jobs_have_no_useful_share() -> None:
    assert time_shares(1, 10_000, 10, 10).useful == 0
    assert time_shares(1, 1, 1, 10_000).restart == 1
    assert time_shares(10, 100, 10, 10).useful < 1e-3


@pytest.mark.parametrize(
    "arguments",
    [(0, 1, 1, 1), (-1, 1, 1, 1), (1, 0, 1, 1), (1, 1, -1, 1), (1, 1, 1, -1), (9, 1, 1, 1, -1)],
)
def test_nonsense_is_refused(arguments: tuple[float, ...]) -> None:
    with pytest.raises(SpecError):
        time_shares(*arguments)


def test_overlapping_checkpoints_are_refused() -> None:
    with pytest.raises(SpecError, match="before the last one is written"):
        time_shares(3600, 60, 1, 10, write_s=120)
    for function in (young_interval_s, daly_interval_s):
        with pytest.raises(SpecError, match="stall_s"):
            function(0, 3600)
        with pytest.raises(SpecError, match="mtbf_s"):
            function(10, float("nan"))


def _simulate(
    mtbf: float, interval: float, stall: float, restart: float, write: float
) -> tuple[float, float, float]:
    """(useful, restarting, failures x mtbf / time) of a job that sees 20,000 failures."""
    rng = np.random.default_rng(11)
    now = saved = restarting = failures = 0.0
    gaps = iter(rng.exponential(mtbf, 400_000))
    for _ in range(20_000):
        start, failure = now, now + next(gaps)
        clock, count = start, 0
        while clock + interval + stall + write <= failure:  # segment by segment
            clock += interval + stall
            count += 1
        saved += count
        now, failures = failure, failures + 1
        while True:  # restarts may fail too
            gap = next(gaps)
            if gap >= restart:
                now, restarting = now + restart, restarting + restart
                break
            now, restarting, failures = now + gap, restarting + gap, failures + 1
    return saved * interval / now, restarting / now, failures * mtbf / now


def _chain(mtbf: float, interval: float, stall: float, restart: float, tick: float = 0.5) -> float:
    """Useful share of a job of small time steps, each of which fails with the same chance.

    Expected ticks to the end of a segment from each tick in it: x_i = 1 + (1-p) x_(i+1) +
    p (restart + x_0), solved backwards as a + b x_0. A failing restart begins anew.
    """
    chance = -np.expm1(-tick / mtbf)

    def expected(ticks: int, after_failure: float) -> float:
        constant, factor = 0.0, 0.0  # of x_0
        for _ in range(ticks):
            constant = 1 + (1 - chance) * constant + chance * after_failure
            factor = (1 - chance) * factor + chance
        return constant / (1 - factor)

    restart_ticks = expected(round(restart / tick), 0.0)
    segment = expected(round((interval + stall) / tick), restart_ticks)
    return round(interval / tick) / segment
