"""Decoding one more piece of a sequence: with a cache (torch), or as a graph to export (OpenVINO).

Axes: B rows, T new tokens of a row, P tokens before them, S = P + T, H query heads, K key/value
heads, N head_dim, D width, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from whorl.model.attend import Segments
from whorl.model.transformer import Transformer

__all__ = ["ExportedDecoder", "GrowingCache", "next_logits"]


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

    def branches(self, after_B: Tensor) -> GrowingCache:
        """A cache of rows that begin with these rows of this one; it is not changed."""
        cache = GrowingCache()
        cache._layers = [(key[after_B], value[after_B]) for key, value in self._layers]
        return cache


def next_logits(
    model: Transformer, ids_BT: Tensor, cache: GrowingCache, *, only_last: bool = False
) -> Tensor:
    """Append ids to the cached sequences; logits [B, T, V] of what follows each of them.

    only_last: of what follows the last one alone, [B, 1, V].
    """
    past, new = cache.num_tokens, ids_BT.shape[1]
    places = torch.arange(past, past + new)
    mask_BHTS = (torch.arange(past + new)[None, :] <= places[:, None])[None, None]
    hidden_BTD = model(ids_BT, Segments(places[None], mask_BHTS=mask_BHTS), cache)
    return model.logits(hidden_BTD[:, -1:] if only_last else hidden_BTD)


class ExportedDecoder(nn.Module):
    """(input_ids, attention_mask, position_ids, past) -> (logits, present keys and values …).

    The model's own forward with a cache given from outside; every size comes from the inputs.
    """

    def __init__(self, model: Transformer) -> None:
        super().__init__()
        self.model = model

    def example(self) -> dict[str, object]:
        """Inputs of the right kinds to trace with: two rows, three tokens before, two new."""
        shape = self.model.shape
        past_BKPN = torch.zeros(2, shape.attention.kv_heads, 3, shape.attention.head_dim)
        return {
            "input_ids": torch.ones(2, 2, dtype=torch.int64),
            "attention_mask": torch.ones(2, 5, dtype=torch.int64),
            "position_ids": torch.tensor([[3, 4], [3, 4]]),
            "past": [(past_BKPN.clone(), past_BKPN.clone()) for _ in range(shape.layers)],
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
        cache = GivenCache(past)
        hidden_BTD = self.model(input_ids, Segments(position_ids, mask_BHTS=mask_BHTS), cache)
        return (self.model.logits(hidden_BTD), *cache.present)


class GivenCache:
    """Keys and values of before, [B, K, P, N] a layer; collects those of now."""

    def __init__(self, past: list[tuple[Tensor, Tensor]]) -> None:
        self.past, self.present = past, list[Tensor]()

    def update(self, layer: int, key_BKTN: Tensor, value_BKTN: Tensor) -> tuple[Tensor, Tensor]:
        key = torch.cat((self.past[layer][0], key_BKTN), dim=2)
        value = torch.cat((self.past[layer][1], value_BKTN), dim=2)
        self.present += key, value
        return key, value
