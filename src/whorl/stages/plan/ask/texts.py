"""Files of other tools as plain mappings: YAML, JSON and TOML, read and never run."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from whorl.core.errors import SpecError
from whorl.spec.reading import read_text

__all__ = ["flat", "read_mapping", "text_of"]

MOST_BYTES = 1_000_000


def text_of(path: Path) -> str:
    """Raises SpecError if it is no small file of text."""
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
        if len(data) > MOST_BYTES:
            raise SpecError(f"{path} is larger than a configuration is", found=f"{len(data):,} B")
        return data.decode("utf-8-sig")
    except OSError as error:
        raise SpecError(f"--from {path} cannot be read", found=error.strerror) from error
    except ValueError as error:
        raise SpecError(f"--from {path} is not text in UTF-8", found=error) from error


def read_mapping(path: Path) -> dict[str, Any]:
    """The mapping of a .json, .toml or .yaml file. Raises SpecError."""
    text, suffix = text_of(path), path.suffix.lower()
    try:
        if suffix == ".toml":
            return tomllib.loads(text)
        values = json.loads(text) if suffix == ".json" else read_text(text, str(path))[0]
    except (ValueError, RecursionError) as error:
        if isinstance(error, SpecError):
            raise
        raise SpecError(f"{path} is not {suffix[1:].upper()}", found=error) from error
    if not isinstance(values, Mapping):
        raise SpecError(f"{path} has no keys", found=type(values).__name__, expected="key: value")
    return dict(values)


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}; lists stay, those of mappings as one text."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        elif isinstance(value, list) and any(isinstance(item, Mapping | list) for item in value):
            found[f"{prefix}{key}"] = str(value)
        else:
            found[f"{prefix}{key}"] = value
    return found
