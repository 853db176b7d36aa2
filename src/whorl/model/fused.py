"""Pieces of the transformer with gradients written by hand: fewer passes over memory.

Each is an ordinary formula; without gradients the same values, but for rounding, and nothing saved.
Axes: B rows, T tokens of a row, D width, O outputs, H query heads (in norm_HN the keys' too), K
key/value heads, N head_dim.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional

__all__ = [
    "attention_heads",
    "gated_silu",
    "normed_linear",
    "product_dtype",
    "unit_rms",
    "wide",
]


def unit_rms(x: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x²) + eps) over the last axis; at least float32 inside."""
    if torch.is_grad_enabled() and x.requires_grad:
        y: Tensor = _UnitRms.apply(wide(x), eps)  # type: ignore[no-untyped-call]
    else:
        y = wide(x) * _inverse_rms(wide(x), eps)
    return y.to(x.dtype)


def normed_linear(x_BTD: Tensor, norm_D: Tensor, weights: Sequence[Tensor], eps: float) -> Tensor:
    """(unit_rms(x) * norm) W' for W = the weights [O_i, D] one below the other: [B, T, sum of O_i].

    One product instead of several; the norm's weight scales W, which is smaller than x.
    """
    out: Tensor = _NormedLinear.apply(  # type: ignore[no-untyped-call]
        x_BTD, norm_D, eps, product_dtype(x_BTD), *weights
    )
    return out


def attention_heads(
    joined_BTO: Tensor,
    heads: tuple[int, int],
    norm_HN: Tensor | None,
    cos: Tensor,
    sin: Tensor,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries [B, T, H, N], keys and values [B, T, K, N] of what `normed_linear` gave for all.

    Queries and keys are divided by their rms and multiplied by the weights of their norms (one row
    for each head of the queries, then of the keys; None: no norm), then their pairs (i, i + N/2)
    are turned by their positions' angles (HF's half layout). heads: (H, K). cos, sin: one row of
    N/2 for each token.
    """
    cos, sin = cos.to(joined_BTO.dtype), sin.to(joined_BTO.dtype)
    if torch.is_grad_enabled() and joined_BTO.requires_grad:
        out: tuple[Tensor, Tensor, Tensor] = _Heads.apply(  # type: ignore[no-untyped-call]
            joined_BTO, norm_HN, cos, sin, eps, heads
        )
        return out
    together, value = _split_heads(joined_BTO, heads)
    if norm_HN is not None:
        together = unit_rms(together, eps) * norm_HN.to(together.dtype)
    first, second = together.chunk(2, dim=-1)
    turned = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
    return turned[:, :, : heads[0]], turned[:, :, heads[0] :], value


def gated_silu(joined: Tensor) -> Tensor:
    """silu(gate) * up, of [..., gate then up]."""
    if torch.is_grad_enabled() and joined.requires_grad:
        out: Tensor = _GatedSilu.apply(joined)  # type: ignore[no-untyped-call]
        return out
    gate, up = joined.chunk(2, dim=-1)
    return functional.silu(gate) * up


def wide(x: Tensor) -> Tensor:
    """At least float32, for what is summed."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def product_dtype(x: Tensor) -> torch.dtype:
    """What matrix products are computed in here: autocast's dtype, else the input's own."""
    kind = x.device.type
    if not torch.amp.is_autocast_available(kind):
        return x.dtype
    enabled = torch.is_autocast_enabled(kind)
    dtype: torch.dtype = torch.get_autocast_dtype(kind) if enabled else x.dtype
    return dtype


def _inverse_rms(x: Tensor, eps: float) -> Tensor:
    squares = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_()
    inverse: Tensor = squares.div_(x.shape[-1]).add_(eps).rsqrt_()
    return inverse


def _unit_gradient(
    gradient: Tensor, y: Tensor, inverse: Tensor, out: Tensor | None = None
) -> Tensor:
    """Gradient for x of y = x * inverse(x); y and inverse as computed forward."""
    mean = torch.linalg.vecdot(gradient, y).unsqueeze(-1).div_(y.shape[-1])
    return torch.addcmul(gradient, y, mean, value=-1, out=out).mul_(inverse)


class _UnitRms(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float) -> Tensor:
        inverse = _inverse_rms(x, eps)
        y: Tensor = x * inverse
        ctx.save_for_backward(y, inverse)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _unit_gradient(gradients[0], *ctx.saved_tensors), None


