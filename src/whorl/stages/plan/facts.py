"""Tables of words, from facts.yaml."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

import yaml

__all__ = ["fact"]


@cache
def _facts() -> dict[str, Any]:
    text = (files("whorl.stages.plan") / "facts.yaml").read_text("utf-8")
    found: dict[str, Any] = yaml.safe_load(text)
    return found


def fact(name: str) -> Any:
    """One of its tables; "megatron.sizes" is one within another."""
    found: Any = _facts()
    for part in name.split("."):
        found = found[part]
    return found
