"""Qwen 3: heads of queries and keys are normed."""

from __future__ import annotations

from typing import Any

from whorl.arch.shape import ModelShape
from whorl.model.families.base import Family, window_config

__all__ = ["FAMILY"]


def _more(shape: ModelShape) -> dict[str, Any]:
    return window_config(shape) | {"attention_bias": shape.attention.qkv_bias}


FAMILY = Family("qwen3", "Qwen3ForCausalLM", _more)
