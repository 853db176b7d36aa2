"""Qwen2-MoE: experts beside a gated one that every token passes through."""

from __future__ import annotations

from typing import Any

from whorl.arch.shape import ModelShape
from whorl.model.families.base import Family, expert_config, window_config

__all__ = ["FAMILY"]


def _more(shape: ModelShape) -> dict[str, Any]:
    experts = shape.experts
    shared = None if experts is None else experts.shared_width
    more = window_config(shape) | expert_config(shape) | {"qkv_bias": shape.attention.qkv_bias}
    return more | ({} if shared is None else {"shared_expert_intermediate_size": shared})


FAMILY = Family("qwen2_moe", "Qwen2MoeForCausalLM", _more)
