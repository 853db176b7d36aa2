"""The decoder-only transformer: HF Qwen3 or Llama, the same numbers, in one file.

Axes: B rows, T tokens of a row, S tokens attended to (S = T without a cache), D width,
H query heads, K key/value heads, N head_dim, V vocabulary.

Parameter names are HF's without the leading "model.": embed_tokens.weight,
layers.0.self_attn.q_proj.weight, …, norm.weight, lm_head.weight (absent when tied).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from whorl.arch.architecture import Architecture
from whorl.model.compiled import Around
from whorl.model.fused import (
    attention_heads,
    gated_silu,
    normed_linear,
    product_dtype,
    unit_rms,
)
from whorl.model.head import head_loss

__all__ = ["KeyValueCache", "Segments", "Transformer", "segments_of"]


class KeyValueCache(Protocol):
    """Keys and values of the tokens before, for decoding."""

    def update(self, layer: int, key_BKTN: Tensor, value_BKTN: Tensor) -> tuple[Tensor, Tensor]:
        """Append the new tokens' keys and values; return all of them, [B, K, S, N]."""
        ...


class Segments(NamedTuple):
    """Where a token stands and what it may look at."""

    positions_BT: Tensor | None = None  # None: 0..T-1 in every row
    mask_BHTS: Tensor | None = None  # bool (True: may attend) or added; None: causal
    causal_rows: int = 0  # the first rows of the batch, plainly causal: mask is for the others

    def to(self, device: torch.device) -> Segments:
        positions, mask = self.positions_BT, self.mask_BHTS
        return Segments(
            None if positions is None else positions.to(device),
            None if mask is None else mask.to(device),
            self.causal_rows,
        )


class RmsNorm(nn.Module):
    """x / rms(x) * weight over the last axis."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return unit_rms(x, self.eps) * self.weight.to(x.dtype)


class Attention(nn.Module):
    """Causal grouped-query attention with rotary positions."""

    def __init__(self, architecture: Architecture, layer: int) -> None:
        super().__init__()
        a = architecture
        self.layer, self.heads, self.kv_heads, self.head_dim = (
            layer,
            a.heads,
            a.kv_heads,
            a.head_dim,
        )
        self.q_proj = nn.Linear(a.width, a.heads * a.head_dim, bias=False)
        self.k_proj = nn.Linear(a.width, a.kv_heads * a.head_dim, bias=False)
        self.v_proj = nn.Linear(a.width, a.kv_heads * a.head_dim, bias=False)
        self.o_proj = nn.Linear(a.heads * a.head_dim, a.width, bias=False)
        with_norm = a.family == "qwen3"
        self.joined = True  # False: each projection is called, as tensor parallelism needs
        self.dtype: torch.dtype | None = None  # of scores and softmax; None: the products'
        self.q_norm = RmsNorm(a.head_dim, a.norm_eps) if with_norm else None
        self.k_norm = RmsNorm(a.head_dim, a.norm_eps) if with_norm else None

    def forward(
        self,
        x_BTD: Tensor,
        norm: RmsNorm,
        rotary: tuple[Tensor, Tensor],
        segments: Segments,
        cache: KeyValueCache | None = None,
    ) -> Tensor:
        """x + attention(norm(x))."""
        rows, tokens, _ = x_BTD.shape
        joined = projected(x_BTD, norm, (self.q_proj, self.k_proj, self.v_proj), self.joined)
        joined = joined.to(self.dtype or joined.dtype)
        heads = self.heads, self.kv_heads
        query, key, value = (
            part.transpose(1, 2)  # [B, H or K, T, N]
            for part in attention_heads(joined, heads, self.head_norms(), *rotary, norm.eps)
        )
        if cache is not None:
            key, value = cache.update(self.layer, key, value)
        with as_they_are(x_BTD.device.type):
            out_BHTN = attend(query, key, value, segments)
        inner = out_BHTN.transpose(1, 2).reshape(rows, tokens, -1)
        return add_linear(x_BTD, inner, self.o_proj, self.joined)

    def head_norms(self) -> Tensor | None:
        """The norms' weights of the queries' heads, then of the keys': [H + K, N]."""
        if self.q_norm is None or self.k_norm is None:
            return None
        query, key = self.q_norm.weight, self.k_norm.weight
        return torch.cat((query.expand(self.heads, -1), key.expand(self.kv_heads, -1)))


def projected(x_BTD: Tensor, norm: RmsNorm, linears: Sequence[nn.Linear], joined: bool) -> Tensor:
    """The outputs of the linears of norm(x), side by side. joined: as one product, to train."""
    if joined and torch.is_grad_enabled() and norm.weight.requires_grad:
        return normed_linear(x_BTD, norm.weight, [item.weight for item in linears], norm.eps)
    x_BTD = norm(x_BTD)
    return torch.cat([item(x_BTD) for item in linears], dim=-1)


