"""Cross-entropy of the output head, chunk by chunk: the full logits are never stored.

Axes: N tokens, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional

from whorl.model.padding import ROWS_MULTIPLE, pad_rows

__all__ = ["Reading", "chunk_tokens", "head_loss", "head_values"]

Reading = Callable[[Tensor, slice], Tensor]  # logits of some of the tokens -> a value of each

CHUNK_ELEMENTS = 2**21  # logits in memory at once: 8 MiB in fp32, about a CPU's cache
MIN_CHUNK_TOKENS = 64


def chunk_tokens(vocab_size: int) -> int:
    """Tokens whose logits are computed at once: a multiple of what rows are filled up to."""
    return max(MIN_CHUNK_TOKENS, CHUNK_ELEMENTS // vocab_size // ROWS_MULTIPLE * ROWS_MULTIPLE)


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
        of_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        gradients = torch.zeros_like(hidden), of_weight
        total = _by_chunks(hidden, weight, targets, chunk, softcap, gradients)
        ctx.save_for_backward(*gradients)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight = ctx.saved_tensors
        (scale,) = gradients
        of_weight = None if weight is None else weight * scale
        return hidden * scale, of_weight, None, None, None


def _by_chunks(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    targets_N: Tensor,
    chunk: int,
    softcap: float | None,
    gradients: tuple[Tensor, Tensor | None] | None,
) -> Tensor:
    """The loss; adds its gradients for hidden and weight to those given; a frozen one has none."""
    trained_N = torch.nonzero(targets_N >= 0).squeeze(1)
    every = len(trained_N) == len(targets_N)
    weight = weight_VD.to(hidden_ND.dtype)
    total = torch.zeros((), dtype=torch.float64, device=hidden_ND.device)
    with torch.no_grad(), torch.autocast(hidden_ND.device.type, enabled=False):
        for begin in range(0, len(trained_N), chunk):
            places = slice(begin, begin + chunk) if every else trained_N[begin : begin + chunk]
            wanted = targets_N[places, None]
            count = len(wanted)
            part = pad_rows(hidden_ND[places])
            logits = part @ weight.T
            if softcap is not None:
                bent = torch.tanh(logits / softcap)
                logits = softcap * bent
            scores = functional.log_softmax(logits, dim=-1, dtype=weight_VD.dtype)
            total -= scores[:count].gather(1, wanted).sum(dtype=torch.float64)
            if gradients is not None:
                delta = scores.exp_()  # softmax - onehot: the gradient for the logits
                delta[:count].scatter_add_(1, wanted, delta.new_full(wanted.shape, -1.0))
                delta[count:] = 0
                delta = delta.to(part.dtype)
                if softcap is not None:
                    delta *= 1 - bent.square()
                gradients[0][places] = (delta @ weight)[:count]
                if gradients[1] is not None:
                    _add_product(gradients[1], delta.T, part)
    return total


def head_values(
    hidden_ND: Tensor, weight_VD: Tensor, read: Reading, softcap: float | None = None
) -> Tensor:
    """[N]: what `read` makes of each token's logits; differentiable in hidden and weight.

    Chunk by chunk, and again for the gradient. read: (logits [n, V] in at least the dtype of the
    weight, which of the N tokens they are of) -> [n], each of its own logits alone.
    """
    values: Tensor = _HeadValues.apply(  # type: ignore[no-untyped-call]
        hidden_ND, weight_VD, read, chunk_tokens(len(weight_VD)), softcap
    )
    return values


class _HeadValues(Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        read: Reading,
        chunk: int,
        softcap: float | None,
    ) -> Tensor:
        ctx.save_for_backward(hidden, weight)
        ctx.rest = read, chunk, softcap
        values = torch.empty(len(hidden), dtype=weight.dtype, device=hidden.device)
        with torch.autocast(hidden.device.type, enabled=False):
            narrow = weight.to(hidden.dtype)
            for begin in range(0, len(hidden), chunk):
                places = slice(begin, min(begin + chunk, len(hidden)))
                logits = (pad_rows(hidden[places]) @ narrow.T).to(weight.dtype)
                values[places] = read(_bent(logits[: len(values[places])], softcap), places)
        return values

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight = ctx.saved_tensors
        read, chunk, softcap = ctx.rest
        of_hidden = torch.empty_like(hidden)
        of_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        with torch.autocast(hidden.device.type, enabled=False):
            narrow = weight.to(hidden.dtype)
            for begin in range(0, len(hidden), chunk):
                places = slice(begin, min(begin + chunk, len(hidden)))
                upstream = gradients[0][places]
                count, part = len(upstream), pad_rows(hidden[places])
                logits = (part @ narrow.T).to(weight.dtype).requires_grad_()
                with torch.enable_grad():
                    values = read(_bent(logits[:count], softcap), places)
                (delta,) = torch.autograd.grad(values, logits, upstream)
                delta = delta.to(part.dtype)
                of_hidden[places] = (delta @ narrow)[:count]
                if of_weight is not None:
                    _add_product(of_weight, delta.T, part)
        return of_hidden, of_weight, None, None, None


def _bent(logits: Tensor, softcap: float | None) -> Tensor:
    return logits if softcap is None else softcap * torch.tanh(logits / softcap)


def _add_product(into: Tensor, first: Tensor, second: Tensor) -> None:
    if into.dtype == first.dtype:
        into.addmm_(first, second)
    else:
        into.add_(first @ second)
