"""Llama 1 to 3, and the many models that are published as one."""

from __future__ import annotations

from typing import Any

from whorl.arch.shape import ModelShape
from whorl.model.families.base import Family

__all__ = ["FAMILY"]


def _more(shape: ModelShape) -> dict[str, Any]:
    return {"attention_bias": shape.attention.qkv_bias, "mlp_bias": shape.ffn_bias}


FAMILY = Family("llama", "LlamaForCausalLM", _more)