class _NormedLinear(Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, norm: Tensor, eps: float, dtype: torch.dtype, *weights: Tensor
    ) -> Tensor:
        ctx.dtype, ctx.x_dtype, ctx.sizes = dtype, x.dtype, [len(weight) for weight in weights]
        flat = wide(x).flatten(0, -2)
        inverse = _inverse_rms(flat, eps)
        y = (flat * inverse).to(dtype)
        ctx.save_for_backward(y, inverse, norm, *weights)
        with torch.autocast(x.device.type, enabled=False):
            out: Tensor = y @ (torch.cat(weights) * norm).to(dtype).T
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        y, inverse, norm, *weights = ctx.saved_tensors
        gradient = gradients[0].flatten(0, -2)
        joined = torch.cat(weights)
        scaled_gradient = (gradient.T @ y).to(joined.dtype)  # for W * norm
        norm_gradient = (scaled_gradient * joined).sum(0)
        y_gradient = gradient @ (joined * norm).to(ctx.dtype)
        x_gradient = _unit_gradient(y_gradient.to(inverse.dtype), y.to(inverse.dtype), inverse)
        split = scaled_gradient.mul_(norm).split(ctx.sizes)
        shape = (*gradients[0].shape[:-1], -1)
        return x_gradient.to(ctx.x_dtype).view(shape), norm_gradient, None, None, *split


class _Heads(Function):
    @staticmethod
    def forward(
        ctx: Any,
        joined: Tensor,
        norm: Tensor | None,
        cos: Tensor,
        sin: Tensor,
        eps: float,
        heads: tuple[int, int],
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.heads = heads
        together, value = _split_heads(joined, heads)
        out = torch.empty(together.shape, dtype=joined.dtype, device=joined.device)
        if norm is None:
            _rotate(together, cos, sin, cos, sin, out)
            ctx.save_for_backward(cos, sin)
            value = value.contiguous()  # a view would keep all of joined
        else:
            norm = norm.to(joined.dtype)
            inverse = _inverse_rms(wide(together), eps).to(joined.dtype)
            first, second = norm.chunk(2, dim=-1)
            _rotate(together, cos * first, sin * second, cos * second, sin * first, out)
            out.mul_(inverse)
            ctx.save_for_backward(cos, sin, joined, inverse, norm)
        return out[:, :, : heads[0]], out[:, :, heads[0] :], value

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        cos, sin, *rest = ctx.saved_tensors
        query, key, value = gradients
        num_query, num_key = ctx.heads
        whole = torch.empty(
            (*value.shape[:2], num_query + 2 * num_key, value.shape[-1]),
            dtype=value.dtype,
            device=value.device,
        )
        _rotate(query, cos, -sin, cos, -sin, whole[:, :, :num_query])
        _rotate(key, cos, -sin, cos, -sin, whole[:, :, num_query : num_query + num_key])
        whole[:, :, num_query + num_key :] = value
        norm_gradient = None
        if rest:
            joined, inverse, norm = rest
            y = _split_heads(joined, ctx.heads)[0] * inverse
            turned = whole[:, :, : num_query + num_key]
            norm_gradient = (turned * y).flatten(0, 1).sum(0)
            turned.mul_(norm)
            _unit_gradient(turned, y, inverse, out=turned)
        return whole.flatten(2), norm_gradient, None, None, None, None


def _split_heads(joined: Tensor, heads: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """(queries' and keys' heads, values' heads); views."""
    apart = joined.view(*joined.shape[:2], heads[0] + 2 * heads[1], -1)
    return apart[:, :, : sum(heads)], apart[:, :, sum(heads) :]


def _rotate(
    x: Tensor,
    first_cos: Tensor,
    second_sin: Tensor,
    second_cos: Tensor,
    first_sin: Tensor,
    out: Tensor,
) -> None:
    """out = [x1 first_cos - x2 second_sin, x2 second_cos + x1 first_sin], x1 and x2 halves of x."""
    first, second = x.chunk(2, dim=-1)
    out_first, out_second = out.chunk(2, dim=-1)
    torch.mul(first, first_cos, out=out_first)
    out_first.addcmul_(second, second_sin, value=-1)
    torch.mul(second, second_cos, out=out_second)
    out_second.addcmul_(first, first_sin)


class _GatedSilu(Function):
    @staticmethod
    def forward(ctx: Any, joined: Tensor) -> Tensor:
        gate, up = joined.chunk(2, dim=-1)
        opened = functional.silu(gate)
        ctx.save_for_backward(joined, opened)
        return opened * up

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        joined, opened = ctx.saved_tensors
        (gradient,) = gradients
        gate, up = joined.chunk(2, dim=-1)
        out = torch.empty_like(joined)
        out_gate, out_up = out.chunk(2, dim=-1)
        torch.mul(opened, gradient, out=out_up)
        torch.ops.aten.silu_backward(gradient * up, gate, grad_input=out_gate)
        return out
