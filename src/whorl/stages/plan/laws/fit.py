"""Fit E + A / N^alpha + B / D^beta to measured losses: Huber on the log loss, in numpy.

The objective is that of Hoffmann et al. 2022 (appendix D.3), minimised by damped Gauss-Newton steps
with Huber weights made anew at each, from several starts. Few points cannot settle five constants:
a weak prior then stands beside them, its numbers all here.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whorl.core.errors import DataError
from whorl.stages.plan.laws.law import FLOPS_PER_PARAM_TOKEN, PowerLaw, log_loss

__all__ = ["EXACT", "FEW_POINTS", "FitOptions", "Points", "fit_constants", "fit_law"]

Array = NDArray[np.float64]
MIN_POINTS, MIN_POINTS_EXACT, MIN_RESAMPLED = 3, 6, 8
ROUNDS, TOLERANCE, DAMPINGS = 200, 1e-8, 5.0 ** np.arange(12)
MAD_TO_DEVIATION = 1.4826
STARTS = tuple(itertools.product((0.2, 0.35, 0.5), (0.2, 0.35, 0.5), (0.5, 0.8)))


@dataclass(frozen=True)
class Points:
    """Measured losses: [points] parameters, tokens, loss."""

    params: Array
    tokens: Array
    loss: Array

    @classmethod
    def of(cls, params: Any, tokens: Any, loss: Any) -> Points:
        """Raises DataError unless all three are as long, finite and positive."""
        columns = [np.asarray(values, dtype=np.float64) for values in (params, tokens, loss)]
        if len({column.shape for column in columns}) > 1 or columns[0].ndim != 1:
            raise DataError("points need as many parameters as tokens and losses")
        if not all(bool(np.isfinite(c).all() and (c > 0).all()) for c in columns):
            raise DataError("points need positive finite parameters, tokens and losses")
        return cls(*columns)

    def __len__(self) -> int:
        return len(self.loss)

    @property
    def flops(self) -> Array:
        return np.asarray(FLOPS_PER_PARAM_TOKEN * self.params * self.tokens)

    def take(self, chosen: Any) -> Points:
        return Points(self.params[chosen], self.tokens[chosen], self.loss[chosen])

    def residuals(self, theta: Any) -> Array:
        return log_loss(np.array(theta), np.log(self.params), np.log(self.tokens)) - np.log(
            self.loss
        )


@dataclass(frozen=True)
class FitOptions:
    """How to fit. An infinite deviation is no prior."""

    huber: float  # log loss at which a residual starts to count linearly
    floor_share: float = 0.7  # prior of E: this share of the least loss
    floor_deviation: float = math.inf  # of ln E
    exponent: float = 0.33  # prior of alpha and beta
    exponent_deviation: float = math.inf

    def prior(self, loss: Array) -> tuple[Array, Array]:
        """Mean and deviation of theta."""
        floor = math.log(self.floor_share * float(loss.min()))
        deviations = (math.inf, math.inf, self.floor_deviation) + 2 * (self.exponent_deviation,)
        return np.array([0, 0, floor, self.exponent, self.exponent]), np.array(deviations)


EXACT = FitOptions(huber=1e-3)  # as Besiroglu et al. 2024 (2404.10102)
FEW_POINTS = FitOptions(huber=5e-3, floor_deviation=0.2, exponent_deviation=0.1)


def fit_constants(
    points: Points,
    options: FitOptions = FEW_POINTS,
    starts: Sequence[tuple[float, float, float]] = STARTS,
    prior_mean: Array | None = None,
) -> Array:
    """theta of least cost. starts: alpha, beta, E / least loss. prior_mean: instead of options'.

    Raises DataError on fewer than three points, or fewer than six without a prior.
    """
    needed = MIN_POINTS if math.isfinite(options.exponent_deviation) else MIN_POINTS_EXACT
    if len(points) < needed:
        raise DataError("too few points for a law", found=len(points), expected=f"{needed} or more")
    mean, deviation = options.prior(points.loss)
    prior = (mean if prior_mean is None else prior_mean, deviation)
    found = [_descend(_start(points, *each), points, options.huber, *prior) for each in starts]
    return min(found, key=lambda item: item[1])[0]


def _start(points: Points, alpha: float, beta: float, floor_share: float) -> Array:
    """Constants that share what is above the floor equally at the middle of the points."""
    least = float(points.loss.min())
    half = math.log((1 - floor_share) * least / 2)
    log_a = half + alpha * float(np.median(np.log(points.params)))
    log_b = half + beta * float(np.median(np.log(points.tokens)))
    return np.array([log_a, log_b, math.log(floor_share * least), alpha, beta])


def _descend(
    theta: Array, points: Points, huber: float, mean: Array, deviation: Array
) -> tuple[Array, float]:
    """(constants, cost) where no damped step lowers the cost any more."""
    n, d, precision = np.log(points.params), np.log(points.tokens), 1 / deviation**2

    def cost_of(at: Array) -> float:
        size = np.abs(points.residuals(at)) / huber
        fit = np.where(size < 1, size**2 / 2, size - 0.5).sum()
        return float(fit + (precision * (at - mean) ** 2).sum() / 2)

    damping, cost = 1e-3, cost_of(theta)
    for _ in range(ROUNDS):
        a, b, e, alpha, beta = theta
        residuals = points.residuals(theta)
        total = residuals + np.log(points.loss)
        of_a, of_b = np.exp(a - alpha * n - total), np.exp(b - beta * d - total)
        jacobian = np.stack([of_a, of_b, np.exp(e - total), -of_a * n, -of_b * d], axis=1)
        weighted = jacobian / (np.maximum(np.abs(residuals), huber) * huber)[:, None]
        gradient = weighted.T @ residuals + precision * (theta - mean)
        curvature = weighted.T @ jacobian + np.diag(precision)
        for tried in damping * DAMPINGS:
            damped = curvature + tried * np.diag(np.diag(curvature) + 1e-12)
            step = np.linalg.solve(damped, -gradient)
            lower = cost_of(theta + step)
            if lower < cost:
                break
        else:
            return theta, cost
        damping, gained = max(tried / 5, 1e-12), cost - lower
        theta, cost = theta + step, lower
        if gained < TOLERANCE * (1 + cost):
            break
    return theta, cost


def _bootstrap(points: Points, best: Array, options: FitOptions, resamples: int) -> Array:
    """[resamples, 5] constants of resampled points, the prior's mean drawn anew each time.

    Of very few points resamples are worth nothing: their residuals are redrawn instead.
    """
    rng = np.random.default_rng(0)
    residuals = points.residuals(best)
    noise = max(_robust(residuals), float(np.sqrt(np.mean(residuals**2))), options.huber)
    start = (float(best[3]), float(best[4]), min(0.99, math.exp(best[2]) / points.loss.min()))
    mean, deviation = options.prior(points.loss)
    finite = np.where(np.isfinite(deviation), deviation, 0)
    found = []
    for _ in range(resamples):
        if len(points) >= MIN_RESAMPLED:
            drawn = points.take(rng.integers(len(points), size=len(points)))
        else:
            factor = np.exp(rng.normal(0, noise, len(points)))
            drawn = Points(points.params, points.tokens, points.loss * factor)
        found.append(fit_constants(drawn, options, (start,), rng.normal(mean, finite)))
    return np.array(found)


def fit_law(
    name: str,
    points: Points,
    options: FitOptions = FEW_POINTS,
    *,
    resamples: int = 100,
    **facts: Any,
) -> PowerLaw:
    """A law of these points with its constants on resampled points. facts: other PowerLaw fields.

    Raises DataError on too few points.
    """
    best = fit_constants(points, options)
    return PowerLaw(
        name=name,
        theta=tuple(map(float, best)),
        bootstrap=tuple(
            tuple(map(float, row)) for row in _bootstrap(points, best, options, resamples)
        ),
        residual=_robust(points.residuals(best)),
        max_flops=float(points.flops.max()),
        **{"source": "fitted here", **facts},
    )


def _robust(residuals: Array) -> float:
    return MAD_TO_DEVIATION * float(np.median(np.abs(residuals)))
