"""Learning rate and batch of a size and a number of tokens: the step law.

    learning rate = 1.79 N^-0.713 D^0.307        batch in tokens = 0.58 D^0.571

Li et al. 2025 (2503.04715), for AdamW and N without embeddings. The deviation is ours, of the best
of each grid in published/scaling_points.csv (docs/scaling-laws.md): the optimum is flat, and taking
the setting nearest to the law instead of the best costs about 0.1% of the loss.
"""

from __future__ import annotations

from whorl.stages.plan.laws.law import around, positive
from whorl.stages.plan.plan import Prediction

__all__ = ["step_law"]

LOG_DEVIATION = 0.33  # of the grids' best learning rate and batch from the law


def step_law(params: float, tokens: float) -> tuple[Prediction, Prediction]:
    """(peak learning rate, tokens of a batch). params: without embeddings. Raises PlanError."""
    rate = 1.79 * positive("parameters", params) ** -0.713 * positive("tokens", tokens) ** 0.307
    batch = 0.58 * tokens**0.571
    return (
        around(rate, LOG_DEVIATION, "1/step", "step law, AdamW"),
        around(batch, LOG_DEVIATION, "tokens", "step law"),
    )
