"""Failure rates against the figures their authors published, and against scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from whorl.core.errors import SpecError
from whorl.stages.plan.whole_job.failures import (
    FailureFact,
    FailureRate,
    expected_rate,
    failure_facts,
    poisson_interval,
)

FACTS = {fact.name: fact for fact in failure_facts()}
POOLED = [fact for fact in failure_facts() if fact.pooled and fact.kind == "gpu"]


def test_llama_3_failed_every_three_hours() -> None:
    fact = FACTS["Llama 3 405B"]
    assert fact.device_hours == 16_384 * 54 * 24
    assert 1 / (fact.per_device_hour * 16_384) == pytest.approx(54 * 24 / 419)  # 3.1 hours


@pytest.mark.parametrize(("gpus", "hours"), [(16_384, 1.8), (131_072, 0.23)])
def test_rsc_1_gives_the_published_time_between_failures(gpus: int, hours: float) -> None:
    assert 1 / (FACTS["RSC-1"].per_device_hour * gpus) == pytest.approx(hours, rel=0.03)


def test_rates_of_nodes_are_those_published() -> None:
    per_thousand_node_days = {
        name: FACTS[name].per_device_hour * 8 * 24 * 1000 for name in ("RSC-1", "RSC-2")
    }
    assert per_thousand_node_days == pytest.approx({"RSC-1": 6.50, "RSC-2": 2.34}, rel=1e-3)
    weekly = FACTS["BLOOM"].per_device_hour * 384 * 7 * 24
    assert 1 <= weekly <= 2
    assert FACTS["Imbue 70B"].per_device_hour * 8 * 7 * 24 == pytest.approx(0.03, rel=0.05)
    opt = FACTS["OPT-175B"]
    assert opt.failures == 35 + 70 and opt.device_hours == 992 * 60 * 24


@pytest.mark.parametrize("failures", [1, 4, 15, 25, 105, 419, 3385])
@pytest.mark.parametrize("coverage", [0.8, 0.9, 0.99])
def test_poisson_interval_is_garwoods(failures: int, coverage: float) -> None:
    tail = (1 - coverage) / 2
    exact = (
        stats.chi2.ppf(tail, 2 * failures) / 2,
        stats.chi2.ppf(1 - tail, 2 * failures + 2) / 2,
    )
    rel, absolute = (5e-3 if failures >= 15 else 0.06, 0) if failures >= 4 else (0, 0.05)
    assert poisson_interval(failures, coverage) == pytest.approx(exact, rel=rel, abs=absolute)


def test_no_failure_has_an_upper_bound_only() -> None:
    low, high = poisson_interval(0, 0.9)
    assert low == 0 and high == pytest.approx(-np.log(0.05), rel=0.02)


def test_rate_of_a_new_cluster_covers_clusters_left_out() -> None:
    covered = 0
    for left_out in POOLED:
        rate = expected_rate("gpu", [fact for fact in POOLED if fact is not left_out])
        covered += rate.low <= left_out.per_device_hour <= rate.high
    assert len(POOLED) >= 6 and covered >= len(POOLED) - 1


def test_pooled_rate_lies_among_the_published_and_explains_llama_3() -> None:
    rate = expected_rate("gpu")
    rates = sorted(fact.per_device_hour for fact in POOLED)
    assert rates[0] < rate.per_device_hour < rates[-1]
    assert rate.low * 16_384 * 54 * 24 < 419 < rate.high * 16_384 * 54 * 24
    assert expected_rate("tpu") == rate  # no counts of their own are published
    assert expected_rate("cpu").high < rate.per_device_hour


def test_interval_covers_new_clusters_of_a_made_up_world() -> None:
    rng = np.random.default_rng(7)
    covered, trials = 0, 400
    for _ in range(trials):
        rates = 3e-5 * np.exp(0.5 * rng.standard_normal(7))
        counts = rng.poisson(rates * 5e6)
        facts = [_fact(int(count), 5e6) for count in counts[:6]]
        rate = expected_rate("gpu", facts)
        covered += rate.low <= rates[6] <= rate.high
    assert 0.82 * trials < covered < 0.97 * trials


def test_one_fact_has_its_poisson_interval() -> None:
    fact = _fact(100, 1e6)
    rate = expected_rate("gpu", [fact])
    assert (rate.low * 1e6, rate.high * 1e6) == pytest.approx(poisson_interval(100))
    assert rate.per_device_hour == 1e-4


def test_nonsense_is_refused() -> None:
    with pytest.raises(SpecError, match="no failure counts"):
        expected_rate("abacus")
    with pytest.raises(SpecError, match="count"):
        poisson_interval(-1)
    with pytest.raises(SpecError, match="failures per device"):
        FailureRate(-1e-6, 0.0, 0.0)
    with pytest.raises(SpecError, match="failures per device"):
        FailureRate(1e-5, 2e-5, 3e-5)


def _fact(failures: int, device_hours: float) -> FailureFact:
    return FailureFact("made up", "gpu", "x", failures, device_hours, True, "", "")
