"""Gemma 3, its text model: windows and full attention mixed, norms on both sides of each part."""

from __future__ import annotations

from typing import Any

from whorl.arch.hf_rope import rope_parameters
from whorl.arch.shape import ModelShape
from whorl.model.families.base import Family

__all__ = ["FAMILY"]


def _more(shape: ModelShape) -> dict[str, Any]:
    a = shape.attention
    windowed = shape.windowed_rope or shape.rope
    scale = a.query_scale or a.head_dim**-0.5
    return {
        "attention_bias": a.qkv_bias,
        "query_pre_attn_scalar": round(scale**-2),
        "sliding_window": a.window,
        "layer_types": [
            "sliding_attention" if layer in a.windowed else "full_attention"
            for layer in range(shape.layers)
        ],
        "final_logit_softcapping": shape.logit_softcap,
        "attn_logit_softcapping": a.softcap,
        "rope_local_base_freq": windowed.theta,
        "rope_parameters": {
            "full_attention": rope_parameters(shape.rope),
            "sliding_attention": rope_parameters(windowed),
        },
    }


FAMILY = Family("gemma3_text", "Gemma3ForCausalLM", _more, activation_key="hidden_activation")
