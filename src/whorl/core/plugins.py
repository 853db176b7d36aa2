"""Parts that come from outside: one object per entry point, beside those that ship.

A package adds a part by an entry point of the group "whorl.<kind>" whose name is the part's:

    [project.entry-points."whorl.objectives"]
    focal = "my_package:FOCAL"
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from importlib.metadata import entry_points

from whorl.core.errors import SpecError

__all__ = ["check_part", "find_part", "part_names"]


def part_names(group: str, built_in: Iterable[str]) -> list[str]:
    """Every name there is, sorted; nothing is loaded."""
    return sorted({*built_in, *(point.name for point in entry_points(group=group))})


def find_part(group: str, name: str, built_in: Mapping[str, object]) -> object:
    """The part of that name. Raises SpecError if there is none, or if it cannot be loaded."""
    if name in built_in:
        return built_in[name]
    check_part(group, name, built_in)
    for point in entry_points(group=group):
        if point.name == name:
            try:
                return point.load()
            except Exception as error:
                raise SpecError(
                    f"{name} of {group} cannot be loaded from {point.value}",
                    found=f"{type(error).__name__}: {error}",
                    do="mend or uninstall the package that brings it",
                ) from error
    raise AssertionError("a name that was just found")


def check_part(group: str, name: str, built_in: Iterable[str]) -> None:
    """Raises SpecError, with the nearest right name, if there is no part of that name."""
    names = part_names(group, built_in)
    if name in names:
        return
    kind = group.partition(".")[2].removesuffix("s")
    near = difflib.get_close_matches(name, names, 1)
    raise SpecError(
        f"there is no {kind} {name}" + (f"; did you mean {near[0]}?" if near else ""),
        expected=", ".join(names),
        do=f"correct the name, or install the package that brings it (entry point group {group})",
    )
