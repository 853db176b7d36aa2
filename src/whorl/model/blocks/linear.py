"""What blocks share: products of a normed input, and sums with the residual stream.

Axes: B rows, T tokens of a row, D width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from whorl.model.blocks.norm import RmsNorm
from whorl.model.fused import normed_linear

__all__ = ["add_linear", "is_fused", "normed_products"]


def is_fused(norm: RmsNorm, joined: bool) -> bool:
    """Whether the projections of this norm's output are one product with a gradient of its own.

    joined: no projection is wrapped (by an adapter, by tensor parallelism), so none must be called.
    """
    return joined and torch.is_grad_enabled() and norm.weight.requires_grad


def normed_products(x_BTD: Tensor, norm: RmsNorm, linears: Sequence[nn.Linear]) -> Tensor:
    """The outputs of the linears of norm(x), side by side, as one product."""
    out = normed_linear(x_BTD, norm.scale(), [item.weight for item in linears], norm.eps)
    biases: list[Tensor | None] = [item.bias for item in linears]
    found = [bias for bias in biases if bias is not None]
    return out + torch.cat(found).to(out.dtype) if found else out


def add_linear(
    x_BTD: Tensor, inner: Tensor, linear: nn.Linear, norm: RmsNorm | None, joined: bool
) -> Tensor:
    """x + linear(inner), normed before it is added if there is a norm."""
    bias: Tensor | None = linear.bias
    if norm is not None or bias is not None or not joined:
        out: Tensor = linear(inner)
        return x_BTD + (out if norm is None else norm(out))
    flat = inner.flatten(0, -2)
    return torch.addmm(x_BTD.flatten(0, -2), flat, linear.weight.T).view(x_BTD.shape)
