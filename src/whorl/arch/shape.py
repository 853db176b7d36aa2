"""The shape of any decoder-only transformer whorl can plan for: what decides its cost.

Wider than `Architecture`, which is what whorl itself trains: GPT, Llama, Qwen, Gemma, DeepSeek
and their mixtures of experts. Sizes in elements.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Literal

from whorl.core.errors import SpecError

__all__ = ["Attention", "Experts", "Latent", "ModelShape"]

Norm = Literal["rms", "layer", "layer_no_bias"]


@dataclass(frozen=True)
class Latent:
    """Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434): low-rank queries and keys."""

    query_rank: int | None  # None: queries come straight from the hidden state
    kv_rank: int
    rope_dim: int  # of head_dim, the part that is rotated; shared by all heads among the keys


@dataclass(frozen=True)
class Attention:
    heads: int
    kv_heads: int
    head_dim: int  # of queries and keys; with latent attention the rotated part included
    value_dim: int | None = None  # of values, when it differs
    latent: Latent | None = None
    qkv_bias: bool = False
    output_bias: bool = False
    qk_norm: Literal["none", "head", "width"] = "none"
    sinks: bool = False  # one learned logit per head (gpt-oss)
    window: int | None = None  # tokens a sliding-window layer looks back
    window_layers: int = 0  # layers that use the window; the others see everything

    @property
    def values(self) -> int:
        """Elements of one head's value."""
        return self.head_dim if self.value_dim is None else self.value_dim


@dataclass(frozen=True)
class Experts:
    """A mixture of experts in place of the feed-forward block."""

    count: int
    active: int  # routed experts per token
    width: int  # inner size of one routed expert
    shared: int = 0  # experts every token passes through
    shared_width: int | None = None  # inner size of one shared expert; None: as the routed
    shared_gate: bool = False  # a learned gate on the shared expert's output (Qwen2-MoE)
    dense_layers: int = 0  # first layers with the dense feed-forward block instead
    router_bias: bool = False
    score_correction: bool = False  # DeepSeek-V3's bias per expert


@dataclass(frozen=True)
class ModelShape:
    """Raises SpecError if the sizes cannot belong to one model."""

    name: str
    layers: int
    width: int
    ffn_width: int  # of the dense feed-forward block
    vocab_size: int
    attention: Attention
    experts: Experts | None = None
    gated: bool = True  # gate, up and down (SwiGLU); False: up and down
    ffn_bias: bool = False
    norm: Norm = "rms"
    norms_per_layer: int = 2
    embedding_norm: bool = False  # one more after the embedding (BLOOM)
    tied_embeddings: bool = False
    head_bias: bool = False
    learned_positions: int = 0  # rows of a learned position table
    max_seq_len: int = 0  # 0: not stated
    predicted_tokens: int = 0  # extra multi-token-prediction layers (DeepSeek-V3)

    def __post_init__(self) -> None:
        _check_counts(self, f"model {self.name}")
        attention = self.attention
        if attention.heads % attention.kv_heads:
            raise SpecError(
                f"model {self.name}: attention heads {attention.heads} are not divisible by "
                f"kv_heads {attention.kv_heads}",
                do=f"set kv_heads to a divisor of {attention.heads}",
            )
        if attention.window_layers > self.layers:
            raise SpecError(
                f"model {self.name}: more sliding-window layers than layers",
                found=attention.window_layers,
                expected=f"at most {self.layers}",
            )
        if self.experts is not None and self.experts.active > self.experts.count:
            raise SpecError(
                f"model {self.name}: more active experts than experts",
                found=self.experts.active,
                expected=f"at most {self.experts.count}",
            )

    @property
    def expert_layers(self) -> int:
        """Layers whose feed-forward block is a mixture of experts."""
        return 0 if self.experts is None else self.layers - self.experts.dense_layers


MAY_BE_ZERO = frozenset(
    {"window_layers", "shared", "dense_layers", "learned_positions", "max_seq_len"}
    | {"predicted_tokens", "norms_per_layer", "ffn_width"}
)


def _check_counts(value: Any, where: str) -> None:
    """Every number must be a whole one of at least 1, or 0 where nothing is meant."""
    for item in fields(value):
        number = getattr(value, item.name)
        if is_dataclass(number):
            _check_counts(number, f"{where}: {item.name}")
        elif isinstance(number, bool) or not isinstance(number, int | float):
            continue
        elif number != int(number) or number < (0 if item.name in MAY_BE_ZERO else 1):
            raise SpecError(
                f"{where}: {item.name}",
                found=number,
                expected="a whole number of at least " + ("0" if item.name in MAY_BE_ZERO else "1"),
            )