def add_linear(x_BTD: Tensor, inner: Tensor, linear: nn.Linear, joined: bool) -> Tensor:
    """x + linear(inner). joined: the sum is part of the product."""
    if not joined:
        out: Tensor = x_BTD + linear(inner)
        return out
    flat = inner.flatten(0, -2)
    return torch.addmm(x_BTD.flatten(0, -2), flat, linear.weight.T).view(x_BTD.shape)


def as_they_are(kind: str) -> AbstractContextManager[object]:
    """Operations in the dtypes of their inputs, on a kind of device that has autocast."""
    known = torch.amp.is_autocast_available(kind)
    return torch.autocast(kind, enabled=False) if known else nullcontext()


def attend(query: Tensor, key: Tensor, value: Tensor, segments: Segments) -> Tensor:
    """Scaled dot-product attention; [B, H, T, N] and [B, K, S, N] -> [B, H, T, N]."""
    grouped = query.shape[1] != key.shape[1]
    mask, plain = segments.mask_BHTS, segments.causal_rows
    sdpa = functional.scaled_dot_product_attention
    if mask is None:
        return sdpa(query, key, value, is_causal=True, enable_gqa=grouped)
    if mask.dtype not in (torch.bool, query.dtype):
        mask = mask.to(query.dtype)
    if not plain:
        return sdpa(query, key, value, attn_mask=mask, enable_gqa=grouped)
    return torch.cat(
        (
            sdpa(query[:plain], key[:plain], value[:plain], is_causal=True, enable_gqa=grouped),
            sdpa(query[plain:], key[plain:], value[plain:], attn_mask=mask, enable_gqa=grouped),
        )
    )


class Mlp(nn.Module):
    """down(silu(gate(x)) * up(x))."""

    def __init__(self, width: int, ffn_width: int) -> None:
        super().__init__()
        self.joined = True
        self.gate_proj = nn.Linear(width, ffn_width, bias=False)
        self.up_proj = nn.Linear(width, ffn_width, bias=False)
        self.down_proj = nn.Linear(ffn_width, width, bias=False)

    def forward(self, x_BTD: Tensor, norm: RmsNorm) -> Tensor:
        """x + mlp(norm(x))."""
        hidden = gated_silu(projected(x_BTD, norm, (self.gate_proj, self.up_proj), self.joined))
        return add_linear(x_BTD, hidden, self.down_proj, self.joined)


class Block(nn.Module):
    """Attention and MLP, each on a normed input, each added to the residual."""

    def __init__(self, architecture: Architecture, layer: int) -> None:
        super().__init__()
        self.input_layernorm = RmsNorm(architecture.width, architecture.norm_eps)
        self.self_attn = Attention(architecture, layer)
        self.post_attention_layernorm = RmsNorm(architecture.width, architecture.norm_eps)
        self.mlp = Mlp(architecture.width, architecture.ffn_width)
        self.around: Around | None = None  # what computes the rest of the block in training

    def forward(
        self,
        x_BTD: Tensor,
        rotary: tuple[Tensor, Tensor],
        segments: Segments,
        cache: KeyValueCache | None = None,
    ) -> Tensor:
        if self.around is not None and cache is None and torch.is_grad_enabled():
            return self._compiled(self.around, x_BTD, rotary, segments)
        x_BTD = self.self_attn(x_BTD, self.input_layernorm, rotary, segments, cache)
        out: Tensor = self.mlp(x_BTD, self.post_attention_layernorm)
        return out

    def _compiled(
        self, around: Around, x_BTD: Tensor, rotary: tuple[Tensor, Tensor], segments: Segments
    ) -> Tensor:
        """The same; every call has tensors of the same kinds, so that they compile once."""
        norm, attention, mlp = self.input_layernorm, self.self_attn, self.mlp
        x_BTD = x_BTD.to(product_dtype(x_BTD))
        cos, sin = (part.expand(len(x_BTD), -1, -1, -1).contiguous() for part in rotary)
        head_norms = None
        if attention.q_norm is not None and attention.k_norm is not None:
            head_norms = attention.q_norm.weight, attention.k_norm.weight
        with as_they_are(x_BTD.device.type):
            heads = around.before(
                x_BTD,
                norm.weight,
                (attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight),
                head_norms,
                (cos, sin),
                norm.eps,
                attention.head_dim,
                attention.dtype or x_BTD.dtype,
            )
            query, key, value = (part.transpose(1, 2) for part in heads)
            inner = attend(query, key, value, segments).transpose(1, 2).flatten(2)
            return around.after(
                x_BTD,
                inner.to(x_BTD.dtype).contiguous(),
                attention.o_proj.weight,
                self.post_attention_layernorm.weight,
                (mlp.gate_proj.weight, mlp.up_proj.weight),
                mlp.down_proj.weight,
                norm.eps,
            )


