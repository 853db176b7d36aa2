"""The model of a published row: its sizes, and what the columns do not say, from its name.

A row has no column for gates, ties, head sizes or latent attention. A model of the table of known
models gives them; for any other, the combination whose parameter count is nearest to the row's.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from itertools import product

from whorl.arch.known_models import known_model
from whorl.arch.shape import AttentionShape, Experts, ModelShape
from whorl.arch.shape_counts import count_shape
from whorl.core.errors import SpecError

__all__ = ["row_shape", "whole_number"]

SIZES = ("n_layers", "hidden", "n_heads", "n_kv_heads", "ffn_hidden", "vocab")
MOST = 1e12  # beyond any count or size
MIXTURE = ("n_experts", "top_k", "moe_ffn")


def row_shape(fields: Mapping[str, str]) -> ModelShape:
    """Raises SpecError if a size is missing or they do not fit each other."""
    sizes = tuple(_whole(fields, name) for name in SIZES)
    mixture = tuple(_whole(fields, name) for name in MIXTURE)
    params = float(fields.get("params_b") or 0)
    return _shape(fields.get("model") or "model", sizes, mixture, params)


def _whole(fields: Mapping[str, str], name: str) -> int:
    return whole_number(fields[name], name, 0) if fields.get(name) else 0


def whole_number(text: str, name: str, least: int = 1) -> int:
    """ "8" or "8.0" of a column as 8. Raises SpecError for what is no whole number from least."""
    try:
        value = float(text)
    except ValueError as error:
        raise SpecError(f"column {name}", found=text, expected="a number") from error
    if not least <= value < MOST or value != int(value):
        raise SpecError(f"column {name}", found=text, expected=f"a whole number from {least}")
    return int(value)


@lru_cache(maxsize=4096)
def _shape(
    name: str, sizes: tuple[int, ...], mixture: tuple[int, ...], params_b: float
) -> ModelShape:
    layers, width, heads, kv_heads, ffn_width, vocab = sizes
    try:
        known = known_model(name)
    except SpecError:
        known = None
    if known is not None and (known.layers, known.width) == (layers, width):
        return known
    if not (layers and width and heads):
        raise SpecError(f"row of {name}: layers, hidden and heads are needed", found=sizes)
    kv_heads = kv_heads or heads
    experts = None
    if mixture[0]:
        experts = Experts(mixture[0], mixture[1] or 1, mixture[2] or ffn_width)
    ffn_width = ffn_width or 4 * width
    candidates = [
        ModelShape(
            name=name,
            layers=layers,
            width=width,
            ffn_width=ffn_width,
            vocab_size=vocab or 32_000,
            attention=AttentionShape(heads, kv_heads, head_dim),
            experts=experts,
            gated=gated,
            tied_embeddings=tied,
            norm="rms" if gated else "layer",
        )
        for gated, tied, head_dim in product(
            (ffn_width != 4 * width, ffn_width == 4 * width),
            (False, True),
            dict.fromkeys((max(1, width // heads), 128)),
        )
    ]
    if not params_b:
        return candidates[0]
    return min(candidates, key=lambda shape: abs(count_shape(shape).total / (params_b * 1e9) - 1))
