"""Families of models, one file each: how their folders are written, and read into our names."""

from __future__ import annotations

from whorl.arch.shape import ModelShape
from whorl.core.errors import SpecError
from whorl.model.families import (
    gemma3,
    llama,
    mistral,
    mixtral,
    qwen2,
    qwen2_moe,
    qwen3,
    qwen3_moe,
)
from whorl.model.families.base import Family

__all__ = ["FAMILIES", "Family", "family_of"]

FAMILIES: dict[str, Family] = {
    module.FAMILY.model_type: module.FAMILY
    for module in (gemma3, llama, mistral, mixtral, qwen2, qwen2_moe, qwen3, qwen3_moe)
}


def family_of(shape: ModelShape) -> Family:
    """Raises SpecError if there is none of the shape's name."""
    if shape.family not in FAMILIES:
        raise SpecError(
            f"there is no family {shape.family or '(none)'}",
            expected=", ".join(sorted(FAMILIES)),
            do="import a model of one of these",
        )
    return FAMILIES[shape.family]
