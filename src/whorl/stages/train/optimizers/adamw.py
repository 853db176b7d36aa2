"""AdamW (arXiv 1711.05101): torch's fused one, by its functional form: its class loads a compiler.

Element by element, so that each rank moves its own part of what is divided.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from whorl.arch.shape_counts import MATRIX_MOMENTS
from whorl.spec.resolved import TrainConfig
from whorl.stages.train.optimizers.tensors import gradient, local
from whorl.stages.train.ports import Work

__all__ = ["AdamW", "AdamWKind"]

BETAS, EPS = (0.9, 0.95), 1e-10


class AdamW:
    """One group with one peak rate."""

    def __init__(
        self, parameters: Mapping[str, nn.Parameter], peak: float, weight_decay: float = 0.0
    ) -> None:
        self.parameters, self.peak, self.weight_decay = parameters, peak, weight_decay
        self.tensors = {
            "exp_avg": [torch.zeros_like(p) for p in parameters.values()],
            "exp_avg_sq": [torch.zeros_like(p) for p in parameters.values()],
            "step": [torch.zeros((), device=p.device) for p in parameters.values()],
        }

    def work(self, share: float, parts: int) -> list[Work]:
        """One piece: it is quick."""
        return [partial(self._move, share)] if self.parameters else []

    def state(self) -> dict[str, Tensor]:
        return {
            f"adamw.{key}.{name}": tensor
            for key, tensors in self.tensors.items()
            for name, tensor in zip(self.parameters, tensors, strict=True)
        }

    @torch.no_grad()
    def _move(self, share: float) -> None:
        adamw(
            [local(p.detach()) for p in self.parameters.values()],
            [local(gradient(p)) for p in self.parameters.values()],
            [local(t) for t in self.tensors["exp_avg"]],
            [local(t) for t in self.tensors["exp_avg_sq"]],
            [],
            self.tensors["step"],
            fused=True,
            amsgrad=False,
            beta1=BETAS[0],
            beta2=BETAS[1],
            lr=self.peak * share,
            weight_decay=self.weight_decay,
            eps=EPS,
            maximize=False,
        )


class AdamWKind:
    """`OptimizerKind`."""

    name = "adamw"
    matrix_moments = MATRIX_MOMENTS[name]

    def of(self, parameters: Mapping[str, nn.Parameter], config: TrainConfig) -> AdamW:
        return AdamW(parameters, config.learning_rate, config.weight_decay)
