"""Muon: momentum made orthogonal, for the matrices of the blocks.

Sources: Jordan et al., "Muon", 2024; Amsel et al., "The Polar Express", 2025 (coefficients).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from whorl.arch.shape_counts import MATRIX_MOMENTS
from whorl.spec.resolved import TrainConfig
from whorl.stages.train.optimizers.tensors import add_whole, gradient, local, whole
from whorl.stages.train.ports import Work

__all__ = ["DTYPES", "POLAR_EXPRESS", "Muon", "MuonKind", "orthogonalise"]

Coefficients = Sequence[tuple[float, float, float]]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
# With the paper's safety factor of 2%: without it single singular values reach 6 in bf16.
POLAR_EXPRESS: Coefficients = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)
NORM_MARGIN = 1.02  # keeps the largest singular value below 1, where the iteration converges
MOMENTUM = 0.95


def orthogonalise(
    matrices: Tensor,
    coefficients: Coefficients = POLAR_EXPRESS,
    margin: float = NORM_MARGIN,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Near U V' of each U S V': float32 [n, rows, columns], rows <= columns, same out.

    Newton-Schulz: X <- a X + (b A + c A A) X with A = X X', one triple of coefficients a step.
    """
    norms = torch.linalg.vector_norm(matrices, dim=(1, 2), keepdim=True)
    x = (matrices / (norms * margin).clamp_(min=1e-7)).to(dtype)
    for a, b, c in coefficients:
        gram = torch.bmm(x, x.mT)
        gram = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, gram, x, beta=a)
    out: Tensor = x.to(matrices.dtype)
    return out


class Muon:
    """Nesterov momentum made orthogonal, all matrices of one shape as one batch.

    A matrix moves by rate * sqrt(max(1, rows / columns)). Matrices that are divided among ranks
    are made whole for that: every rank computes all of them.
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        peak: float,
        weight_decay: float = 0.0,
        momentum: float = MOMENTUM,
        coefficients: Coefficients = POLAR_EXPRESS,
        margin: float = NORM_MARGIN,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.peak, self.weight_decay, self.momentum = peak, weight_decay, momentum
        self.coefficients, self.margin = coefficients, margin
        self.dtype = dtype  # of the iteration
        self.buffers = {name: torch.zeros_like(item) for name, item in parameters.items()}
        self.groups: dict[tuple[int, int], list[tuple[nn.Parameter, Tensor]]] = {}
        for name, parameter in parameters.items():
            sizes = sorted(parameter.shape[-2:])
            group = self.groups.setdefault((sizes[0], sizes[1]), [])
            group.append((parameter, self.buffers[name]))

    def work(self, share: float, parts: int) -> list[Work]:
        """The matrices of a shape in `parts` pieces."""
        pieces: list[Work] = []
        for group in self.groups.values():
            size = -(-len(group) // parts)
            for begin in range(0, len(group), size):
                pieces.append(partial(self._move, group[begin : begin + size], share))
        return pieces

    def state(self) -> dict[str, Tensor]:
        return {f"muon.momentum.{name}": buffer for name, buffer in self.buffers.items()}

    @torch.no_grad()
    def _move(self, group: Sequence[tuple[nn.Parameter, Tensor]], share: float) -> None:
        rate, mixed = self.peak * share, []
        for parameter, buffer in group:
            found = gradient(parameter)
            local(buffer).lerp_(local(found), 1 - self.momentum)
            mixed.append(_stack(whole(found.lerp(buffer, self.momentum))))
        updates = orthogonalise(torch.cat(mixed), self.coefficients, self.margin, self.dtype)
        parts = torch.split(updates, [len(item) for item in mixed])
        for (parameter, _), update in zip(group, parts, strict=True):
            scale = math.sqrt(max(1.0, parameter.shape[-2] / parameter.shape[-1]))
            if self.weight_decay:
                parameter.mul_(1 - rate * self.weight_decay)
            add_whole(parameter, _like(update, parameter), -rate * scale)


class MuonKind:
    """`OptimizerKind`."""

    name = "muon"
    matrix_moments = MATRIX_MOMENTS[name]

    def of(self, parameters: Mapping[str, nn.Parameter], config: TrainConfig) -> Muon:
        dtype = DTYPES[config.muon_dtype]
        return Muon(parameters, config.learning_rate, config.weight_decay, dtype=dtype)


def _wide(matrix: Tensor) -> Tensor:
    """The matrices, or their transposes if they have more rows than columns."""
    return matrix if matrix.shape[-2] <= matrix.shape[-1] else matrix.mT


def _stack(matrix: Tensor) -> Tensor:
    """[copies, rows, columns], wide: experts are stacked already, other matrices alone."""
    return _wide(matrix if matrix.ndim == 3 else matrix[None])


def _like(wide: Tensor, parameter: Tensor) -> Tensor:
    """Back from `_stack` to the parameter's sizes."""
    turned = wide if parameter.shape[-2] <= parameter.shape[-1] else wide.mT
    return turned.reshape(parameter.shape)
