"""What whorl can compute: the one place that says which shapes it trains, exports and serves."""

from __future__ import annotations

from typing import Literal

from whorl.arch.activations import ACTIVATIONS
from whorl.arch.shape import ModelShape
from whorl.core.errors import SpecError

__all__ = ["COMPUTED_FAMILIES", "MASK_TOKENS", "Purpose", "block_tokens", "check_computable"]

Purpose = Literal["train", "serve", "export"]
COMPUTED_FAMILIES = (
    "gemma3_text",
    "llama",
    "mistral",
    "mixtral",
    "qwen2",
    "qwen2_moe",
    "qwen3",
    "qwen3_moe",
)
SCALINGS = ("default", "linear", "llama3", "yarn")
# Longer rows of several documents are attended one by one, shorter ones by a mask: in float32 one
# such row's has 4 MiB.
MASK_TOKENS = 1024
# Rows of short documents are attended in blocks of so many tokens, each with the block before it.
BLOCK_TOKENS = (32, 64, 128, 256)


def block_tokens(row_tokens: int, longest: int) -> int:
    """Tokens of a block in which a row is attended whose documents have at most `longest`.

    Those of the row where blocks would not halve the pairs of tokens, do not divide it, or where
    it has no mask.
    """
    if row_tokens > MASK_TOKENS:
        return row_tokens
    fit = (b for b in BLOCK_TOKENS if longest <= b <= row_tokens // 4 and not row_tokens % b)
    return next(fit, row_tokens)


def check_computable(shape: ModelShape, purpose: Purpose) -> None:
    """Raises SpecError, with every reason, if the shape cannot be used for the purpose.

    "train" and "serve": by whorl's own transformer; "export": as an OpenVINO graph.
    """
    always = _reasons(shape)
    reasons = always + (_export_reasons(shape) if purpose == "export" else [])
    if reasons:
        raise SpecError(
            f"whorl cannot {purpose} {shape.name or 'this model'}",
            found="; ".join(reasons),
            expected="a model of " + ", ".join(COMPUTED_FAMILIES) if always else None,
            do=None if always else "compress: none in the recipe, and whorl serve --engine torch",
        )


def _reasons(shape: ModelShape) -> list[str]:
    a = shape.attention
    ropes = [shape.rope, *([shape.windowed_rope] if shape.windowed_rope else [])]
    wrong = {
        f"model_type {shape.family or 'unknown'}": shape.family not in COMPUTED_FAMILIES,
        f"activation {shape.activation}": shape.activation not in ACTIVATIONS,
        f"{shape.norm} norms": shape.norm != "rms",
        f"{shape.norms_per_layer} norms a layer": shape.norms_per_layer not in (2, 4),
        "a norm of the embedding": shape.embedding_norm,
        "learned positions": bool(shape.learned_positions),
        "a bias of the head": shape.head_bias,
        "latent attention": a.latent is not None,
        "values narrower than keys": a.values != a.head_dim,
        f"an odd head_dim of {a.head_dim}": a.head_dim % 2 == 1,
        "norms of all queries together": a.qk_norm == "width",
        "attention sinks": a.sinks,
        "soft-capped scores": a.softcap is not None,
        "multi-token prediction": bool(shape.predicted_tokens),
        "scans, beside attention or in its place": a.mixer is not None,
        "partly rotated heads": any(rope.rotated_share != 1 for rope in ropes),
    }
    wrong |= {f"rope scaling {rope.scaling}": rope.scaling not in SCALINGS for rope in ropes}
    if shape.experts is not None:
        e = shape.experts
        wrong["biased routers"] = e.router_bias or e.score_correction
        wrong[f"{e.shared} shared experts"] = e.shared > 1
    return [reason for reason, is_wrong in wrong.items() if is_wrong]


def _export_reasons(shape: ModelShape) -> list[str]:
    wrong = {
        f"the block {shape.block}": bool(shape.block),
        "experts: each token would pass through all of them": shape.experts is not None,
        "sliding windows: paged attention would see too much": bool(shape.attention.windowed),
    }
    return [reason for reason, is_wrong in wrong.items() if is_wrong]
