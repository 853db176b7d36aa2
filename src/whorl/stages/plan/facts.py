"""What plan reads of its own files: tables of words from facts.yaml, figures from JSON."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

__all__ = ["data_file", "fact"]


@cache
def data_file(path: str) -> Any:
    """The content of a JSON or YAML file below stages/plan; not to be changed by who reads it."""
    text = (files("whorl.stages.plan") / path).read_text("utf-8")
    return json.loads(text) if path.endswith(".json") else yaml.safe_load(text)


def fact(name: str) -> Any:
    """One of the tables of facts.yaml; "megatron.sizes" is one within another."""
    found: Any = data_file("facts.yaml")
    for part in name.split("."):
        found = found[part]
    return found
