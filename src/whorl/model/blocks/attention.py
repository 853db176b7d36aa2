"""Causal attention with rotary positions: grouped or not, heads normed or not, windowed or not.

Axes: B rows, T tokens of a row, D width, H query heads, K key/value heads, N head_dim, S tokens
attended to.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from whorl.arch.shape import ModelShape
from whorl.model.attend import Attend
from whorl.model.blocks.linear import add_linear, is_fused, normed_products
from whorl.model.blocks.norm import RmsNorm
from whorl.model.fused import attention_heads

__all__ = ["Attention", "KeyValueCache", "Rotary", "as_they_are"]


class KeyValueCache(Protocol):
    """Keys and values of the tokens before, for decoding."""

    def update(self, layer: int, key_BKTN: Tensor, value_BKTN: Tensor) -> tuple[Tensor, Tensor]:
        """Append the new tokens' keys and values; return all of them, [B, K, S, N]."""
        ...


class Rotary(NamedTuple):
    """Cosines and sines of the positions' angles, [B or 1, 1, T, N]: both halves equal."""

    cos: Tensor
    sin: Tensor


class Attention(nn.Module):
    """x + o_proj(attention(norm(x))), with one more norm before the sum if the shape has four."""

    def __init__(self, shape: ModelShape, layer: int) -> None:
        super().__init__()
        a = shape.attention
        self.layer = layer
        self.heads, self.kv_heads, self.head_dim = a.heads, a.kv_heads, a.head_dim
        self.window = a.window if layer in a.windowed else None
        self.scale = a.query_scale  # None: 1 / sqrt(head_dim)
        self.q_proj = nn.Linear(shape.width, a.heads * a.head_dim, bias=a.qkv_bias)
        self.k_proj = nn.Linear(shape.width, a.kv_heads * a.head_dim, bias=a.qkv_bias)
        self.v_proj = nn.Linear(shape.width, a.kv_heads * a.head_dim, bias=a.qkv_bias)
        self.o_proj = nn.Linear(a.heads * a.head_dim, shape.width, bias=a.output_bias)
        with_norm = a.qk_norm == "head"
        self.q_norm = RmsNorm(a.head_dim, shape) if with_norm else None
        self.k_norm = RmsNorm(a.head_dim, shape) if with_norm else None
        self.joined = True  # False: each projection is called, as wrapped ones must be
        self.dtype: torch.dtype | None = None  # of scores and softmax; None: the products'

    def forward(
        self,
        x_BTD: Tensor,
        norms: tuple[RmsNorm, RmsNorm | None],
        rotary: Rotary,
        attend: Attend,
        cache: KeyValueCache | None = None,
    ) -> Tensor:
        """norms: of the input, and of the output before it is added."""
        if is_fused(norms[0], self.joined):
            query, key, value = self._joined_heads(x_BTD, norms[0], rotary)
        else:
            query, key, value = self._plain_heads(norms[0](x_BTD), rotary)
        if cache is not None:
            key, value = cache.update(self.layer, key, value)
        with as_they_are(x_BTD.device.type):
            out_BHTN = attend(query, key, value, self.window, self.scale)
        inner = out_BHTN.transpose(1, 2).flatten(2)
        return add_linear(x_BTD, inner, self.o_proj, norms[1], self.joined)

    def _joined_heads(
        self, x_BTD: Tensor, norm: RmsNorm, rotary: Rotary
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries [B, H, T, N], keys and values [B, K, T, N]; few passes over memory."""
        joined = normed_products(x_BTD, norm, (self.q_proj, self.k_proj, self.v_proj))
        joined = joined.to(self.dtype or joined.dtype)
        half = self.head_dim // 2
        cos, sin = (table[:, 0, :, None, :half] for table in rotary)  # [B or 1, T, 1, N/2]
        heads = self.heads, self.kv_heads
        query, key, value = attention_heads(joined, heads, self._head_norms(), cos, sin, norm.eps)
        return query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)

    def _head_norms(self) -> Tensor | None:
        """The norms' scales of the queries' heads, then of the keys': [H + K, N]."""
        if self.q_norm is None or self.k_norm is None:
            return None
        query, key = self.q_norm.scale(), self.k_norm.scale()
        return torch.cat((query.expand(self.heads, -1), key.expand(self.kv_heads, -1)))

    def _plain_heads(self, y_BTD: Tensor, rotary: Rotary) -> tuple[Tensor, Tensor, Tensor]:
        """The same of a normed input, spelled out: what runs without gradients and is exported."""
        sizes = (*y_BTD.shape[:2], -1, self.head_dim)
        query = self.q_proj(y_BTD).view(sizes)
        key, value = self.k_proj(y_BTD).view(sizes), self.v_proj(y_BTD).view(sizes)
        if self.q_norm is not None and self.k_norm is not None:
            query, key = self.q_norm(query), self.k_norm(key)
        query, key, value = (part.transpose(1, 2) for part in (query, key, value))
        query, key = _turned(query, rotary), _turned(key, rotary)
        dtype = self.dtype or query.dtype
        return query.to(dtype), key.to(dtype), value.to(dtype)


def _turned(x_BHTN: Tensor, rotary: Rotary) -> Tensor:
    """Pairs (i, i + N/2) turned by their angle."""
    first, second = x_BHTN.chunk(2, dim=-1)
    cos, sin = rotary.cos.to(x_BHTN.dtype), rotary.sin.to(x_BHTN.dtype)
    return x_BHTN * cos + torch.cat((-second, first), dim=-1) * sin


def as_they_are(kind: str) -> AbstractContextManager[object]:
    """Operations in the dtypes of their inputs, on a kind of device that has autocast."""
    known = torch.amp.is_autocast_available(kind)
    return torch.autocast(kind, enabled=False) if known else nullcontext()
