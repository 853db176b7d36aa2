"""Mistral: a Llama whose layers may all have a window."""

from __future__ import annotations

from typing import Any

from whorl.arch.shape import ModelShape
from whorl.model.families.base import Family

__all__ = ["FAMILY"]


def _more(shape: ModelShape) -> dict[str, Any]:
    return {"sliding_window": shape.attention.window}


FAMILY = Family("mistral", "MistralForCausalLM", _more)
