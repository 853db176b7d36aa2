"""The shape that is left of a model of which layers, or channels of its feed-forward blocks, go."""

from __future__ import annotations

from dataclasses import replace

from whorl.arch.shape import ModelShape
from whorl.core.errors import SpecError

__all__ = ["pruned_shape"]

CHANNELS = 64  # kept channels are a multiple of it: kernels, and groups of weights with a scale


def pruned_shape(shape: ModelShape, layers: float, ffn: float) -> ModelShape:
    """layers, ffn: shares that go; of layers a whole number, of channels so that whole groups stay.

    Raises SpecError if nothing goes, or what goes cannot.
    """
    refused = {
        "model.prune.layers: a model whose layers look back differently": bool(
            layers and shape.attention.windowed
        ),
        "model.prune: a mixture of experts": shape.experts is not None,
        "model.prune: layers of a package": bool(shape.block),
    }
    if reasons := [what for what, is_so in refused.items() if is_so]:
        raise SpecError(
            f"{reasons[0]} is not pruned", do="take out model.prune, or start from another base"
        )
    kept = shape.layers - round(layers * shape.layers)
    unit = CHANNELS if shape.ffn_width >= 4 * CHANNELS else 1
    width = max(unit, unit * round((1 - ffn) * shape.ffn_width / unit)) if ffn else shape.ffn_width
    if kept < 1 or (kept == shape.layers and width == shape.ffn_width):
        raise SpecError(
            "model.prune leaves no layer" if kept < 1 else "model.prune takes nothing away",
            found=f"layers {layers:.3g} of {shape.layers}, ffn {ffn:.3g} of {shape.ffn_width:,}",
            expected="at least one layer to stay, and a layer or some channels to go",
            do="choose other shares, such as layers 0.25",
        )
    return replace(shape, layers=kept, ffn_width=width)
