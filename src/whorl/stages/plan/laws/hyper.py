"""Learning rate and batch of a size and a number of tokens: the step law.

    learning rate = 1.79 N^-0.713 D^0.307        batch in tokens = 0.58 D^0.571

Li et al. 2025 (2503.04715), for AdamW and N without embeddings. The deviation is ours, of the best
of each grid in published/scaling_points.csv (docs/scaling-laws.md): the optimum is flat, and taking
the setting nearest to the law instead of the best costs about 0.1% of the loss.
"""

from __future__ import annotations

import math

from whorl.core.errors import PlanError
from whorl.stages.plan.laws.law import NORMAL_90
from whorl.stages.plan.plan import Prediction

__all__ = ["BATCH_DEVIATION", "RATE_DEVIATION", "step_law"]

RATE_DEVIATION = BATCH_DEVIATION = 0.33  # log deviation of the grids' best from the law


def step_law(params: float, tokens: float) -> tuple[Prediction, Prediction]:
    """(peak learning rate, tokens of a batch). params: without embeddings. Raises PlanError."""
    if not (params > 0 and tokens > 0 and math.isfinite(params * tokens)):
        raise PlanError(
            "the step law needs a size and tokens",
            found=f"{params} parameters, {tokens} tokens",
            expected="finite numbers above zero",
        )
    rate = 1.79 * params**-0.713 * tokens**0.307
    batch = 0.58 * tokens**0.571
    return (
        _around(rate, RATE_DEVIATION, "1/step", "step law, AdamW"),
        _around(batch, BATCH_DEVIATION, "tokens", "step law"),
    )


def _around(value: float, deviation: float, unit: str, note: str) -> Prediction:
    factor = math.exp(NORMAL_90 * deviation)
    return Prediction(value=value, low=value / factor, high=value * factor, unit=unit, note=note)
