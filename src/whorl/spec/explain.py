"""Where a resolved value comes from: the recipe's line, --set, the default, or plan's reason."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import TypeAdapter
from pydantic.fields import FieldInfo

from whorl.core.errors import SpecError
from whorl.spec.load import LoadedRecipe, known_keys, without_numbers
from whorl.spec.recipe import Recipe
from whorl.spec.refusals import expected_of, field_of

__all__ = ["Explanation", "explain", "keys_of"]


@dataclass(frozen=True)
class Explanation:
    key: str
    given: Any  # what the recipe says, "auto" included, as JSON has it: durations with their unit
    origin: str  # "recipes/x.yaml:12", "--set" or "default"
    resolved: Any  # what runs, in the same words; None when there is nothing to resolve
    reason: str  # plan's reason, "" when the value was given
    description: str
    may_be: str  # bounds, choices


def keys_of(recipe: Recipe) -> Iterator[str]:
    """Every dotted key that has a value, those of each source with its number if several."""
    several = range(len(recipe.data)) if len(recipe.data) > 1 else ()
    known = list(known_keys())
    for key in known:
        if any(other.startswith(f"{key}.") for other in known):
            continue
        head, _, rest = key.partition(".")
        yield from [f"{head}.{number}.{rest}" for number in several if head == "data"] or [key]


def explain(
    loaded: LoadedRecipe, key: str, resolved: Mapping[str, Any], reasons: Mapping[str, str]
) -> Explanation:
    """One key. resolved and reasons: dotted keys from plan. Raises SpecError if unknown."""
    known = list(known_keys())
    info = field_of(Recipe, key)
    if without_numbers(key) not in known or info is None:
        nearest = difflib.get_close_matches(key, known, n=1, cutoff=0.4)
        raise SpecError(
            f"{key}: unknown key",
            found=key,
            expected=f"did you mean {nearest[0]}?" if nearest else None,
            do="whorl explain RECIPE lists every key",
        )
    value, full_key = _value_of(loaded.recipe, key)
    plain = without_numbers(key)
    return Explanation(
        key,
        _written(info, value),
        loaded.origins.get(full_key, "default"),
        _written(info, resolved.get(plain)),
        reasons.get(plain, ""),
        info.description or "",
        expected_of(info),
    )


def _value_of(recipe: Recipe, key: str) -> tuple[Any, str]:
    """(value, key with the number of its list item). Of one source the number may be left out."""
    value: Any = recipe
    parts: list[str] = []
    for part in key.split("."):
        if isinstance(value, tuple) and not part.isdigit():
            value = value[0]
            parts.append("0")
        parts.append(part)
        if not part.isdigit():
            value = None if value is None else getattr(value, part)  # of a group left out
        elif isinstance(value, tuple) and int(part[:9]) < len(value):
            value = value[int(part[:9])]
        else:
            raise SpecError(
                f"{key}: there is no such item",
                found=part,
                expected=f"0 to {len(value) - 1}" if isinstance(value, tuple) else "no number",
                do="the items of a list are counted from 0",
            )
    return value, ".".join(parts)


def _written(info: FieldInfo, value: Any) -> Any:
    """A value of a key as a recipe in JSON would have it."""
    if value is None:  # nothing is said of it, or resolved; a duration's unit would stand alone
        return None
    annotation: Any = Annotated[info.annotation, *info.metadata, None]
    # What is resolved may be of another kind than what is written: no warnings then.
    return TypeAdapter(annotation).dump_python(value, mode="json", warnings=False)
