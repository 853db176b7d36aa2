"""Qwen 2 and 2.5: queries, keys and values have biases."""

from __future__ import annotations

from whorl.model.families.base import Family, window_config

__all__ = ["FAMILY"]

FAMILY = Family("qwen2", "Qwen2ForCausalLM", window_config)
