"""Warm-up, stable, decay: the learning rate as a pure function of the step."""

from __future__ import annotations

from whorl.spec.resolved import TrainConfig

__all__ = ["learning_rate_share"]


def learning_rate_share(step: int, config: TrainConfig) -> float:
    """Share of the peak learning rate for step 0..steps-1.

    Rises linearly over `warmup_steps` (reaching 1), stays, and falls linearly over the last
    `decay_steps` towards `final_learning_rate_share`, one step short of it.
    """
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    left = config.steps - step
    if left >= config.decay_steps:
        return 1.0
    final = config.final_learning_rate_share
    return final + (1.0 - final) * left / config.decay_steps
