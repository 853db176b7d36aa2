"""One interface of scaling laws: loss of a size and tokens, and the best use of FLOPs.

    L(N, D) = E + (A / N^alpha + B / D^beta)^gamma        FLOPs C = 6 N D

gamma = 1: Hoffmann et al. 2022 (2203.15556, equation 10); E = 0 and gamma < 1: Kaplan et al. 2020
(2001.08361, equation 1.5). N: parameters, counted as the law's `params_are` says; D: tokens trained
on. Losses are nats per token of the law's own text and tokenizer unless `unit` says otherwise: of
other text a law gives good ratios and exponents, not the loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from whorl.core.errors import PlanError
from whorl.stages.plan.plan import Prediction

__all__ = [
    "FLOPS_PER_PARAM_TOKEN",
    "NORMAL_90",
    "REACH_PER_DECADE",
    "Adjusted",
    "Law",
    "PowerLaw",
    "around",
    "crossing",
    "least_at",
    "log_loss",
    "positive",
]

Array = NDArray[np.float64]
FLOPS_PER_PARAM_TOKEN = 6.0  # forward 2, backward 4; attention's own products are left out
NORMAL_90 = 1.645  # standard deviations on either side that hold 90%
# Log deviation of a law per decade of compute beyond what it was fitted on, besides what the
# bootstrap sees: 90% of held-out points of the public families (docs/scaling-laws.md).
REACH_PER_DECADE = 0.016
SCANS, SCAN_POINTS, BISECTIONS = 6, 60, 70


def log_loss(theta: Array, log_params: Array, log_tokens: Array) -> Array:
    """ln of E + A / N^alpha + B / D^beta; theta[..., 5]: ln A, ln B, ln E, alpha, beta."""
    a, b, e, alpha, beta = np.moveaxis(theta, -1, 0)
    learned = np.logaddexp(a - alpha * log_params, b - beta * log_tokens)
    return np.asarray(np.logaddexp(learned, e))


@dataclass(frozen=True)
class PowerLaw:
    """A law with its constants, ordered in `theta` and `bootstrap` as `log_loss` wants them."""

    name: str
    source: str
    theta: tuple[float, ...]  # ln A, ln B, ln E (-inf: the loss falls to zero), alpha, beta
    gamma: float = 1.0
    unit: str = "nats/token"
    params_are: str = "total"
    bootstrap: tuple[tuple[float, ...], ...] = ()  # theta of resampled points; (): unknown
    residual: float = 0.0  # robust log deviation of the fitted points
    max_flops: float = math.inf  # the most compute it was fitted on

    @cached_property
    def draws(self) -> Array:
        """[draws, 5] equally likely constants; no rows if unknown."""
        return np.array(self.bootstrap).reshape(-1, 5)

    def loss(self, params: float, tokens: float) -> float:
        """Nats per token, the middle. Raises PlanError unless both are above zero."""
        a, b, e, alpha, beta = self.theta
        of_params = math.exp(a - alpha * math.log(positive("parameters", params)))
        of_tokens = math.exp(b - beta * math.log(positive("tokens", tokens)))
        return math.exp(e) + float((of_params + of_tokens) ** self.gamma)

    def predict(self, params: float, tokens: float) -> Prediction:
        """The loss with a 90% interval; its ends are None where no uncertainty is known."""
        value = self.loss(params, tokens)
        if not self.bootstrap:
            note = f"{self.name}: no interval was published"
            return Prediction(value=value, unit=self.unit, note=note)
        drawn = log_loss(self.draws, np.log(params), np.log(tokens))
        low, high = np.quantile(drawn, (0.05, 0.95))  # few points give draws with long tails
        flops = FLOPS_PER_PARAM_TOKEN * params * tokens
        decades = max(0.0, math.log10(flops / self.max_flops))
        of_draws = float(high - low) / 2 / NORMAL_90
        deviation = math.hypot(of_draws, self.residual, REACH_PER_DECADE * decades)
        note = self.name + (f"; {decades:.1f} decades of compute beyond its fit" if decades else "")
        return around(value, deviation, self.unit, note)

    def optimal(self, flops: float) -> tuple[float, float]:
        """(parameters, tokens) of least loss for that compute, whatever E and gamma are."""
        params, tokens = _closed_form(np.array([self.theta]), positive("FLOPs", flops))[0]
        return float(params), float(tokens)

    def optimal_draws(self, flops: float) -> Array:
        """[draws, 2] parameters and tokens of equally likely laws; no rows if unknown."""
        return _closed_form(self.draws, flops)


def _closed_form(theta: Array, flops: float) -> Array:
    """[laws, 2] where dL/dN = 0 along N D = C / 6 (Hoffmann et al. 2022, equation 4)."""
    a, b, _, alpha, beta = theta.T
    log_product = math.log(flops / FLOPS_PER_PARAM_TOKEN)
    log_params = (np.log(alpha / beta) + a - b + beta * log_product) / (alpha + beta)
    return np.asarray(np.exp(np.stack([log_params, log_product - log_params], axis=1)))


@dataclass(frozen=True)
class Adjusted:
    """A law seen through what parameters and tokens are worth: repeated data, low precision.

    effective: (parameters, tokens) -> what the law would count them as. Methods as of PowerLaw.
    """

    law: Law
    effective: Callable[[float, float], tuple[float, float]]
    note: str

    @property
    def name(self) -> str:
        return f"{self.law.name}, {self.note}"

    def loss(self, params: float, tokens: float) -> float:
        return self.law.loss(*self.effective(params, tokens))

    def predict(self, params: float, tokens: float) -> Prediction:
        found = self.law.predict(*self.effective(params, tokens))
        return found.model_copy(update={"note": f"{found.note}; {self.note}"})

    def optimal(self, flops: float) -> tuple[float, float]:
        product = positive("FLOPs", flops) / FLOPS_PER_PARAM_TOKEN
        params = least_at(lambda n: self.loss(n, product / n), product**0.05, product**0.95)
        return params, product / params

    def optimal_draws(self, flops: float) -> Array:
        """The draws of the law below, moved as far as the adjustment moves its optimum."""
        moved = np.array(self.optimal(flops)) / np.array(self.law.optimal(flops))
        return np.asarray(self.law.optimal_draws(flops) * moved)


Law = PowerLaw | Adjusted


def least_at(cost: Callable[[float], float], low: float, high: float) -> float:
    """The number between low and high of least cost, by ever finer scans over its logarithm."""
    for _ in range(SCANS):
        tried = np.geomspace(low, high, SCAN_POINTS)
        best = int(np.argmin([cost(float(value)) for value in tried]))
        low, high = float(tried[max(0, best - 1)]), float(tried[min(SCAN_POINTS - 1, best + 1)])
    return math.sqrt(low * high)


def crossing(is_below: Callable[[float], bool], low: float, high: float) -> float:
    """Where is_below turns from true to false between low and high, by bisection."""
    for _ in range(BISECTIONS):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if is_below(middle) else (low, middle)
    return high


def around(value: float, log_deviation: float, unit: str, note: str) -> Prediction:
    """A figure with its 90% interval."""
    return Prediction.within(value, math.exp(NORMAL_90 * log_deviation), unit, note)


def positive(name: str, value: float | None) -> float:
    """The value, if it is a finite number above zero. Raises PlanError."""
    if value is None or not (value > 0 and math.isfinite(value)):
        raise PlanError(f"{name} must be given", found=value, expected="a number above zero")
    return float(value)
