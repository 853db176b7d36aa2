"""Which fields there are: built in, and brought by other packages.

A package adds one through an entry point of the group `whorl.fields` that names an object with
the methods of `whorl.core.ports.Field`; nothing else of whorl changes.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from importlib.metadata import EntryPoint

from whorl.core.errors import SpecError
from whorl.core.plugins import find_part
from whorl.core.ports import Field

__all__ = ["GROUP", "find_field", "options_of"]

GROUP = "whorl.fields"
BUILT_IN = {  # with these whorl also runs from its source tree, not installed
    name: EntryPoint(name, f"whorl.fields.{name}:FIELD", GROUP)
    for name in (
        *("text", "code", "chat", "digits", "intents", "triples", "interactions", "table"),
        *("images", "boxes", "ocr", "speech", "synthesis", "assistant"),
        *("labels", "tags", "translation", "characters", "episodes", "chess"),
    )
}


def find_field(name: str) -> Field:
    """The field of this name. Raises SpecError with the nearest name if there is none."""
    return _checked(name, find_part(GROUP, name, BUILT_IN))


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
