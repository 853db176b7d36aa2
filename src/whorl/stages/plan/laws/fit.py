"""Fit E + A / N^alpha + B / D^beta to measured losses: Huber on the log loss, in numpy.

The loss function is that of Hoffmann et al. 2022 (appendix D.3); it is minimised by damped
Gauss-Newton steps with the Huber weights recomputed at each (iteratively reweighted least squares)
from several starts. Few points cannot settle five constants, so a weak prior can stand beside them;
all of its numbers are here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whorl.core.errors import DataError
from whorl.stages.plan.laws.law import FLOPS_PER_PARAM_TOKEN, PowerLaw, log_loss

__all__ = ["EXACT", "FEW_POINTS", "FitOptions", "Points", "bootstrap", "fit_constants", "fit_law"]

Array = NDArray[np.float64]
MIN_POINTS = 3
DAMPING_TRIES, TOLERANCE = 12, 1e-10
MAD_TO_DEVIATION = 1.4826
STARTS = tuple(
    (alpha, beta, share)
    for alpha in (0.2, 0.35, 0.5)
    for beta in (0.2, 0.35, 0.5)
    for share in (0.5, 0.8)
)


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


@dataclass(frozen=True)
class FitOptions:
    """How to fit. deviations of the prior: None is no prior."""

    huber: float = 1e-3  # log loss at which a residual starts to count linearly
    exponent: float = 0.33  # prior mean of alpha and beta
    exponent_deviation: float | None = None
    floor_share: float = 0.7  # prior of E: this share of the lowest loss
    floor_deviation: float = 0.2  # of ln E
    compute_weight: float = 0.0  # points weigh (FLOPs / most FLOPs) to this power

    def prior(self, loss: Array) -> tuple[Array, Array] | None:
        """Mean and deviation of (ln E, alpha, beta)."""
        if self.exponent_deviation is None:
            return None
        floor = math.log(self.floor_share * float(loss.min()))
        deviation = self.exponent_deviation
        return (
            np.array([floor, self.exponent, self.exponent]),
            np.array([self.floor_deviation, deviation, deviation]),
        )


EXACT = FitOptions()  # as Besiroglu et al. 2024 (2404.10102): no prior, all points alike
FEW_POINTS = FitOptions(huber=5e-3, exponent_deviation=0.1, compute_weight=0.25)


def fit_constants(
    points: Points,
    options: FitOptions = FEW_POINTS,
    starts: Sequence[tuple[float, float, float]] = STARTS,
    prior_mean: Array | None = None,
) -> Array:
    """ln A, ln B, ln E, alpha, beta of least cost. starts: alpha, beta, E / least loss.

    prior_mean replaces the prior's own mean (the bootstrap draws it anew). Raises DataError on
    fewer than three points, or fewer than six without a prior.
    """
    needed = MIN_POINTS if options.exponent_deviation is not None else 6
    if len(points) < needed:
        raise DataError("too few points for a law", found=len(points), expected=f"{needed} or more")
    prior = options.prior(points.loss)
    if prior is not None and prior_mean is not None:
        prior = (prior_mean, prior[1])
    weights = (points.flops / points.flops.max()) ** options.compute_weight
    problem = _Problem(
        np.log(points.params),
        np.log(points.tokens),
        np.log(points.loss),
        weights / weights.mean(),
        options.huber,
        prior,
    )
    found = [problem.descend(problem.start(*start)) for start in starts]
    return min(found, key=lambda item: item[1])[0]


@dataclass(frozen=True)
class _Problem:
    log_params: Array
    log_tokens: Array
    log_loss: Array
    weights: Array
    huber: float
    prior: tuple[Array, Array] | None

    def start(self, alpha: float, beta: float, floor_share: float) -> Array:
        """Constants that share what is above the floor equally at the middle of the points."""
        least = math.exp(float(self.log_loss.min()))
        half = math.log((1 - floor_share) * least / 2)
        return np.array(
            [
                half + alpha * np.median(self.log_params),
                half + beta * np.median(self.log_tokens),
                math.log(floor_share * least),
                alpha,
                beta,
            ]
        )

    def residuals(self, theta: Array) -> Array:
        return log_loss(theta, self.log_params, self.log_tokens) - self.log_loss

    def cost(self, theta: Array) -> float:
        size, huber = np.abs(self.residuals(theta)), self.huber
        each = np.where(size < huber, size**2 / 2, huber * (size - huber / 2)) / huber**2
        total = float((self.weights * each).sum())
        if self.prior is not None:
            total += float((((theta[2:] - self.prior[0]) / self.prior[1]) ** 2).sum() / 2)
        return total

    def descend(self, theta: Array, rounds: int = 200) -> tuple[Array, float]:
        """(constants, cost) where no damped step lowers the cost any more."""
        damping, cost = 1e-3, self.cost(theta)
        for _ in range(rounds):
            gradient, curvature = self._quadratic(theta)
            for _ in range(DAMPING_TRIES):
                scale = np.diag(np.diag(curvature) + 1e-12)
                step = np.linalg.solve(curvature + damping * scale, -gradient)
                lower = self.cost(theta + step)
                if lower < cost:
                    break
                damping *= 5
            else:
                return theta, cost
            damping = max(damping / 5, 1e-12)
            gained, theta, cost = cost - lower, theta + step, lower
            if gained < TOLERANCE * abs(cost):
                break
        return theta, cost

    def _quadratic(self, theta: Array) -> tuple[Array, Array]:
        """Gradient and Gauss-Newton curvature of the reweighted cost."""
        a, b, e, alpha, beta = theta
        total = log_loss(theta, self.log_params, self.log_tokens)
        of_a = np.exp(a - alpha * self.log_params - total)
        of_b = np.exp(b - beta * self.log_tokens - total)
        columns = [of_a, of_b, np.exp(e - total), -of_a * self.log_params, -of_b * self.log_tokens]
        jacobian = np.stack(columns, axis=1)
        residuals = total - self.log_loss
        huber = np.minimum(1, self.huber / np.maximum(np.abs(residuals), 1e-300)) / self.huber**2
        weighted = jacobian * (self.weights * huber)[:, None]
        gradient, curvature = weighted.T @ residuals, weighted.T @ jacobian
        if self.prior is not None:
            mean, deviation = self.prior
            gradient[2:] += (theta[2:] - mean) / deviation**2
            curvature[[2, 3, 4], [2, 3, 4]] += 1 / deviation**2
        return gradient, curvature


def bootstrap(
    points: Points, best: Array, options: FitOptions, resamples: int, seed: int = 0
) -> Array:
    """[resamples, 5] constants of resampled points, the prior's mean drawn anew each time.

    Of fewer than eight points no resample is worth fitting: their residuals are redrawn instead.
    """
    rng = np.random.default_rng(seed)
    residuals = log_loss(best, np.log(points.params), np.log(points.tokens)) - np.log(points.loss)
    noise = max(_robust(residuals), float(np.sqrt(np.mean(residuals**2))), options.huber)
    start = (float(best[3]), float(best[4]), min(0.99, math.exp(best[2]) / points.loss.min()))
    found = []
    for _ in range(resamples):
        if len(points) >= 8:
            drawn = points.take(rng.integers(len(points), size=len(points)))
        else:
            factor = np.exp(rng.normal(0, noise, len(points)))
            drawn = Points(points.params, points.tokens, points.loss * factor)
        prior = options.prior(points.loss)
        mean = None if prior is None else rng.normal(*prior)
        found.append(fit_constants(drawn, options, (start,), mean))
    return np.array(found)


def fit_law(
    name: str,
    points: Points,
    options: FitOptions = FEW_POINTS,
    *,
    resamples: int = 100,
    source: str = "fitted here",
    unit: str = "nats/token",
    params_are: str = "total",
) -> PowerLaw:
    """A law of these points with its constants on resampled points. Raises DataError."""
    best = fit_constants(points, options)
    drawn = bootstrap(points, best, options, resamples)
    residuals = log_loss(best, np.log(points.params), np.log(points.tokens)) - np.log(points.loss)
    log_a, log_b, log_e, alpha, beta = (float(value) for value in best)
    return PowerLaw(
        name=name,
        source=source,
        log_a=log_a,
        log_b=log_b,
        log_e=log_e,
        alpha=alpha,
        beta=beta,
        unit=unit,
        params_are=params_are,
        bootstrap=tuple(tuple(map(float, row)) for row in drawn),
        residual=_robust(residuals),
        max_flops=float(points.flops.max()),
    )


def _robust(residuals: Array) -> float:
    return MAD_TO_DEVIATION * float(np.median(np.abs(residuals)))
