"""From a budget to size, tokens, batch and learning rate; from a serving volume to a size."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from whorl.core.errors import PlanError
from whorl.stages.plan.laws.hyper import step_law
from whorl.stages.plan.laws.law import FLOPS_PER_PARAM_TOKEN, Law, crossing, least_at, positive
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
    named = sorted(name for name, value in given.items() if value is not None)
    if len(named) != 1:
        raise PlanError("give one budget", found=named, expected=f"one of {sorted(given)}")
    amount = positive(named[0], given[named[0]])
    if flops is not None:
        return amount
    speed = positive("flops_per_s (of one device, achieved)", flops_per_s)
    if time_s is not None:
        return amount * positive("devices", devices) * speed
    if usd is not None:
        amount /= positive("usd_per_device_hour", usd_per_device_hour)
    return amount * 3600 * speed


@dataclass(frozen=True)
class Allocation:
    """How a budget is best spent; intervals hold 90%."""

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
    law = law or find_law()
    product = positive("FLOPs", flops) / FLOPS_PER_PARAM_TOKEN
    if params is not None and tokens is not None:
        raise PlanError("parameters and tokens are both given", do="leave one of them open")
    units = ("parameters", "tokens")
    if params is None and tokens is None:
        chosen, drawn = law.optimal(flops), law.optimal_draws(flops)
        sizes = [_spread(chosen[i], drawn[:, i], units[i], law.name) for i in (0, 1)]
    else:
        size = product / positive("tokens", tokens) if params is None else params
        chosen = (positive("parameters", size), product / size)
        sizes = [Prediction.exact(chosen[i], units[i], "given, or what is left") for i in (0, 1)]
    rate, batch = step_law(*chosen)
    return Allocation(law.name, flops, sizes[0], sizes[1], law.predict(*chosen), rate, batch)


def _spread(value: float, drawn: NDArray[np.float64], unit: str, name: str) -> Prediction:
    """A figure with the 5th and 95th percentile of its draws, widened to hold the figure."""
    low = high = None
    if len(drawn):
        low = min(value, float(np.quantile(drawn, 0.05)))
        high = max(value, float(np.quantile(drawn, 0.95)))
    return Prediction(value=value, low=low, high=high, unit=unit, note=f"optimum of {name}")


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
    if not 0 <= served_tokens < math.inf:
        raise PlanError("tokens served must not be negative", found=served_tokens)
    serving = FORWARD_FLOPS * positive("serving_cost", serving_cost) * served_tokens

    def cost(params: float, served: float) -> float:
        return params * (FLOPS_PER_PARAM_TOKEN * tokens_for(law, params, loss) + served)

    trained = least_at(lambda params: cost(params, 0.0), *SIZES)
    params = least_at(lambda params: cost(params, serving), *SIZES)
    if math.isinf(cost(params, serving)):
        least = law.loss(SIZES[1], MOST_TOKENS)
        raise PlanError(f"no size has a loss of {loss:.4g}", expected=f"above {least:.4g}")
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
