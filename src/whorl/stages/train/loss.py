"""Cross-entropy of the output head, chunk by chunk: the full logits are never stored.

Axes: N tokens, D width, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional

__all__ = ["backward_from", "chunk_tokens", "head_loss"]

CHUNK_ELEMENTS = 2**21  # logits in memory at once: 8 MiB in fp32, about a CPU's cache
MIN_CHUNK_TOKENS = 64


def chunk_tokens(vocab_size: int) -> int:
    """Tokens whose logits are computed at once."""
    return max(MIN_CHUNK_TOKENS, CHUNK_ELEMENTS // vocab_size)


def head_loss(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    targets_N: Tensor,
    scale: float,
    weight_gradient_VD: Tensor | None,
    chunk: int | None = None,
) -> tuple[Tensor, Tensor | None]:
    """(sum of -ln p(target) over trained tokens, float64; gradient of `scale` times it).

    targets: -1 where nothing is trained. Softmax and its gradient are in the dtype of the weight;
    the matrix products in that of the hidden states (bf16 under autocast). The gradient for the
    head is added to `weight_gradient_VD`; None: no gradient is computed at all.
    """
    trained_N = torch.nonzero(targets_N >= 0).squeeze(1)
    every = len(trained_N) == len(targets_N)
    hidden = hidden_ND if every else hidden_ND.index_select(0, trained_N)
    targets = targets_N if every else targets_N.index_select(0, trained_N)
    weight = weight_VD.to(hidden.dtype)
    chunk = chunk or chunk_tokens(len(weight_VD))
    total = torch.zeros((), dtype=torch.float64, device=hidden.device)
    gradient = torch.empty_like(hidden) if weight_gradient_VD is not None else None
    device = hidden.device.type
    with torch.no_grad(), torch.autocast(device, enabled=False):
        for begin in range(0, len(hidden), chunk):
            part = hidden[begin : begin + chunk]
            wanted = targets[begin : begin + chunk, None]
            logits = part @ weight.T
            scores = functional.log_softmax(logits, dim=-1, dtype=weight_VD.dtype)
            total -= scores.gather(1, wanted).sum(dtype=torch.float64)
            if gradient is None or weight_gradient_VD is None:
                continue
            delta = scores.exp_()  # softmax - onehot: the gradient for the logits, unscaled
            delta.scatter_add_(1, wanted, delta.new_full(wanted.shape, -1.0))
            _add_gradients(delta, part, weight, scale, gradient[begin : begin + chunk])
            _add_head_gradient(delta, part, scale, weight_gradient_VD)
    if gradient is not None and not every:
        gradient = torch.zeros_like(hidden_ND).index_copy_(0, trained_N, gradient)
    return total, gradient


class _Given(Function):
    """A scalar whose gradient is already known."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return hidden.new_zeros(())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return gradient, None


def backward_from(hidden: Tensor, gradient: Tensor) -> None:
    """hidden.backward(gradient), which would load a symbolic algebra package first."""
    _Given.apply(hidden, gradient).backward()  # type: ignore[no-untyped-call]


def _add_gradients(delta: Tensor, part: Tensor, weight: Tensor, scale: float, out: Tensor) -> None:
    """out = scale * delta @ weight."""
    if delta.dtype == weight.dtype:
        torch.addmm(part, delta, weight, beta=0.0, alpha=scale, out=out)
    else:  # scaled in the wide dtype, where nothing underflows
        out.copy_((delta * scale).to(weight.dtype) @ weight)


def _add_head_gradient(delta: Tensor, part: Tensor, scale: float, into: Tensor) -> None:
    """into += scale * delta.T @ part."""
    if delta.dtype == part.dtype == into.dtype:
        into.addmm_(delta.T, part, alpha=scale)
    else:
        into.add_(delta.to(part.dtype).T @ part, alpha=scale)
