"""A shape of about a given size, by one rule, for plans that choose the size themselves."""

from __future__ import annotations

import math
from dataclasses import replace

from whorl.arch.shape import AttentionShape, ModelShape
from whorl.arch.shape_counts import count_shape
from whorl.core.errors import PlanError
from whorl.core.units import format_count

__all__ = ["LLAMA_3_VOCAB", "llama_like"]

LLAMA_3_VOCAB = 128_256
HEAD_DIM, KV_HEADS, FFN_RATIO, FFN_MULTIPLE = 128, 8, 3.5, 256
WIDTHS = (*range(128, 1024, 128), *range(1024, 8192, 512), *range(8192, 65_536, 1024))
SLIM, WIDE = 100, 130  # width over layers
TIED_BELOW = 4096  # widths, as Llama 3.2
MOST_OFF = 0.15  # of the size asked for
MOST_ODD = math.log(1.6)  # width over layers may be that far from the rule


def llama_like(parameters: float, vocab_size: int = LLAMA_3_VOCAB) -> ModelShape:
    """The shape of about so many parameters, in the proportions of Llama 3 (2407.21783, table 3).

    Heads of 128, eight of keys and values (fewer where they would not divide), a gated
    feed-forward block of 3.5 widths rounded to 256, width over layers of 100 to 130 where the size
    allows, embeddings tied below a width of 4,096. Raises PlanError if no shape comes near.
    """
    tried = [shape for width in WIDTHS for shape in _of_width(width, parameters, vocab_size)]
    tried = [shape for shape in tried if _oddness(shape)[0] <= MOST_ODD]
    if not tried:
        raise PlanError(
            f"no model of {format_count(parameters)} parameters has a vocabulary of {vocab_size:,}",
            do="give a smaller --vocab, a larger budget, or --model",
        )
    chosen = min(tried, key=_oddness)
    return replace(chosen, name=f"llama-like-{format_count(count_shape(chosen).total)}")


def _of_width(width: int, parameters: float, vocab_size: int) -> list[ModelShape]:
    """The shape of that width nearest in size; none if it is far off."""

    def shape(layers: int) -> ModelShape:
        heads = width // HEAD_DIM
        ffn_width = round(FFN_RATIO * width / FFN_MULTIPLE) * FFN_MULTIPLE
        attention = AttentionShape(heads, math.gcd(heads, KV_HEADS), HEAD_DIM)
        tied = width < TIED_BELOW
        return ModelShape("", layers, width, ffn_width, vocab_size, attention, tied_embeddings=tied)

    one, two = (count_shape(shape(layers)).total for layers in (1, 2))
    layers = max(1, round(1 + (parameters - one) / (two - one)))
    is_near = abs(one + (layers - 1) * (two - one) - parameters) <= MOST_OFF * parameters
    return [shape(layers)] if is_near else []


def _oddness(shape: ModelShape) -> tuple[float, bool, float]:
    """How far the proportions are from the rule; then from eight key heads, then its middle."""
    ratio = shape.width / shape.layers
    outside = max(0.0, math.log(SLIM / ratio), math.log(ratio / WIDE))
    middle = math.sqrt(SLIM * WIDE)
    return outside, shape.attention.kv_heads != KV_HEADS, abs(math.log(ratio / middle))
