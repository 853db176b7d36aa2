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
from typing import Protocol

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
    "crossing",
    "least_at",
    "log_loss",
    "spread",
]

Array = NDArray[np.float64]
FLOPS_PER_PARAM_TOKEN = 6.0  # forward 2, backward 4; attention's own products are left out
NORMAL_90 = 1.645  # standard deviations on either side that hold 90%
# Log deviation of a law per decade of compute beyond what it was fitted on, on top of what the
# bootstrap sees: 90% of held-out points of the public families (docs/scaling-laws.md).
REACH_PER_DECADE = 0.015
SCANS, SCAN_POINTS, BISECTIONS = 6, 60, 70


class Law(Protocol):
    """What a planner asks of a scaling law."""

    @property
    def name(self) -> str: ...

    def loss(self, params: float, tokens: float) -> float:
        """Nats per token, the middle."""
        ...

    def predict(self, params: float, tokens: float) -> Prediction:
        """The loss with a 90% interval; ends are None where the law has no uncertainty."""
        ...

    def optimal(self, flops: float) -> tuple[float, float]:
        """(parameters, tokens) of least loss for that much training compute."""
        ...

    def optimal_draws(self, flops: float) -> Array:
        """[draws, 2] parameters and tokens of equally likely laws; no rows if there are none."""
        ...


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
    log_a: float
    log_b: float
    log_e: float  # -inf: the loss falls to zero
    alpha: float
    beta: float
    gamma: float = 1.0
    unit: str = "nats/token"
    params_are: str = "total"
    bootstrap: tuple[tuple[float, ...], ...] = ()  # constants of resampled points; (): unknown
    residual: float = 0.0  # robust log deviation of the fitted points
    max_flops: float = math.inf  # the most compute it was fitted on

    @property
    def theta(self) -> Array:
        return np.array([self.log_a, self.log_b, self.log_e, self.alpha, self.beta])

    @cached_property
    def draws(self) -> Array:
        """[draws, 5] equally likely constants; no rows if unknown."""
        return np.array(self.bootstrap).reshape(-1, 5)

    def loss(self, params: float, tokens: float) -> float:
        _check_positive(params=params, tokens=tokens)
        reducible = math.exp(self.log_a - self.alpha * math.log(params)) + math.exp(
            self.log_b - self.beta * math.log(tokens)
        )
        return math.exp(self.log_e) + float(reducible**self.gamma)

    def predict(self, params: float, tokens: float) -> Prediction:
        value = self.loss(params, tokens)
        if not len(self.draws):
            return Prediction(
                value=value, unit=self.unit, note=f"{self.name}: no interval was published"
            )
        drawn = log_loss(self.draws, np.log(params), np.log(tokens))
        flops = FLOPS_PER_PARAM_TOKEN * params * tokens
        decades = max(0.0, math.log10(flops / self.max_flops))
        low, high = np.quantile(drawn, (0.05, 0.95))  # few points give draws with long tails
        of_draws = float(high - low) / 2 / NORMAL_90
        reach = REACH_PER_DECADE * decades
        deviation = math.sqrt(of_draws**2 + self.residual**2 + reach**2)
        factor = math.exp(NORMAL_90 * deviation)
        note = self.name + (f"; {decades:.1f} decades of compute beyond its fit" if decades else "")
        return Prediction(
            value=value, low=value / factor, high=value * factor, unit=self.unit, note=note
        )

    def optimal(self, flops: float) -> tuple[float, float]:
        """In closed form: dL/dN = 0 along N D = C / 6, whatever E and gamma are."""
        _check_positive(flops=flops)
        params, tokens = _closed_form(self.theta[None], flops)[0]
        return float(params), float(tokens)

    def optimal_draws(self, flops: float) -> Array:
        return _closed_form(self.draws, flops)


def _closed_form(theta: Array, flops: float) -> Array:
    """[laws, 2] optimal parameters and tokens (Hoffmann et al. 2022, equation 4)."""
    a, b, _, alpha, beta = theta.T
    log_product = math.log(flops / FLOPS_PER_PARAM_TOKEN)
    log_params = (np.log(alpha / beta) + a - b + beta * log_product) / (alpha + beta)
    return np.asarray(np.exp(np.stack([log_params, log_product - log_params], axis=1)))


@dataclass(frozen=True)
class Adjusted:
    """A law seen through what parameters and tokens are worth: repeated data, low precision.

    effective: (parameters, tokens) -> what the law would count them as.
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
        product = flops / FLOPS_PER_PARAM_TOKEN
        params = least_at(lambda n: self.loss(n, product / n), product**0.05, product**0.95)
        return params, product / params

    def optimal_draws(self, flops: float) -> Array:
        """The draws of the law below, moved as far as the adjustment moves its optimum."""
        drawn = self.law.optimal_draws(flops)
        moved = np.array(self.optimal(flops)) / np.array(self.law.optimal(flops))
        return np.asarray(drawn * moved)


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


def spread(value: float, draws: Array, unit: str, note: str = "") -> Prediction:
    """A figure with the 5th and 95th percentile of its draws, widened to hold the figure."""
    if not len(draws):
        return Prediction(value=value, unit=unit, note=note)
    low, high = (float(end) for end in np.quantile(draws, (0.05, 0.95)))
    return Prediction(value=value, low=min(low, value), high=max(high, value), unit=unit, note=note)


def _check_positive(**values: float) -> None:
    for name, value in values.items():
        if not (value > 0 and math.isfinite(value)):
            raise PlanError(
                f"a scaling law needs {name} above zero",
                found=value,
                expected="a finite positive number",
            )
