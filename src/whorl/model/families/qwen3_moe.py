"""Qwen 3 with experts."""

from __future__ import annotations

from typing import Any

from whorl.arch.shape import ModelShape
from whorl.model.families.base import Family, expert_config

__all__ = ["FAMILY"]


def _more(shape: ModelShape) -> dict[str, Any]:
    attention = shape.attention
    window = {"use_sliding_window": bool(attention.windowed), "sliding_window": attention.window}
    return expert_config(shape) | window | {"attention_bias": attention.qkv_bias}


FAMILY = Family("qwen3_moe", "Qwen3MoeForCausalLM", _more)
