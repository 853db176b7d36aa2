"""Cross-entropy of the output head, chunk by chunk: the full logits are never stored.

Axes: N tokens, D width, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional

__all__ = ["chunk_tokens", "head_loss"]

CHUNK_ELEMENTS = 2**21  # logits in memory at once: 8 MiB in fp32, about a CPU's cache
MIN_CHUNK_TOKENS = 64


def chunk_tokens(vocab_size: int) -> int:
    """Tokens whose logits are computed at once."""
    return max(MIN_CHUNK_TOKENS, CHUNK_ELEMENTS // vocab_size)


def head_loss(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    targets_N: Tensor,
    chunk: int | None = None,
    softcap: float | None = None,
) -> Tensor:
    """Sum of -ln p(target) over trained tokens, float64; differentiable in hidden and weight.

    targets: -1 where nothing is trained. softcap: logits become softcap * tanh(logit / softcap).
    Softmax and its gradient are in the dtype of the weight; the matrix products in that of the
    hidden states (bf16 under autocast).
    """
    chunk = chunk or chunk_tokens(len(weight_VD))
    if torch.is_grad_enabled() and (hidden_ND.requires_grad or weight_VD.requires_grad):
        loss: Tensor = _HeadLoss.apply(  # type: ignore[no-untyped-call]
            hidden_ND, weight_VD, targets_N, chunk, softcap
        )
        return loss
    return _by_chunks(hidden_ND, weight_VD, targets_N, chunk, softcap, None)


class _HeadLoss(Function):
    """The gradients are computed with the loss, while a chunk's logits exist."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        chunk: int,
        softcap: float | None,
    ) -> Tensor:
        gradients = torch.zeros_like(hidden), torch.zeros_like(weight)
        total = _by_chunks(hidden, weight, targets, chunk, softcap, gradients)
        ctx.save_for_backward(*gradients)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight = ctx.saved_tensors
        (scale,) = gradients
        return hidden * scale, weight * scale, None, None, None


def _by_chunks(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    targets_N: Tensor,
    chunk: int,
    softcap: float | None,
    gradients: tuple[Tensor, Tensor] | None,
) -> Tensor:
    """The loss; adds its gradients for hidden and weight to those given."""
    trained_N = torch.nonzero(targets_N >= 0).squeeze(1)
    every = len(trained_N) == len(targets_N)
    weight = weight_VD.to(hidden_ND.dtype)
    total = torch.zeros((), dtype=torch.float64, device=hidden_ND.device)
    with torch.no_grad(), torch.autocast(hidden_ND.device.type, enabled=False):
        for begin in range(0, len(trained_N), chunk):
            places = slice(begin, begin + chunk) if every else trained_N[begin : begin + chunk]
            part, wanted = hidden_ND[places], targets_N[places, None]
            logits = part @ weight.T
            if softcap is not None:
                bent = torch.tanh(logits / softcap)
                logits = softcap * bent
            scores = functional.log_softmax(logits, dim=-1, dtype=weight_VD.dtype)
            total -= scores.gather(1, wanted).sum(dtype=torch.float64)
            if gradients is not None:
                delta = scores.exp_()  # softmax - onehot: the gradient for the logits
                delta.scatter_add_(1, wanted, delta.new_full(wanted.shape, -1.0))
                delta = delta.to(part.dtype)
                if softcap is not None:
                    delta *= 1 - bent.square()
                gradients[0][places] = delta @ weight
                _add_product(gradients[1], delta.T, part)
    return total


def _add_product(into: Tensor, first: Tensor, second: Tensor) -> None:
    if into.dtype == first.dtype:
        into.addmm_(first, second)
    else:
        into.add_(first @ second)
