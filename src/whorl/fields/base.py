"""Which fields there are: built in, and brought by other packages.

A package adds one through an entry point of the group `whorl.fields` that names an object with
the methods of `whorl.core.ports.Field`; nothing else of whorl changes.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points

from whorl.core.errors import SpecError
from whorl.core.ports import Field

__all__ = ["GROUP", "field_names", "find_field", "options_of"]

GROUP = "whorl.fields"
BUILT_IN = ("text", "code", "digits")  # modules of this package, each with a FIELD


def field_names() -> list[str]:
    """Names of all fields that can be asked for, without loading them."""
    return sorted({*BUILT_IN, *_entry_points()})


def find_field(name: str) -> Field:
    """The field of this name. Raises SpecError with the nearest name if there is none."""
    points = _entry_points()
    if name in points:
        return _load(points[name])
    if name in BUILT_IN:  # whorl runs from its source tree, not installed
        return _checked(name, import_module(f"whorl.fields.{name}").FIELD)
    names = field_names()
    near = difflib.get_close_matches(name, names, n=1)
    raise SpecError(
        f"there is no field {name}",
        found=f"fields: {', '.join(names)}",
        do=f"did you mean {near[0]}?"
        if near
        else f"install the package that brings it (entry point group {GROUP})",
    )


def options_of(field: Field, given: Mapping[str, str]) -> dict[str, str]:
    """A source's options with the field's defaults. Raises SpecError on one it does not have."""
    for name in given:
        if name not in field.options:
            near = difflib.get_close_matches(name, field.options, n=1)
            raise SpecError(
                f"data.options.{name}: field {field.name} has no such option",
                found=name,
                expected=f"did you mean {near[0]}?" if near else list(field.options) or "none",
            )
    return {**field.options, **given}


def _entry_points() -> dict[str, EntryPoint]:
    """By name. Raises SpecError when two packages bring different fields of one name."""
    points: dict[str, EntryPoint] = {}
    for point in entry_points(group=GROUP):
        first = points.setdefault(point.name, point)
        if first.value != point.value:
            raise SpecError(
                f"two packages bring a field {point.name}",
                found=f"{first.value} and {point.value}",
                do="uninstall one of them",
            )
    return points


def _load(point: EntryPoint) -> Field:
    try:
        loaded = point.load()
    except Exception as error:  # whatever a package of somebody else raises at import
        raise SpecError(
            f"field {point.name} cannot be loaded from {point.value}", found=repr(error)
        ) from error
    return _checked(point.name, loaded)


def _checked(name: str, loaded: object) -> Field:
    """Raises SpecError unless it has what Field asks for."""
    needed = (
        "name",
        "task",
        "logic_version",
        "options",
        "items",
        "read",
        "fit_codecs",
        "baselines",
    )
    missing = [attribute for attribute in needed if not hasattr(loaded, attribute)]
    if missing:
        raise SpecError(
            f"{name} is not a field",
            found=f"{type(loaded).__name__} without {', '.join(missing)}",
            expected="an object with the attributes of whorl.core.ports.Field",
        )
    return loaded  # type: ignore[return-value]
