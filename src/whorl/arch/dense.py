"""The shapes whorl makes itself: Hugging Face's Qwen3 (heads normed) or Llama, without biases."""

from __future__ import annotations

from typing import Literal

from whorl.arch.shape import AttentionShape, ModelShape, Rope

__all__ = ["DenseFamily", "dense_shape"]

DenseFamily = Literal["qwen3", "llama"]


def dense_shape(
    *,
    layers: int,
    width: int,
    heads: int,
    kv_heads: int,
    head_dim: int,
    ffn_width: int,
    vocab_size: int,
    max_seq_len: int,
    family: DenseFamily = "qwen3",
    rope_theta: float = 10_000.0,
    norm_eps: float = 1e-6,
    tied_embeddings: bool = True,
    block: str = "",
) -> ModelShape:
    """Sizes in elements. block: of a package, in place of ours.

    Raises SpecError if the sizes do not fit each other.
    """
    return ModelShape(
        name=family,
        layers=layers,
        width=width,
        ffn_width=ffn_width,
        vocab_size=vocab_size,
        attention=AttentionShape(
            heads, kv_heads, head_dim, qk_norm="head" if family == "qwen3" else "none"
        ),
        family=family,
        block=block,
        norm_eps=norm_eps,
        rope=Rope(rope_theta),
        tied_embeddings=tied_embeddings,
        max_seq_len=max_seq_len,
    )
