"""Mixtral: a Mistral with experts in every layer."""

from __future__ import annotations

from typing import Any

from whorl.arch.shape import ModelShape
from whorl.model.families.base import Family, Names

__all__ = ["FAMILY"]


def _more(shape: ModelShape) -> dict[str, Any]:
    experts = shape.experts
    assert experts is not None
    return {
        "sliding_window": shape.attention.window,
        "num_local_experts": experts.count,
        "num_experts_per_tok": experts.active,
        "output_router_logits": False,
    }


FAMILY = Family(
    "mixtral",
    "MixtralForCausalLM",
    _more,
    Names("block_sparse_moe.", gate="w1", up="w3", down="w2"),
)
