"""The decoder-only transformer of a shape: one forward for training, decoding and export.

Parameter names are those of transformers' modules without the leading "model.":
embed_tokens.weight, layers.0.self_attn.q_proj.weight, …, norm.weight, lm_head.weight (absent when
tied). What differs on disk is a family's business (`model.families`).

Axes: B rows, T tokens of a row, D width, N head_dim or tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from whorl.arch.computable import check_computable
from whorl.arch.shape import ModelShape, Rope
from whorl.core.plugins import find_part
from whorl.model.adapters import AdaptedLinear
from whorl.model.attend import Attend, Segments, attention_of
from whorl.model.blocks.attention import Attention, KeyValueCache, Rotary, as_they_are
from whorl.model.blocks.experts import MixtureOfExperts
from whorl.model.blocks.feed_forward import FeedForward
from whorl.model.blocks.norm import RmsNorm
from whorl.model.compiled import Around
from whorl.model.fused import product_dtype
from whorl.model.head import Reading, head_loss, head_values
from whorl.model.rotary import inverse_frequencies

__all__ = ["Block", "Transformer"]

SANDWICHED = 4  # norms of a layer: before and behind each of its two parts


class Block(nn.Module):
    """Attention and feed-forward block or experts, each on a normed input, each added."""

    def __init__(self, shape: ModelShape, layer: int) -> None:
        super().__init__()
        self.input_layernorm = RmsNorm(shape.width, shape)
        self.post_attention_layernorm = RmsNorm(shape.width, shape)
        self.self_attn = Attention(shape, layer)
        experts = shape.experts
        self.mlp: FeedForward | MixtureOfExperts
        if experts is None or layer in experts.dense:
            self.mlp = FeedForward(shape, shape.ffn_width)
        else:
            self.mlp = MixtureOfExperts(shape)
        self.sandwiched = shape.norms_per_layer == SANDWICHED
        if self.sandwiched:
            self.pre_feedforward_layernorm = RmsNorm(shape.width, shape)
            self.post_feedforward_layernorm = RmsNorm(shape.width, shape)
        self.around: Around | None = None  # what computes the rest of the block in training

    def forward(
        self,
        x_BTD: Tensor,
        rotary: Rotary,
        attend: Attend,
        cache: KeyValueCache | None = None,
    ) -> Tensor:
        if self.around is not None and cache is None and torch.is_grad_enabled():
            return self._compiled(self.around, x_BTD, rotary, attend)
        norms: tuple[RmsNorm, RmsNorm | None]
        between = self.post_attention_layernorm
        norms = self.input_layernorm, between if self.sandwiched else None
        x_BTD = self.self_attn(x_BTD, norms, rotary, attend, cache)
        norms = between, None
        if self.sandwiched:
            norms = self.pre_feedforward_layernorm, self.post_feedforward_layernorm
        out: Tensor = self.mlp(x_BTD, norms)
        return out

    @property
    def is_plain(self) -> bool:
        """Whether `_compiled` computes what `forward` does."""
        mlp, attention = self.mlp, self.self_attn
        return (
            isinstance(mlp, FeedForward)
            and mlp.gate_proj is not None
            and mlp.activation == "silu"
            and not self.sandwiched
            and not self.input_layernorm.offset
            and all("bias" not in name for name, _ in self.named_parameters())
            and attention.joined
        )

    def _compiled(self, around: Around, x_BTD: Tensor, rotary: Rotary, attend: Attend) -> Tensor:
        """The same; every call has tensors of the same kinds, so that they compile once."""
        norm, attention, mlp = self.input_layernorm, self.self_attn, self.mlp
        assert isinstance(mlp, FeedForward) and mlp.gate_proj is not None
        x_BTD = x_BTD.to(product_dtype(x_BTD))
        half = attention.head_dim // 2
        sizes = (len(x_BTD), -1, -1, -1)
        cos, sin = (t[:, 0, :, None, :half].expand(sizes).contiguous() for t in rotary)
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
            out = attend(query, key, value, attention.window, attention.scale)
            return around.after(
                x_BTD,
                out.transpose(1, 2).flatten(2).to(x_BTD.dtype).contiguous(),
                attention.o_proj.weight,
                self.post_attention_layernorm.weight,
                (mlp.gate_proj.weight, mlp.up_proj.weight),
                mlp.down_proj.weight,
                norm.eps,
            )


def _block_of(name: str) -> Callable[[ModelShape, int], nn.Module]:
    """What makes a layer of (shape, its number): ours, or a package's of `Block`'s forward."""
    found = find_part("whorl.blocks", name, {"": Block})
    return cast(Callable[[ModelShape, int], nn.Module], found)


def _embedding(shape: ModelShape) -> nn.Embedding:
    """As torch makes it; on "meta", where nothing is drawn, without loading torch's compiler."""
    weight_VD = torch.empty(shape.vocab_size, shape.width)
    if not weight_VD.is_meta:
        nn.init.normal_(weight_VD)
    return nn.Embedding(shape.vocab_size, shape.width, _weight=weight_VD)


