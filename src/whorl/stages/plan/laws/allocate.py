"""From a budget to size, tokens, batch and learning rate; from a serving volume to a size."""

from __future__ import annotations

import math
from dataclasses import dataclass

from whorl.core.errors import PlanError
from whorl.stages.plan.laws.hyper import step_law
from whorl.stages.plan.laws.law import FLOPS_PER_PARAM_TOKEN, Law, crossing, least_at, spread
from whorl.stages.plan.laws.named import find_law
from whorl.stages.plan.plan import Prediction

__all__ = [
    "Allocation",
    "LifetimePlan",
    "allocate",
    "budget_flops",
    "lifetime_optimum",
    "tokens_for",
]

FORWARD_FLOPS = 2.0  # per parameter and token served
SIZES, MOST_TOKENS = (1e3, 1e16), 1e24


def budget_flops(
    *,
    flops: float | None = None,
    time_s: float | None = None,
    device_hours: float | None = None,
    usd: float | None = None,
    flops_per_s: float | None = None,
    devices: int = 1,
    usd_per_device_hour: float | None = None,
) -> float:
    """Training FLOPs that one budget buys. flops_per_s: achieved by one device, not its peak.

    A measured speed in tokens/s of a model of N parameters is 6 N tokens/s FLOP/s. Raises PlanError
    unless exactly one budget is given with what it needs.
    """
    given = {"flops": flops, "time_s": time_s, "device_hours": device_hours, "usd": usd}
    named = {name: value for name, value in given.items() if value is not None}
    if len(named) != 1:
        raise PlanError("give one budget", found=sorted(named), expected=f"one of {sorted(given)}")
    if flops is not None:
        return _positive("flops", flops)
    speed = _positive("flops_per_s (of one device, achieved)", flops_per_s)
    if time_s is not None:
        return _positive("time_s", time_s) * _positive("devices", devices) * speed
    if usd is not None:
        device_hours = _positive("usd", usd) / _positive("usd_per_device_hour", usd_per_device_hour)
    return _positive("device_hours", device_hours) * 3600 * speed


def _positive(name: str, value: float | None) -> float:
    if value is None or not (value > 0 and math.isfinite(value)):
        raise PlanError(f"the budget needs {name}", found=value, expected="a number above zero")
    return float(value)


@dataclass(frozen=True)
class Allocation:
    """How a budget is best spent. Intervals hold 90% of the law's equally likely constants."""

    law: str
    flops: float
    params: Prediction
    tokens: Prediction
    loss: Prediction
    learning_rate: Prediction
    batch_tokens: Prediction


def allocate(
    flops: float,
    law: Law | None = None,
    *,
    params: float | None = None,
    tokens: float | None = None,
) -> Allocation:
    """Size and tokens of least loss for that much training compute; either may be given.

    Fixing both is no choice and raises PlanError, as do numbers that are not positive.
    """
    law = find_law() if law is None else law
    product = _positive("flops", flops) / FLOPS_PER_PARAM_TOKEN
    if params is not None and tokens is not None:
        raise PlanError("parameters and tokens are both given", do="leave one of them open")
    if params is not None:
        chosen = (_positive("params", params), product / params)
    elif tokens is not None:
        chosen = (product / _positive("tokens", tokens), tokens)
    else:
        chosen = law.optimal(flops)
    if params is None and tokens is None:
        drawn, note = law.optimal_draws(flops), f"optimum of {law.name}"
        best_params = spread(chosen[0], drawn[:, 0], "parameters", note)
        best_tokens = spread(chosen[1], drawn[:, 1], "tokens", note)
    else:
        best_params = Prediction.exact(chosen[0], "parameters", "given, or what it leaves")
        best_tokens = Prediction.exact(chosen[1], "tokens", "given, or what it leaves")
    rate, batch = step_law(*chosen)
    return Allocation(law.name, flops, best_params, best_tokens, law.predict(*chosen), rate, batch)


@dataclass(frozen=True)
class LifetimePlan:
    """The size that is cheapest over training and serving, at one quality."""

    law: str
    loss: float
    params: float
    tokens: float
    training_flops: float
    serving_flops: float
    compute_optimal_params: float  # the size that is cheapest to train to this loss
    compute_optimal_tokens: float
    saved_share: float  # of the cost with the compute-optimal size


def lifetime_optimum(
    loss: float, served_tokens: float, law: Law | None = None, *, serving_cost: float = 1.0
) -> LifetimePlan:
    """Least 6 N D + serving_cost 2 N D_served over sizes that reach the loss.

    served_tokens: read and written over the model's life; 0: training alone. serving_cost: price
    of a FLOP of serving over one of training, such as the ratio of their utilisations. Raises
    PlanError for a loss that the law cannot reach. Source: Sardana et al. 2023, 2401.00448.
    """
    law = law or find_law()
    if served_tokens < 0 or not math.isfinite(served_tokens):
        raise PlanError("tokens served must not be negative", found=served_tokens)
    serving = FORWARD_FLOPS * _positive("serving_cost", serving_cost) * served_tokens

    def cost(params: float, served: float) -> float:
        tokens = tokens_for(law, params, loss)
        return params * (FLOPS_PER_PARAM_TOKEN * tokens + served)

    trained = least_at(lambda params: cost(params, 0.0), *SIZES)
    params = least_at(lambda params: cost(params, serving), *SIZES)
    if math.isinf(cost(params, serving)):
        raise PlanError(
            f"{law.name} reaches no loss of {loss:.4g} at any size",
            expected=f"above {law.loss(1e18, 1e21):.4g}",
        )
    tokens = tokens_for(law, params, loss)
    return LifetimePlan(
        law=law.name,
        loss=loss,
        params=params,
        tokens=tokens,
        training_flops=FLOPS_PER_PARAM_TOKEN * params * tokens,
        serving_flops=FORWARD_FLOPS * params * served_tokens,
        compute_optimal_params=trained,
        compute_optimal_tokens=tokens_for(law, trained, loss),
        saved_share=1 - cost(params, serving) / cost(trained, serving),
    )


def tokens_for(law: Law, params: float, loss: float) -> float:
    """Tokens with which that size reaches the loss, at least one; inf if it never does."""
    if law.loss(params, MOST_TOKENS) > loss:
        return math.inf
    return crossing(lambda tokens: law.loss(params, tokens) > loss, 1.0, MOST_TOKENS)
