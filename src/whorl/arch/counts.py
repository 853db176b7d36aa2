"""Parameters, FLOPs and bytes of an architecture whorl trains: those of its shape."""

from __future__ import annotations

from typing import Literal

from whorl.arch.architecture import Architecture
from whorl.arch.shape_counts import (
    LayerMatrix,
    ShapeCounts,
    ShapeFlops,
    TrainingBytes,
    attention_pairs,
    count_shape,
    flops_per_token,
    kv_bytes_per_token,
    layer_matrices,
    shape_of,
    training_bytes,
)

__all__ = [
    "BYTES_PER_ELEMENT",
    "attention_pairs",
    "block_matrices",
    "count_flops",
    "count_parameters",
    "count_training_bytes",
    "kv_cache_bytes_per_token",
    "train_flops",
]

BYTES_PER_ELEMENT = {"fp32": 4, "bf16": 2, "int8": 1}


def block_matrices(architecture: Architecture) -> tuple[LayerMatrix, ...]:
    """The seven matrices of one block."""
    return layer_matrices(shape_of(architecture), "dense")


def count_parameters(architecture: Architecture) -> ShapeCounts:
    """Parameters by part: HF's Qwen3ForCausalLM and LlamaForCausalLM."""
    return count_shape(shape_of(architecture))


def count_flops(architecture: Architecture, seq_len: int) -> ShapeFlops:
    """FLOPs of one token, the mean over one causal sequence of seq_len tokens.

    A row that holds several documents needs fewer: this is the upper limit.
    """
    return flops_per_token(shape_of(architecture), seq_len)


def train_flops(architecture: Architecture, seq_len: int, num_tokens: int) -> float:
    """FLOPs of training on num_tokens, without the optimiser's."""
    return count_flops(architecture, seq_len).training * num_tokens


def count_training_bytes(
    architecture: Architecture, optimizer: Literal["muon", "adamw"] = "muon"
) -> TrainingBytes:
    """Everything in float32; two moments per parameter under AdamW, one under Muon.

    Muon updates the hidden matrices; embedding, head and norms stay with AdamW.
    """
    return training_bytes(shape_of(architecture), optimizer)


def kv_cache_bytes_per_token(architecture: Architecture, precision: str = "fp32") -> int:
    """Bytes of keys and values kept per token of context while generating."""
    return int(kv_bytes_per_token(shape_of(architecture), BYTES_PER_ELEMENT[precision]))
