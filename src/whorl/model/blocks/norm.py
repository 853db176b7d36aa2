"""Root mean square norm (arXiv 1910.07467)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from whorl.arch.shape import ModelShape
from whorl.model.fused import unit_rms

__all__ = ["RmsNorm"]


class RmsNorm(nn.Module):
    """x / rms(x) * scale over the last axis; scale is the weight, or 1 + weight (Gemma)."""

    def __init__(self, width: int, shape: ModelShape) -> None:
        super().__init__()
        self.eps, self.offset = shape.norm_eps, shape.norm_offset
        self.weight = nn.Parameter(torch.zeros(width) if self.offset else torch.ones(width))

    def scale(self) -> Tensor:
        return 1.0 + self.weight if self.offset else self.weight

    def forward(self, x: Tensor) -> Tensor:
        return unit_rms(x, self.eps) * self.scale().to(x.dtype)
