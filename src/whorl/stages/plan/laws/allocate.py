"""From a budget to size and tokens, from them to batch and learning rate; from a serving volume to
a size."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from whorl.core.errors import PlanError
from whorl.stages.plan.laws.law import (
    FLOPS_PER_PARAM_TOKEN,
    Law,
    around,
    crossing,
    least_at,
    positive,
)
from whorl.stages.plan.plan import Prediction

__all__ = ["LifetimePlan", "lifetime_optimum", "optimum", "step_law", "tokens_for"]

FORWARD_FLOPS = 2.0  # per parameter and token served
# Of the best learning rate and batch of each grid in published/scaling_points.csv from the step law
# (docs/scaling-laws.md).
LOG_DEVIATION = 0.33
SIZES, MOST_TOKENS = (1e3, 1e16), 1e24


def optimum(flops: float, law: Law) -> tuple[Prediction, Prediction]:
    """(parameters, tokens) of least loss for that much training compute, with 90% intervals."""
    chosen, drawn = law.optimal(flops), law.optimal_draws(flops)
    params, tokens = (
        _spread(chosen[i], drawn[:, i], unit, law.name)
        for i, unit in enumerate(("parameters", "tokens"))
    )
    return params, tokens


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


def lifetime_optimum(loss: float, served_tokens: float, law: Law) -> LifetimePlan:
    """Least 6 N D + 2 N D_served over sizes that reach the loss.

    served_tokens: read and written over the model's life; 0: training alone. Raises PlanError for
    a loss that the law cannot reach. Source: Sardana et al. 2023, 2401.00448.
    """
    if not 0 <= served_tokens < math.inf:
        raise PlanError("tokens served must not be negative", found=served_tokens)
    serving = FORWARD_FLOPS * served_tokens

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


def step_law(params: float, tokens: float) -> tuple[Prediction, Prediction]:
    """(peak learning rate, tokens of a batch): 1.79 N^-0.713 D^0.307 and 0.58 D^0.571.

    params: without embeddings. Source: Li et al. 2025, 2503.04715, for AdamW; the optimum is flat,
    the setting nearest to the law costs about 0.1% of the loss. Raises PlanError.
    """
    rate = 1.79 * positive("parameters", params) ** -0.713 * positive("tokens", tokens) ** 0.307
    batch = 0.58 * tokens**0.571
    return (
        around(rate, LOG_DEVIATION, "1/step", "step law, AdamW"),
        around(batch, LOG_DEVIATION, "tokens", "step law"),
    )
