"""Rotary positions as a config.json states them, in both of transformers' spellings.

transformers 5 has `rope_parameters`, by layer type where they differ; before, `rope_theta` stood
beside `rope_scaling`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from whorl.arch.config_reader import ConfigReader
from whorl.arch.shape import Rope

__all__ = ["read_rope", "rope_parameters", "windowed_rope"]

FULL, WINDOWED = "full_attention", "sliding_attention"  # layer types


def read_rope(c: ConfigReader, default_theta: float) -> Rope:
    """Of the layers that see everything. Raises SpecError on a number out of range."""
    stated = c.section("rope_parameters")
    if isinstance(stated.values.get(FULL), Mapping):
        stated = stated.section(FULL)
    elif not stated.values:
        stated = c.section("rope_scaling")
    theta = stated.number("rope_theta") or c.number("rope_theta", "rotary_emb_base")
    share = stated.number("partial_rotary_factor") or c.number(
        "partial_rotary_factor", "rotary_pct"
    )
    scaling = str(stated.values.get("rope_type") or stated.values.get("type") or "default")
    factor = stated.number("factor")
    original = stated.optional("original_max_position_embeddings") or c.optional(
        "original_max_position_embeddings"
    )
    if scaling == "yarn":
        original = original or c.optional("max_position_embeddings")
        if factor is None and original:
            factor = c.whole("max_position_embeddings") / original
    numbers: dict[str, Any] = {
        "factor": factor,
        "low_freq_factor": stated.number("low_freq_factor"),
        "high_freq_factor": stated.number("high_freq_factor"),
        "beta_slow": stated.number("beta_slow"),
        "beta_fast": stated.number("beta_fast"),
        "rotated_share": share,
        "original_seq_len": original if scaling in ("yarn", "llama3") else None,
        "truncate": None if stated.flag("truncate", True) else False,
        "attention_factor": _attention_factor(stated, factor or 1.0) if scaling == "yarn" else None,
    }
    given = {name: number for name, number in numbers.items() if number is not None}
    return Rope(theta or default_theta, scaling, **given)


def windowed_rope(c: ConfigReader, key: str, default_theta: float) -> Rope:
    """Of the layers with a window, where a family has others for them (Gemma 3)."""
    stated = c.section("rope_parameters").section(WINDOWED)
    stated.must_be("rope_type", "default")
    return Rope(stated.number("rope_theta") or c.number(key) or default_theta)


def _attention_factor(stated: ConfigReader, factor: float) -> float:
    """YaRN's: 0.1 ln(factor) + 1 (2309.00071, equation 22), or DeepSeek's ratio of two of them."""
    whole, part = stated.number("mscale_all_dim"), stated.number("mscale")

    def scale(weight: float) -> float:
        return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0

    if (given := stated.number("attention_factor")) is not None:
        return given
    return scale(part) / scale(whole) if part and whole else scale(1.0)


def rope_parameters(rope: Rope) -> dict[str, Any]:
    """The value of `rope_parameters` in a config.json."""
    values: dict[str, Any] = {"rope_type": rope.scaling, "rope_theta": rope.theta}
    if rope.scaling == "default":
        return values
    values["factor"] = rope.factor
    if rope.scaling == "llama3":
        values["low_freq_factor"] = rope.low_freq_factor
        values["high_freq_factor"] = rope.high_freq_factor
    if rope.scaling == "yarn":
        values["attention_factor"] = rope.attention_factor
        values["beta_fast"], values["beta_slow"] = rope.beta_fast, rope.beta_slow
        values["truncate"] = rope.truncate
    if rope.original_seq_len is not None:
        values["original_max_position_embeddings"] = rope.original_seq_len
    return values
