"""Muon for the matrices of the blocks, AdamW for embeddings, head and norms (or for all).

Sources: Jordan et al., "Muon", 2024; Amsel et al., "The Polar Express", 2025 (coefficients);
Loshchilov and Hutter, "Decoupled weight decay regularization", 2019.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from whorl.core.errors import RecordError
from whorl.spec.resolved import TrainConfig

__all__ = ["DTYPES", "POLAR_EXPRESS", "AdamW", "Muon", "Optimizers", "orthogonalise"]

Coefficients = Sequence[tuple[float, float, float]]
Work = Callable[[], None]
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
ADAM_BETAS, ADAM_EPS = (0.9, 0.95), 1e-10


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
    """Momentum made orthogonal, all matrices of one shape as one batch."""

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        momentum: float = MOMENTUM,
        coefficients: Coefficients = POLAR_EXPRESS,
        margin: float = NORM_MARGIN,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.momentum, self.coefficients, self.margin = momentum, coefficients, margin
        self.dtype = dtype  # of the iteration
        self.groups: dict[tuple[int, int], list[tuple[str, nn.Parameter]]] = {}
        for name, parameter in parameters.items():
            rows, columns = _wide(parameter).shape[-2:]
            self.groups.setdefault((rows, columns), []).append((name, parameter))
        self.buffers = {
            shape: [torch.zeros_like(_stack(parameter)) for _, parameter in group]
            for shape, group in self.groups.items()
        }

    def step(self, learning_rate: float, weight_decay: float) -> None:
        """Nesterov momentum; a matrix moves by learning_rate * sqrt(max(1, rows / columns))."""
        for work in self.work(learning_rate, weight_decay, 1):
            work()

    def work(self, learning_rate: float, weight_decay: float, parts: int) -> list[Work]:
        """A step in pieces that may run beside each other: the matrices of a shape in `parts`."""
        pieces: list[Work] = []
        for shape, group in self.groups.items():
            size = -(-len(group) // parts)
            for begin in range(0, len(group), size):
                part = group[begin : begin + size]
                buffers = self.buffers[shape][begin : begin + size]
                pieces.append(partial(self._move, part, buffers, learning_rate, weight_decay))
        return pieces

    @torch.no_grad()
    def _move(
        self,
        group: Sequence[tuple[str, nn.Parameter]],
        buffers: Sequence[Tensor],
        learning_rate: float,
        weight_decay: float,
    ) -> None:
        gradients = [_stack(_gradient(parameter)) for _, parameter in group]
        torch._foreach_lerp_(list(buffers), gradients, 1 - self.momentum)
        mixed = torch.cat(torch._foreach_lerp(gradients, list(buffers), self.momentum))
        updates = orthogonalise(mixed, self.coefficients, self.margin, self.dtype)
        parts = torch.split(updates, [len(buffer) for buffer in buffers])
        for (_, parameter), update in zip(group, parts, strict=True):
            scale = math.sqrt(max(1.0, parameter.shape[-2] / parameter.shape[-1]))
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
                buffer.copy_(_stack(state[f"muon.momentum.{name}"]))


class AdamW:
    """torch's fused AdamW through its functional form: the class would load a compiler first."""

    def __init__(
        self, parameters: Mapping[str, nn.Parameter], peak: float, weight_decay: float = 0.0
    ) -> None:
        self.parameters, self.peak, self.weight_decay = parameters, peak, weight_decay
        self.tensors = {
            "exp_avg": [torch.zeros_like(p) for p in parameters.values()],
            "exp_avg_sq": [torch.zeros_like(p) for p in parameters.values()],
            "step": [torch.zeros((), device=p.device) for p in parameters.values()],
        }

    @torch.no_grad()
    def step(self, share: float) -> None:
        """One update with the peak learning rate times `share`."""
        if self.parameters:
            adamw(
                list(self.parameters.values()),
                [_gradient(p) for p in self.parameters.values()],
                self.tensors["exp_avg"],
                self.tensors["exp_avg_sq"],
                [],
                self.tensors["step"],
                fused=True,
                amsgrad=False,
                beta1=ADAM_BETAS[0],
                beta2=ADAM_BETAS[1],
                lr=self.peak * share,
                weight_decay=self.weight_decay,
                eps=ADAM_EPS,
                maximize=False,
            )

    def state(self) -> dict[str, Tensor]:
        return {
            f"adamw.{key}.{name}": tensor.clone()
            for key, tensors in self.tensors.items()
            for name, tensor in zip(self.parameters, tensors, strict=True)
        }

    def load(self, state: Mapping[str, Tensor]) -> None:
        for key, tensors in self.tensors.items():
            for name, tensor in zip(self.parameters, tensors, strict=True):
                tensor.copy_(state[f"adamw.{key}.{name}"])


class Optimizers:
    """The optimisers of a model, with one state dictionary of named tensors."""

    def __init__(self, named_parameters: Mapping[str, nn.Parameter], config: TrainConfig) -> None:
        self.config = config
        kinds: dict[str, dict[str, nn.Parameter]] = {
            kind: {} for kind in ("matrix", "embedding", "head", "norm")
        }
        for name, parameter in named_parameters.items():
            kinds[_kind(name, parameter)][name] = parameter
        by_muon = config.optimizer == "muon"
        dtype = DTYPES[config.muon_dtype]
        self.muon = Muon(kinds["matrix"] if by_muon else {}, dtype=dtype)
        self.adamw = [
            AdamW(kinds["embedding"], config.embedding_learning_rate),
            AdamW(kinds["head"], config.head_learning_rate),
            AdamW(kinds["norm"], config.norm_learning_rate),
            AdamW({} if by_muon else kinds["matrix"], config.learning_rate, config.weight_decay),
        ]

    def step(self, share: float) -> None:
        """One update with every peak learning rate times `share`."""
        for work in self.work(share, 1):
            work()

    def work(self, share: float, parts: int) -> list[Work]:
        """A step in pieces that may run beside each other."""
        rate, decay = self.config.learning_rate * share, self.config.weight_decay
        by_muon = self.muon.work(rate, decay, parts)
        return [*by_muon, *(partial(group.step, share) for group in self.adamw if group.parameters)]

    def state(self) -> dict[str, Tensor]:
        """Copies of all state, by parameter name."""
        parts = [self.muon.state(), *(group.state() for group in self.adamw)]
        return {name: tensor for part in parts for name, tensor in part.items()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Raises RecordError if a tensor is missing, unknown or of another shape."""
        expected = {name: tuple(tensor.shape) for name, tensor in self.state().items()}
        found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        if found != expected:
            wrong = sorted({*found.items()} ^ {*expected.items()})
            raise RecordError("the state is of other optimisers", found=wrong[:3])
        self.muon.load(tensors)
        for group in self.adamw:
            group.load(tensors)


def _kind(name: str, parameter: nn.Parameter) -> str:
    if parameter.ndim == 1:
        return "norm"
    if name.startswith("layers."):
        return "matrix"
    return "head" if name.startswith("lm_head.") else "embedding"


def _gradient(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


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
