"""Fits against truth that is known, scipy, and published figures; held-out points of families."""

from __future__ import annotations

import csv
import math
from importlib import resources

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import minimize

from whorl.core.errors import DataError
from whorl.stages.plan.laws.allocate import step_law
from whorl.stages.plan.laws.fit import EXACT, FEW_POINTS, Points, fit_constants, fit_law
from whorl.stages.plan.laws.law import log_loss

Array = NDArray[np.float64]


def rows(family: str) -> list[dict[str, str]]:
    path = resources.files("whorl.stages.plan") / "published" / "scaling_points.csv"
    found = csv.DictReader(path.read_text("utf-8").splitlines())
    return [row for row in found if row["family"] == family]


def points_of(family: str) -> Points:
    kept = [row for row in rows(family) if not row["left_out"]]
    return Points.of(*([float(row[key]) for row in kept] for key in ("params", "tokens", "loss")))


def truth(params: Array, tokens: Array) -> Array:
    """An independent generator: plain sums of powers."""
    return np.asarray(1.7 + 350 * params**-0.32 + 900 * tokens**-0.34)


def grid(noise: float = 0.0, seed: int = 0) -> Points:
    params = np.repeat(np.geomspace(1e8, 8e9, 8), 6)
    tokens = params * np.tile(np.geomspace(3, 300, 6), 8)
    factor = np.exp(np.random.default_rng(seed).normal(0, noise, len(params)))
    return Points.of(params, tokens, truth(params, tokens) * factor)


def test_exact_losses_give_the_constants_back() -> None:
    a, b, e, alpha, beta = fit_constants(grid(), EXACT)
    assert (math.exp(a), math.exp(b)) == (
        pytest.approx(350, rel=1e-3),
        pytest.approx(900, rel=1e-3),
    )
    assert (math.exp(e), alpha, beta) == pytest.approx((1.7, 0.32, 0.34), rel=1e-3)


def test_no_other_minimiser_finds_a_lower_cost() -> None:
    """scipy's L-BFGS on the published objective, from several starts."""
    points = points_of("steplaw-dense")
    n, d, y = np.log(points.params), np.log(points.tokens), np.log(points.loss)

    def objective(theta: Array) -> float:
        size = np.abs(log_loss(theta, n, d) - y)
        return float(np.where(size < 1e-3, size**2 / 2, 1e-3 * (size - 5e-4)).sum()) * 1e6

    ours = objective(fit_constants(points, EXACT))
    starts = [(5, 6, 0.3, 0.3, 0.3), (4, 5, 0.0, 0.25, 0.28), (6, 7, 0.5, 0.35, 0.35)]
    theirs = min(float(minimize(objective, start, method="L-BFGS-B").fun) for start in starts)
    assert ours <= theirs * 1.001


def test_chinchilla_points_give_the_corrected_law() -> None:
    """Besiroglu et al. 2024 print E 1.8172 (0.03), A 482.01, B 2085.43, 0.3478 (0.02), 0.3658."""
    points = points_of("chinchilla-refit")
    assert len(points) == 240  # as theirs, after five are dropped
    a, b, e, alpha, beta = fit_constants(points, EXACT)
    assert math.exp(e) == pytest.approx(1.8172, abs=0.01)
    assert (alpha, beta) == (pytest.approx(0.3478, abs=0.005), pytest.approx(0.3658, abs=0.005))
    assert math.exp(a) == pytest.approx(482.01, rel=0.1)
    assert math.exp(b) == pytest.approx(2085.43, rel=0.1)


def test_an_outlier_moves_a_huber_fit_little() -> None:
    points = grid()
    points.loss[5] *= 1.3
    alpha = fit_constants(points, EXACT)[3]
    assert alpha == pytest.approx(0.32, abs=0.01)


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    held = 0
    for seed in range(20):
        noisy = grid(0.004, seed)
        small = noisy.take(noisy.flops <= noisy.flops.max() / 30)
        found = fit_law("truth", small, FEW_POINTS, resamples=30).predict(8e9, 4e11)
        assert found.low is not None and found.high is not None
        held += found.low <= float(truth(np.array(8e9), np.array(4e11))) <= found.high
    assert held >= 16


@pytest.mark.parametrize(
    ("columns", "named"),
    [
        (([1e9], [1e10], [2.0]), "too few"),
        (([1e9] * 5, [1e10] * 4, [2.0] * 5), "as many"),
        (([1e9] * 5, [1e10] * 5, [2.0, 1, 1, 1, math.nan]), "finite"),
        (([1e9] * 5, [0] * 5, [2.0] * 5), "positive"),
    ],
)
def test_unusable_points_are_refused(columns: tuple[list[float], ...], named: str) -> None:
    with pytest.raises(DataError, match=named):
        fit_constants(Points.of(*columns))


@pytest.mark.parametrize("family", ["steplaw-dense", "gadre-rpj-on-c4", "llama_3"])
def test_small_points_of_a_family_predict_its_largest(family: str) -> None:
    """All families: docs/scaling-laws.md."""
    points = points_of(family)
    flops = points.flops
    law = fit_law(family, points.take(flops <= flops.max() / 10), resamples=20)
    largest = points.take(flops > flops.max() / 3)
    errors = [
        law.loss(params, tokens) / loss - 1
        for params, tokens, loss in zip(largest.params, largest.tokens, largest.loss, strict=True)
    ]
    assert np.median(np.abs(errors)) < 0.02


def test_step_law_is_near_the_best_of_every_grid() -> None:
    """On the grids of 2503.04715 the nearest setting tried loses little, though rates differ."""
    tried = rows("steplaw-dense")
    penalties, rates = [], []
    for key in {(row["params"], row["tokens"]) for row in tried}:
        of_key = [row for row in tried if (row["params"], row["tokens"]) == key]
        rate, batch = step_law(float(key[0]), float(key[1]))
        assert rate.value is not None and batch.value is not None
        best = min(of_key, key=lambda row: float(row["loss"]))
        nearest = min(
            of_key,
            key=lambda row: (
                math.log(float(row["learning_rate"]) / rate.value) ** 2  # type: ignore[operator]
                + math.log(float(row["batch_tokens"]) / batch.value) ** 2  # type: ignore[operator]
            ),
        )
        penalties.append(float(nearest["loss"]) / float(best["loss"]) - 1)
        assert rate.low is not None and rate.high is not None
        rates.append(rate.low < float(best["learning_rate"]) < rate.high)
    assert len(penalties) == 17
    assert np.median(penalties) < 0.002 and max(penalties) < 0.01
    assert np.mean(rates) >= 0.8
