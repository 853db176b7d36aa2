"""Muon for the matrices of the blocks, AdamW for embeddings, head and norms (or for all).

Sources: Jordan et al., "Muon", 2024; Amsel et al., "The Polar Express", 2025 (coefficients);
Loshchilov and Hutter, "Decoupled weight decay regularization", 2019.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from whorl.core.errors import RecordError
from whorl.spec.resolved import TrainConfig

__all__ = ["POLAR_EXPRESS", "Muon", "Optimizers", "orthogonalise"]

Coefficients = Sequence[tuple[float, float, float]]
# With the paper's safety factor of 2%: without it single singular values reach 6 in bfloat16.
POLAR_EXPRESS: Coefficients = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)
NORM_MARGIN = 1.02  # keeps the largest singular value below 1, where the iteration converges
MOMENTUM = 0.95
ADAM_BETAS, ADAM_EPS = (0.9, 0.95), 1e-10
ADAM_STATE = ("exp_avg", "exp_avg_sq", "step")


def orthogonalise(
    matrices: Tensor,
    coefficients: Coefficients = POLAR_EXPRESS,
    margin: float = NORM_MARGIN,
    dtype: torch.dtype = torch.bfloat16,
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
    """Momentum made orthogonal, all matrices of one shape as one batch."""

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        momentum: float = MOMENTUM,
        coefficients: Coefficients = POLAR_EXPRESS,
        margin: float = NORM_MARGIN,
    ) -> None:
        self.momentum, self.coefficients, self.margin = momentum, coefficients, margin
        self.groups: dict[tuple[int, int], list[tuple[str, nn.Parameter]]] = {}
        for name, parameter in parameters.items():
            shape = _wide(parameter).shape
            self.groups.setdefault((shape[0], shape[1]), []).append((name, parameter))
        self.buffers = {
            shape: torch.zeros(
                len(group), *shape, dtype=group[0][1].dtype, device=group[0][1].device
            )
            for shape, group in self.groups.items()
        }

    @torch.no_grad()
    def step(self, learning_rate: float, weight_decay: float) -> None:
        """Nesterov momentum; a matrix moves by learning_rate * sqrt(max(1, rows / columns))."""
        for shape, group in self.groups.items():
            gradients = torch.stack([_wide(_gradient(parameter)) for _, parameter in group])
            buffer = self.buffers[shape].lerp_(gradients, 1 - self.momentum)
            mixed = gradients.lerp_(buffer, self.momentum)
            updates = orthogonalise(mixed, self.coefficients, self.margin)
            for (_, parameter), update in zip(group, updates, strict=True):
                scale = math.sqrt(max(1.0, parameter.shape[0] / parameter.shape[1]))
                if weight_decay:
                    parameter.mul_(1 - learning_rate * weight_decay)
                parameter.add_(_like(update, parameter), alpha=-learning_rate * scale)

    def state(self) -> dict[str, Tensor]:
        """Copies, in each parameter's own orientation."""
        return {
            f"muon.momentum.{name}": _like(buffer, parameter).contiguous().clone()
            for shape, group in self.groups.items()
            for (name, parameter), buffer in zip(group, self.buffers[shape], strict=True)
        }

    def load(self, state: Mapping[str, Tensor]) -> None:
        for shape, group in self.groups.items():
            for (name, _), buffer in zip(group, self.buffers[shape], strict=True):
                buffer.copy_(_wide(state[f"muon.momentum.{name}"]))


class Optimizers:
    """The optimisers of a model, with one state dictionary of named tensors."""

    def __init__(self, named_parameters: Mapping[str, nn.Parameter], config: TrainConfig) -> None:
        self.config = config
        matrices: dict[str, nn.Parameter] = {}
        others: dict[str, nn.Parameter] = {}
        for name, parameter in named_parameters.items():
            is_matrix = parameter.ndim == 2 and name.startswith("layers.")
            (matrices if is_matrix else others)[name] = parameter
        self.muon = Muon(matrices if config.optimizer == "muon" else {})
        peaks = {2: config.embedding_learning_rate, 1: config.norm_learning_rate}
        groups: list[dict[str, Any]] = [
            {"params": [p for p in others.values() if p.ndim == ndim], "peak": peak}
            for ndim, peak in peaks.items()
        ]
        self.named = others
        if config.optimizer == "adamw":
            self.named = others | matrices
            matrix_group = {"params": list(matrices.values()), "peak": config.learning_rate}
            groups.append({**matrix_group, "weight_decay": config.weight_decay})
        self.adamw = torch.optim.AdamW(
            groups,
            lr=0.0,
            betas=ADAM_BETAS,
            eps=ADAM_EPS,
            weight_decay=0.0,
            fused=True,
        )

    def step(self, share: float) -> None:
        """One update with every peak learning rate times `share`."""
        for group in self.adamw.param_groups:
            group["lr"] = group["peak"] * share
        self.adamw.step()
        self.muon.step(self.config.learning_rate * share, self.config.weight_decay)

    def state(self) -> dict[str, Tensor]:
        """Copies of all state, by parameter name."""
        tensors = self.muon.state()
        for name, parameter in self.named.items():
            for key in ADAM_STATE:
                tensors[f"adamw.{key}.{name}"] = self.adamw.state[parameter][key].clone()
        return tensors

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Raises RecordError if a tensor is missing, unknown or of another shape."""
        expected = {
            f"adamw.{key}.{name}": () if key == "step" else tuple(parameter.shape)
            for name, parameter in self.named.items()
            for key in ADAM_STATE
        } | {name: tuple(tensor.shape) for name, tensor in self.muon.state().items()}
        found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        if found != expected:
            wrong = sorted({*found.items()} ^ {*expected.items()})
            raise RecordError("the state is of other optimisers", found=wrong[:3])
        self.muon.load(tensors)
        for name, parameter in self.named.items():
            self.adamw.state[parameter] = {
                key: tensors[f"adamw.{key}.{name}"].to(parameter.device, copy=True)
                for key in ADAM_STATE
            }


def _gradient(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


def _wide(matrix: Tensor) -> Tensor:
    """The matrix, or its transpose if it has more rows than columns."""
    return matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T


def _like(wide: Tensor, parameter: Tensor) -> Tensor:
    """Back from `_wide` to the parameter's orientation."""
    return wide if parameter.shape[0] <= parameter.shape[1] else wide.T