class Transformer(nn.Module):
    """Token ids -> hidden states; `logits` turns those into scores of the next token."""

    cos: Tensor
    sin: Tensor

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        a = architecture
        self.architecture = a
        self.embed_tokens = nn.Embedding(a.vocab_size, a.width)
        self.layers = nn.ModuleList(Block(a, layer) for layer in range(a.layers))
        self.norm = RmsNorm(a.width, a.norm_eps)
        self.lm_head = None if a.tied_embeddings else nn.Linear(a.width, a.vocab_size, bias=False)
        half = torch.arange(0, a.head_dim, 2, dtype=torch.float32) / a.head_dim
        angles = torch.arange(a.max_seq_len, dtype=torch.float32)[:, None] / a.rope_theta**half
        self.register_buffer("cos", angles.cos(), persistent=False)  # [max_seq_len, N/2]
        self.register_buffer("sin", angles.sin(), persistent=False)

    def join_products(self, joined: bool) -> None:
        """Whether projections of one input are one product; off for wrapped projections."""
        for block in self.layers:
            assert isinstance(block, Block)
            block.self_attn.joined = block.mlp.joined = joined

    def attend_in(self, dtype: torch.dtype | None) -> None:
        """Compute attention in this dtype whatever the products are in; None: in theirs."""
        for block in self.layers:
            assert isinstance(block, Block)
            block.self_attn.dtype = dtype

    def compute_by(self, around: Around | None) -> None:
        """What computes the blocks around attention in training; None: as they are written."""
        for block in self.layers:
            assert isinstance(block, Block)
            block.around = around

    @property
    def lm_head_weight(self) -> Tensor:
        """[V, D]; the embedding itself when tied."""
        return self.embed_tokens.weight if self.lm_head is None else self.lm_head.weight

    def rotary(self, tokens: int, positions_BT: Tensor | None) -> tuple[Tensor, Tensor]:
        """cos and sin, each [B or 1, T, 1, N/2]."""
        if positions_BT is None:
            return self.cos[None, :tokens, None], self.sin[None, :tokens, None]
        return self.cos[positions_BT][:, :, None], self.sin[positions_BT][:, :, None]

    def forward(
        self,
        ids_BT: Tensor,
        segments: Segments | None = None,
        cache: KeyValueCache | None = None,
    ) -> Tensor:
        """Hidden states [B, T, D], normed: what `lm_head_weight` is applied to.

        Without segments every row is one causal sequence at positions 0..T-1. With a cache,
        segments must give positions and a mask over all S tokens.
        """
        segments = segments or Segments()
        rotary = self.rotary(ids_BT.shape[1], segments.positions_BT)
        x_BTD = self.embed_tokens(ids_BT)
        for block in self.layers:
            x_BTD = block(x_BTD, rotary, segments, cache)
        out: Tensor = self.norm(x_BTD)
        return out

    def nats(self, ids_BT: Tensor, targets_BT: Tensor, segments: Segments | None = None) -> Tensor:
        """Sum of -ln p(target) over the tokens whose target is not negative; float64."""
        hidden_BTD = self(ids_BT, segments)
        hidden_BTD = hidden_BTD.to(product_dtype(hidden_BTD))
        return head_loss(hidden_BTD.flatten(0, 1), self.lm_head_weight, targets_BT.flatten())

    def logits(self, hidden_BTD: Tensor) -> Tensor:
        """[B, T, D] -> [B, T, V]."""
        return functional.linear(hidden_BTD, self.lm_head_weight)


def segments_of(starts_BT: Tensor, dtype: torch.dtype = torch.float32) -> Segments:
    """Positions and an additive mask that keep every token within its segment.

    starts_BT: bool, True where a segment begins. A row's first token always begins one.
    Rows of one segment need no mask if they come first: see `Segments.causal_rows`.
    """
    starts_BT = starts_BT.clone()
    starts_BT[:, 0] = True
    rows, tokens = starts_BT.shape
    if not starts_BT[:, 1:].any():
        return Segments()
    place = torch.arange(tokens, device=starts_BT.device).expand(rows, tokens)
    begin = torch.where(starts_BT, place, 0).cummax(dim=1).values  # [B, T]
    crossing = starts_BT[:, 1:].any(dim=1)
    first_crossing = int(crossing.int().argmax())
    lower = torch.ones(tokens, tokens, dtype=torch.bool, device=starts_BT.device).tril()
    masked = begin[first_crossing:]
    allowed = (masked[:, :, None] == masked[:, None, :]) & lower
    mask = torch.zeros(allowed.shape, dtype=dtype, device=starts_BT.device)
    mask.masked_fill_(~allowed, float("-inf"))
    return Segments(place - begin, mask[:, None], first_crossing)
