"""Where a resolved value comes from: the recipe's line, --set, the default, or plan's reason."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from whorl.core.errors import SpecError
from whorl.spec.load import LoadedRecipe, known_keys
from whorl.spec.recipe import Recipe

__all__ = ["Explanation", "describe", "explain"]


@dataclass(frozen=True)
class Explanation:
    key: str
    given: Any  # what the recipe says, "auto" included
    origin: str  # "recipes/x.yaml:12", "--set" or "default"
    resolved: Any  # what runs; None when there is nothing to resolve
    reason: str  # plan's reason, "" when the value was given
    description: str


def describe(key: str) -> str:
    """The description of a dotted key in the schema."""
    model: Any = Recipe
    *parents, last = key.split(".")
    for parent in parents:
        annotation = model.model_fields[parent].annotation
        candidates = [annotation, *get_args(annotation)]
        model = next(item for item in candidates if hasattr(item, "model_fields"))
    return model.model_fields[last].description or ""


def explain(
    loaded: LoadedRecipe, key: str, resolved: Mapping[str, Any], reasons: Mapping[str, str]
) -> Explanation:
    """One key. resolved and reasons: dotted keys from plan. Raises SpecError if unknown."""
    known = list(known_keys())
    if key not in known:
        nearest = difflib.get_close_matches(key, known, n=1, cutoff=0.4)
        raise SpecError(
            f"{key}: unknown key", expected=f"did you mean {nearest[0]}?" if nearest else None
        )
    value: Any = loaded.recipe
    for part in key.split("."):
        value = value[0] if isinstance(value, tuple) and value else value
        value = getattr(value, part)
    if hasattr(value, "model_dump"):
        value = value.model_dump()
    origin = loaded.origins.get(key, "default")
    return Explanation(key, value, origin, resolved.get(key), reasons.get(key, ""), describe(key))
