"""Decoding one more piece of a sequence: with a cache (torch), or as a graph to export (OpenVINO).

Axes: B rows, T new tokens of a row, P tokens before them, S = P + T, H query heads, K key/value
heads, N head_dim, D width, V vocabulary.

`ExportDecoder` computes what `Transformer` computes, spelled out for tracing: every size comes
from the inputs, and the mask from attention_mask, as OpenVINO's paged attention expects.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from whorl.model.transformer import Attention, Block, RmsNorm, Segments, Transformer

__all__ = ["ExportDecoder", "GrowingCache", "next_logits"]


class GrowingCache:
    """Keys and values of sequences, [B, K, S, N] a layer; longer with every forward."""

    def __init__(self) -> None:
        self._layers: list[tuple[Tensor, Tensor]] = []

    @property
    def num_tokens(self) -> int:
        return self._layers[0][0].shape[2] if self._layers else 0

    def update(self, layer: int, key_BKTN: Tensor, value_BKTN: Tensor) -> tuple[Tensor, Tensor]:
        if layer == len(self._layers):
            self._layers.append((key_BKTN, value_BKTN))
        else:
            key, value = self._layers[layer]
            self._layers[layer] = (
                torch.cat((key, key_BKTN), dim=2),
                torch.cat((value, value_BKTN), dim=2),
            )
        return self._layers[layer]

    def branches(self, rows: int) -> GrowingCache:
        """A cache of so many rows that all begin with this one; it is not changed."""
        cache = GrowingCache()
        cache._layers = [
            (key.expand(rows, -1, -1, -1), value.expand(rows, -1, -1, -1))
            for key, value in self._layers
        ]
        return cache


def next_logits(model: Transformer, ids_BT: Tensor, cache: GrowingCache) -> Tensor:
    """Append ids to the cached sequences; logits [B, T, V] of what follows each of them."""
    past, new = cache.num_tokens, ids_BT.shape[1]
    places = torch.arange(past, past + new)
    mask_BHTS = (torch.arange(past + new)[None, :] <= places[:, None])[None, None]
    return model.logits(model(ids_BT, Segments(places[None], mask_BHTS), cache))


class ExportDecoder(nn.Module):
    """(input_ids, attention_mask, position_ids, past) -> (logits, present keys and values …)."""

    def __init__(self, model: Transformer) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("cos", torch.cat((model.cos, model.cos), dim=-1), persistent=False)
        self.register_buffer("sin", torch.cat((model.sin, model.sin), dim=-1), persistent=False)

    def example(self) -> dict[str, object]:
        """Inputs of the right kinds to trace with: two rows, three tokens before, two new."""
        a = self.model.architecture
        past_BKPN = torch.zeros(2, a.kv_heads, 3, a.head_dim)
        return {
            "input_ids": torch.ones(2, 2, dtype=torch.int64),
            "attention_mask": torch.ones(2, 5, dtype=torch.int64),
            "position_ids": torch.tensor([[3, 4], [3, 4]]),
            "past": [(past_BKPN.clone(), past_BKPN.clone()) for _ in range(a.layers)],
        }

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        position_ids: Tensor,
        past: list[tuple[Tensor, Tensor]],
    ) -> tuple[Tensor, ...]:
        """input_ids, position_ids [B, T]; attention_mask [B, S]; past 2 x [B, K, P, N] a layer."""
        tokens, all_tokens = input_ids.shape[1], attention_mask.shape[1]
        keys, queries = torch.arange(all_tokens), torch.arange(tokens) + (all_tokens - tokens)
        causal = (keys[None, :] <= queries[:, None])[None, None]
        mask_BHTS = causal & attention_mask[:, None, None, :].bool()
        cos, sin = self.get_buffer("cos"), self.get_buffer("sin")
        rotary = cos[position_ids][:, None], sin[position_ids][:, None]  # [B, 1, T, N]
        x_BTD = self.model.embed_tokens(input_ids)
        present: list[Tensor] = []
        for block, layer_past in zip(self.model.layers, past, strict=True):
            assert isinstance(block, Block)
            attended, key_value = _attend(block, x_BTD, mask_BHTS, rotary, layer_past)
            x_BTD = x_BTD + attended
            x_BTD = x_BTD + _mlp(block, x_BTD)
            present += key_value
        return (self.model.logits(_normed(self.model.norm, x_BTD)), *present)


def _normed(norm: RmsNorm, x: Tensor) -> Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + norm.eps) * norm.weight


def _mlp(block: Block, x_BTD: Tensor) -> Tensor:
    x_BTD = _normed(block.post_attention_layernorm, x_BTD)
    gated = functional.silu(block.mlp.gate_proj(x_BTD)) * block.mlp.up_proj(x_BTD)
    return block.mlp.down_proj(gated)  # type: ignore[no-any-return]


def _attend(
    block: Block,
    x_BTD: Tensor,
    mask_BHTS: Tensor,
    rotary: tuple[Tensor, Tensor],
    past: tuple[Tensor, Tensor],
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    attention: Attention = block.self_attn
    heads, kv_heads, head_dim = attention.heads, attention.kv_heads, attention.head_dim
    rows, tokens = x_BTD.shape[0], x_BTD.shape[1]
    x_BTD = _normed(block.input_layernorm, x_BTD)
    query = attention.q_proj(x_BTD).view(rows, tokens, heads, head_dim)
    key = attention.k_proj(x_BTD).view(rows, tokens, kv_heads, head_dim)
    value = attention.v_proj(x_BTD).view(rows, tokens, kv_heads, head_dim).transpose(1, 2)
    if attention.q_norm is not None and attention.k_norm is not None:
        query, key = _normed(attention.q_norm, query), _normed(attention.k_norm, key)
    query, key = _turned(query.transpose(1, 2), *rotary), _turned(key.transpose(1, 2), *rotary)
    key, value = torch.cat((past[0], key), dim=2), torch.cat((past[1], value), dim=2)
    out_BHTN = functional.scaled_dot_product_attention(
        query, _repeated(key, heads), _repeated(value, heads), attn_mask=mask_BHTS
    )
    joined = out_BHTN.transpose(1, 2).reshape(rows, tokens, heads * head_dim)
    return attention.o_proj(joined), (key, value)


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


def _repeated(x_BKSN: Tensor, heads: int) -> Tensor:
    """Each key/value head for the query heads of its group; [B, H, S, N]."""
    rows, kv_heads, all_tokens, head_dim = x_BKSN.shape
    groups = heads // int(kv_heads)
    if groups == 1:
        return x_BKSN
    wide = x_BKSN[:, :, None].expand(rows, kv_heads, groups, all_tokens, head_dim)
    return wide.reshape(rows, heads, all_tokens, head_dim)
