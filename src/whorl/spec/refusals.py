"""The one place where what pydantic says of a wrong value becomes an error of ours.

Nothing of its text is shown: the key is found by walking the schema, and what may be written is
what the schema says of that key.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from whorl.core.errors import SpecError, WhorlError
from whorl.core.units import shown
from whorl.spec.quantities import Quantity
from whorl.spec.saying import group_of

__all__ = ["expected_of", "field_of", "spec_error"]


def field_of(model: type[BaseModel], key: str) -> FieldInfo | None:
    """The schema of a dotted key; numbers of list items may stand in it. None: there is none."""
    info: FieldInfo | None = None
    group: type[BaseModel] | None = model
    for part in key.split("."):
        if part.isdigit() and info is not None:
            continue
        if group is None or part not in group.model_fields:
            return None
        info = group.model_fields[part]
        group = group_of(info.annotation)
    return info


def expected_of(info: FieldInfo) -> str:
    """What may be written for a key: bounds, choices, kinds."""
    return " or ".join(dict.fromkeys(_words(Annotated[info.annotation, *info.metadata, None])))


def _words(annotation: Any) -> list[str]:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        own = [item.expected for item in arguments[1:] if isinstance(item, Quantity)]
        return own or _words(arguments[0])
    if origin in (Union, UnionType):
        return [word for item in arguments for word in _words(item)]
    if origin is Literal:
        return [", ".join(map(str, arguments))]
    if group := group_of(annotation):
        keys = ", ".join(group.model_fields)
        return [f"a list of sources, each with {keys}" if origin is tuple else f"keys: {keys}"]
    if origin is tuple:
        choices = _words(arguments[0])[0]
        return [f"a list of {choices}, such as [{choices.partition(',')[0]}]"]
    named = {bool: "true or false", str: "text", type(None): "null", dict: "keys with texts"}
    return [named.get(origin or annotation, str(annotation))]


def spec_error(
    error: ValidationError,
    model: type[BaseModel],
    origins: Mapping[str, str] | None = None,
    prefix: str = "",
) -> SpecError:
    """The first wrong key: what it is, where it stands, what was found, what may be written."""
    problems = error.errors(include_url=False)
    key = _key_of(model, problems[0]["loc"])
    same = [problem for problem in problems if _key_of(model, problem["loc"]) == key]
    causes = [problem.get("ctx", {}).get("error") for problem in same]
    cause = next((item for item in causes if isinstance(item, WhorlError)), None)
    first, info = same[0], field_of(model, key)
    where = (origins or {}).get(key)
    name = f"{prefix}{key or 'the recipe'}" + (f" ({where})" if where else "")
    is_missing = first["type"] == "missing"
    problem = "missing" if is_missing else "wrong value" if cause is None else cause.what
    expected = "" if info is None else expected_of(info)
    if cause is not None and cause.expected is not None and str(cause.expected) not in expected:
        expected = str(cause.expected)  # it knows better, such as the names of what is installed
    return SpecError(
        f"{name}: {problem}",
        found="nothing" if is_missing else shown(first["input"]),
        expected=expected or None,
        do=(cause.do if cause is not None else None) or _advice(info, key, is_missing),
    )


def _key_of(model: type[BaseModel], loc: tuple[int | str, ...]) -> str:
    """The dotted key of an error: the parts of its place that stand in the schema."""
    parts: list[str] = []
    for part in loc:
        longer = [*parts, str(part)]
        if field_of(model, ".".join(longer)) is None:
            break
        parts = longer
    return ".".join(parts)


def _advice(info: FieldInfo | None, key: str, is_missing: bool) -> str:
    if is_missing:
        return f"add {key}"
    if info is None or info.is_required():
        return "correct it"
    has_word = info.default_factory is None and info.default not in (None, "", ())
    return "correct it, or leave it out" + (f": it is then {info.default}" if has_word else "")
