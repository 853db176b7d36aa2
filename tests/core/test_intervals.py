"""Intervals: against closed forms, coverage by simulation, and the cases without an interval."""

from __future__ import annotations

import os

import numpy as np
import pytest

from whorl.core.errors import SpecError
from whorl.core.intervals import interval_of, on_documents, paired_interval, score_of
from whorl.core.metrics import ACCURACY, BITS_PER_BYTE, CHRF, Metric
from whorl.core.ports import QualityMeasure

TRIALS = float(os.environ.get("WHORL_TRIALS", "1"))


def measure(numerator: np.ndarray, denominator: np.ndarray, metric: Metric = BITS_PER_BYTE):
    names = tuple(str(i) for i in range(len(numerator)))
    return QualityMeasure(metric, names, numerator, denominator)


def test_mean_of_many_documents_has_the_normal_interval() -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(2.0, 0.5, 2000)
    found = interval_of(measure(values, np.ones(2000)), samples=4000)
    half = 1.96 * values.std(ddof=1) / np.sqrt(2000)
    assert found.value == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - half, abs=half * 0.1)
    assert found.high == pytest.approx(values.mean() + half, abs=half * 0.1)


def test_coverage_of_a_ratio_is_near_95_percent() -> None:
    rng = np.random.default_rng(2)
    trials = int(200 * TRIALS)
    hits = 0
    for trial in range(trials):
        sizes = rng.lognormal(8, 0.7, 60)
        bits = sizes * rng.normal(1.3, 0.2, 60)  # true ratio 1.3
        found = interval_of(measure(bits, sizes), samples=400, seed=trial)
        assert found.low is not None and found.high is not None
        hits += found.low <= 1.3 <= found.high
    assert 0.88 <= hits / trials <= 0.99


def test_same_seed_same_interval_and_other_seed_another() -> None:
    values = np.arange(30.0)
    one = interval_of(measure(values, np.ones(30)), seed=3)
    assert one == interval_of(measure(values, np.ones(30)), seed=3)
    assert one != interval_of(measure(values, np.ones(30)), seed=4)


def test_unanimous_answers_have_the_exact_binomial_interval() -> None:
    found = interval_of(measure(np.ones(360), np.ones(360), ACCURACY))
    assert found.value == 1.0 and found.high == 1.0
    assert found.low == pytest.approx(0.025 ** (1 / 360))  # closed form for n of n right
    none = interval_of(measure(np.zeros(10), np.ones(10), ACCURACY))
    assert (none.value, none.low) == (0.0, 0.0)
    assert none.high == pytest.approx(1 - 0.025**0.1)


def test_one_document_has_no_interval_and_none_is_refused() -> None:
    one = interval_of(measure(np.array([3.0]), np.array([2.0])))
    assert (one.value, one.low, one.high) == (1.5, None, None)
    with pytest.raises(SpecError, match="lengths"):
        interval_of(measure(np.zeros(0), np.zeros(0)))
    with pytest.raises(SpecError, match="lengths"):
        interval_of(measure(np.zeros(2), np.zeros(3)))


def test_identical_documents_give_a_point() -> None:
    found = interval_of(measure(np.full(20, 3.0), np.full(20, 2.0)))
    assert found.value == found.low == found.high == 1.5


def test_pairing_removes_what_documents_share() -> None:
    rng = np.random.default_rng(5)
    sizes = rng.integers(500, 5000, 200).astype(float)
    hardness = rng.normal(1.3, 0.4, 200)
    parent = measure(sizes * hardness, sizes)
    child = measure(sizes * (hardness + 0.01 + rng.normal(0, 0.002, 200)), sizes)
    paired = paired_interval(child, parent)
    assert paired.low is not None and paired.high is not None
    assert paired.low <= 0.01 <= paired.high and paired.high - paired.low < 0.002
    alone = interval_of(child)
    assert alone.low is not None and alone.high is not None
    assert alone.high - alone.low > 20 * (paired.high - paired.low)
    share = paired_interval(child, parent, relative=True)
    assert share.value == pytest.approx(child.value / parent.value - 1)


def test_a_model_equals_itself() -> None:
    values = np.arange(1.0, 21.0)
    found = paired_interval(measure(values, np.ones(20)), measure(values, np.ones(20)))
    assert found.value == found.low == found.high == 0.0


def test_other_documents_or_metrics_cannot_be_paired() -> None:
    one = measure(np.ones(3), np.ones(3))
    with pytest.raises(SpecError, match="paired"):
        paired_interval(one, measure(np.ones(4), np.ones(4)))
    with pytest.raises(SpecError, match="paired"):
        paired_interval(one, measure(np.ones(3), np.ones(3), ACCURACY))


def test_score_carries_name_metric_and_count() -> None:
    score = score_of("a model", measure(np.arange(1.0, 5.0), np.ones(4)), note="n")
    assert (score.name, score.metric, score.value) == ("a model", BITS_PER_BYTE, 2.5)
    assert (score.num_documents, score.note) == (4, "n")
    assert score.low is not None and score.low < 2.5


def test_a_measure_of_some_documents_is_that_of_their_numbers() -> None:
    """Whatever their order; a document that was not measured gives none."""
    rng = np.random.default_rng(0)
    names = tuple(f"d{number}" for number in range(9))
    for metric, shapes in ((ACCURACY, [(9,), (9,)]), (CHRF, [(12, 9), (6, 9)])):
        numbers = [rng.uniform(1, 2, shape) for shape in shapes]
        whole = QualityMeasure(metric, names, *numbers)
        mine = on_documents(whole, ("d7", "d2"))
        assert mine is not None and mine.document_names == ("d7", "d2")
        alone = QualityMeasure(metric, ("d7", "d2"), *(each[..., [7, 2]] for each in numbers))
        assert mine.value == alone.value
        assert on_documents(whole, names) is whole
        assert on_documents(whole, ("d1", "x")) is None