class Transformer(nn.Module):
    """Token ids -> hidden states; `logits` turns those into scores of the next token.

    Raises SpecError if the shape cannot be computed.
    """

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        check_computable(shape, "train")
        self.shape = shape
        self.embed_tokens = _embedding(shape)
        kind = _block_of(shape.block)
        self.layers = nn.ModuleList(kind(shape, layer) for layer in range(shape.layers))
        self.norm = RmsNorm(shape.width, shape)
        self.lm_head = (
            None if shape.tied_embeddings else nn.Linear(shape.width, shape.vocab_size, bias=False)
        )
        self.ropes = {False: shape.rope, True: shape.windowed_rope or shape.rope}
        head_dim = shape.attention.head_dim
        self.inverse_N = {rope: inverse_frequencies(rope, head_dim) for rope in self.ropes.values()}

    def join_products(self, joined: bool) -> None:
        """Whether projections of one input are one product; off for wrapped projections."""
        for module in self.modules():
            if isinstance(module, Attention | FeedForward):
                module.joined = joined

    def attend_in(self, dtype: torch.dtype | None) -> None:
        """Compute attention in this dtype whatever the products are in; None: in theirs."""
        for module in self.modules():
            if isinstance(module, Attention):
                module.dtype = dtype

    def compute_by(self, around: Around | None) -> int:
        """What computes plain blocks around attention in training; None: as they are written.

        Gives how many blocks are plain.
        """
        plain = [block for block in self.layers if isinstance(block, Block) and block.is_plain]
        for block in plain:
            block.around = around
        return len(plain)

    @property
    def lm_head_weight(self) -> Tensor:
        """[V, D]; the embedding itself when tied."""
        return self.embed_tokens.weight if self.lm_head is None else self.lm_head.weight

    def rotary(self, rope: Rope, positions_BT: Tensor) -> Rotary:
        """Tables for the positions, in the dtype of the weights, from angles in float32."""
        inverse_N = self.inverse_N[rope].to(positions_BT.device)
        angles = positions_BT[..., None].float() * inverse_N
        angles = torch.cat((angles, angles), dim=-1)[:, None]
        dtype, factor = self.norm.weight.dtype, rope.attention_factor
        return Rotary((angles.cos() * factor).to(dtype), (angles.sin() * factor).to(dtype))

    def forward(
        self,
        ids_BT: Tensor,
        segments: Segments | None = None,
        cache: KeyValueCache | None = None,
        finish: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Hidden states [B, T, D], normed: what `lm_head_weight` is applied to.

        Without segments every row is one causal sequence at positions 0..T-1. With a cache,
        segments must give positions and a mask over all tokens attended to. finish: what is made
        of them in here, so that the head's weights are there when parameters are sharded.
        """
        segments = segments or Segments()
        attend = attention_of(segments, ids_BT.shape[1])
        positions_BT = segments.positions_BT
        if positions_BT is None:
            positions_BT = torch.arange(ids_BT.shape[1], device=ids_BT.device)[None]
        tables = {rope: self.rotary(rope, positions_BT) for rope in self.inverse_N}
        x_BTD = self.embed_tokens(ids_BT)
        if self.shape.embedding_scale != 1:
            x_BTD = x_BTD * torch.tensor(self.shape.embedding_scale).to(x_BTD)
        for layer, block in enumerate(self.layers):
            rotary = tables[self.ropes[layer in self.shape.attention.windowed]]
            x_BTD = block(x_BTD, rotary, attend, cache)
        out: Tensor = self.norm(x_BTD)
        return out if finish is None else finish(out)

    def nats(self, ids_BT: Tensor, targets_BT: Tensor, segments: Segments | None = None) -> Tensor:
        """Sum of -ln p(target) over the tokens whose target is not negative; float64."""

        def finish(hidden_BTD: Tensor) -> Tensor:
            hidden_ND, weight_VD = self._head_product(hidden_BTD)
            cap = self.shape.logit_softcap
            return head_loss(hidden_ND, weight_VD, targets_BT.flatten(), softcap=cap)

        nats: Tensor = self(ids_BT, segments, finish=finish)
        return nats

    def values(
        self, ids_BT: Tensor, wanted_BT: Tensor, read: Reading, segments: Segments | None = None
    ) -> Tensor:
        """[N]: what `read` makes of the logits at the N places that are wanted, row by row.

        As `head_values`: the logits of all of them are never there at once.
        """

        def finish(hidden_BTD: Tensor) -> Tensor:
            hidden_ND, weight_VD = self._head_product(hidden_BTD)
            places = torch.nonzero(wanted_BT.flatten()).squeeze(1)
            hidden_ND = hidden_ND.index_select(0, places)
            return head_values(hidden_ND, weight_VD, read, self.shape.logit_softcap)

        found: Tensor = self(ids_BT, segments, finish=finish)
        return found

    def _head_product(self, hidden_BTD: Tensor) -> tuple[Tensor, Tensor]:
        """What is multiplied for logits before their cap; wider where an adapter drops inputs."""
        hidden_ND = hidden_BTD.to(product_dtype(hidden_BTD)).flatten(0, 1)
        head = cast(nn.Module | None, self.lm_head)
        if isinstance(head, AdaptedLinear):
            return head.widened(hidden_ND)
        return hidden_ND, self.lm_head_weight

    def logits(self, hidden_BTD: Tensor, weight_VD: Tensor | None = None) -> Tensor:
        """[B, T, D] -> [B, T, V]; by the head's weights of before where they are given."""
        weight_VD = self.lm_head_weight if weight_VD is None else weight_VD
        logits = functional.linear(hidden_BTD, weight_VD)
        cap = self.shape.logit_softcap
        return logits if cap is None else cap * torch.tanh(logits / cap)
