"""Parameters, floating-point operations and bytes of an architecture, counted exactly."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from whorl.arch.architecture import Architecture

__all__ = [
    "BYTES_PER_ELEMENT",
    "FlopCount",
    "Matrix",
    "ParameterCount",
    "TrainingBytes",
    "attention_pairs",
    "block_matrices",
    "count_flops",
    "count_parameters",
    "count_training_bytes",
    "kv_cache_bytes_per_token",
    "train_flops",
]

Optimizer = Literal["muon", "adamw"]
BYTES_PER_ELEMENT = {"fp32": 4, "bf16": 2, "int8": 1}
BACKWARD_PER_FORWARD = 2  # gradients of the input and of the weights, one product each
ADAMW_MOMENTS, MUON_MOMENTS = 2, 1  # float32 numbers kept per parameter


@dataclass(frozen=True)
class Matrix:
    """One weight matrix of a block: y = x W^T, W of shape [rows, columns]."""

    name: str
    rows: int  # output features
    columns: int  # input features

    @property
    def elements(self) -> int:
        return self.rows * self.columns


@dataclass(frozen=True)
class ParameterCount:
    """Numbers of parameters. `head` is 0 when it shares the embedding's weights."""

    embedding: int
    head: int
    attention: int  # the four projections, all layers
    feed_forward: int  # gate, up and down, all layers
    norms: int

    @property
    def hidden_matrices(self) -> int:
        """What Muon updates."""
        return self.attention + self.feed_forward

    @property
    def total(self) -> int:
        return self.embedding + self.head + self.non_embedding

    @property
    def non_embedding(self) -> int:
        """Everything but the embedding and the head."""
        return self.hidden_matrices + self.norms


@dataclass(frozen=True)
class FlopCount:
    """Per token; a multiply-add is two. Norms, rotations and softmax are not counted."""

    blocks: float  # products with the blocks' matrices, forward
    head: float  # the product with the head, forward
    attention: float  # scores and weighted sums over the past, forward

    @property
    def forward(self) -> float:
        return self.blocks + self.head + self.attention

    @property
    def training(self) -> float:
        """Forward and backward, without any recomputation."""
        return (1 + BACKWARD_PER_FORWARD) * self.forward


@dataclass(frozen=True)
class TrainingBytes:
    weights: int
    gradients: int
    optimizer_state: int

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer_state


def block_matrices(architecture: Architecture) -> Iterator[Matrix]:
    """The seven matrices of one block."""
    a = architecture
    query_width, kv_width = a.heads * a.head_dim, a.kv_heads * a.head_dim
    yield Matrix("q_proj", query_width, a.width)
    yield Matrix("k_proj", kv_width, a.width)
    yield Matrix("v_proj", kv_width, a.width)
    yield Matrix("o_proj", a.width, query_width)
    yield Matrix("gate_proj", a.ffn_width, a.width)
    yield Matrix("up_proj", a.ffn_width, a.width)
    yield Matrix("down_proj", a.width, a.ffn_width)


def count_parameters(architecture: Architecture) -> ParameterCount:
    """Parameters by part: HF's Qwen3ForCausalLM and LlamaForCausalLM."""
    a = architecture
    elements = {matrix.name: matrix.elements for matrix in block_matrices(a)}
    attention = sum(elements[name] for name in ("q_proj", "k_proj", "v_proj", "o_proj"))
    feed_forward = sum(elements[name] for name in ("gate_proj", "up_proj", "down_proj"))
    norms_of_block = 2 * a.width + (2 * a.head_dim if a.family == "qwen3" else 0)
    table = a.vocab_size * a.width
    return ParameterCount(
        embedding=table,
        head=0 if a.tied_embeddings else table,
        attention=a.layers * attention,
        feed_forward=a.layers * feed_forward,
        norms=a.layers * norms_of_block + a.width,
    )


def attention_pairs(num_tokens: int) -> int:
    """Pairs (token, token it may look at) in one causal sequence: 1 + 2 + … + n."""
    return num_tokens * (num_tokens + 1) // 2


def count_flops(architecture: Architecture, seq_len: int) -> FlopCount:
    """FLOPs of one token, the mean over one causal sequence of seq_len tokens.

    A row that holds several documents needs fewer: this is the upper limit.
    """
    a = architecture
    per_pair = 2 * 2 * a.heads * a.head_dim  # a dot product and a weighted sum
    return FlopCount(
        blocks=2.0 * a.layers * sum(matrix.elements for matrix in block_matrices(a)),
        head=2.0 * a.vocab_size * a.width,
        attention=a.layers * per_pair * attention_pairs(seq_len) / seq_len,
    )


def train_flops(architecture: Architecture, seq_len: int, num_tokens: int) -> float:
    """FLOPs of training on num_tokens, without the optimiser's."""
    return count_flops(architecture, seq_len).training * num_tokens


def count_training_bytes(
    architecture: Architecture, optimizer: Optimizer = "muon"
) -> TrainingBytes:
    """float32 weights and gradients; two moments per parameter under AdamW, one under Muon.

    Muon updates the hidden matrices; embedding, head and norms stay with AdamW.
    """
    parameters = count_parameters(architecture)
    element_bytes = BYTES_PER_ELEMENT["fp32"]
    if optimizer == "muon":
        hidden = parameters.hidden_matrices
        moments = MUON_MOMENTS * hidden + ADAMW_MOMENTS * (parameters.total - hidden)
    else:
        moments = ADAMW_MOMENTS * parameters.total
    weights = element_bytes * parameters.total
    return TrainingBytes(weights, weights, element_bytes * moments)


def kv_cache_bytes_per_token(architecture: Architecture, precision: str = "fp32") -> int:
    """Bytes of keys and values kept per token of context while generating."""
    a = architecture
    return 2 * a.layers * a.kv_heads * a.head_dim * BYTES_PER_ELEMENT[precision]
