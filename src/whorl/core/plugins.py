"""Parts that come from outside: one object per entry point, beside those that ship.

A package adds a part by an entry point of the group "whorl.<kind>" whose name is the part's:

    [project.entry-points."whorl.objectives"]
    focal = "my_package:FOCAL"
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from importlib.metadata import EntryPoint, entry_points

from whorl.core.errors import SpecError, WhorlError

__all__ = ["check_part", "find_part", "packages_of", "part_names"]


OWN_NAME = "whorl"


def part_names(group: str, built_in: Iterable[str]) -> list[str]:
    """Every name there is, sorted; nothing is loaded."""
    return sorted({*built_in, *(point.name for point in entry_points(group=group))})


def find_part(
    group: str, name: str, built_in: Mapping[str, object], error: type[WhorlError] = SpecError
) -> object:
    """The part of that name; one that ships may be an EntryPoint, loaded when it is asked for.

    Raises `error` if there is none or several, or if it cannot be loaded.
    """
    check_part(group, name, built_in, error)
    own = built_in.get(name)
    points = {point.value: point for point in entry_points(group=group, name=name)}
    if isinstance(own, EntryPoint):
        points[own.value], own = own, None
    if len(points) > (own is None):
        raise error(
            f"two packages bring a {_kind(group)} {name}",
            found=" and ".join([*points, *(["whorl itself"] if own is not None else [])]),
            do="uninstall one of them",
        )
    if own is not None:
        return own
    (point,) = points.values()
    try:
        return point.load()
    except Exception as failure:  # whatever a package of somebody else raises at import
        raise error(
            f"the {_kind(group)} {name} cannot be loaded from {point.value}",
            found=f"{type(failure).__name__}: {failure}",
            do="mend or uninstall the package that brings it",
        ) from failure


def packages_of(parts: Mapping[str, Iterable[str]]) -> dict[str, dict[str, str]]:
    """{"packages": {part: distribution and version}} of parts (group -> names) from outside.

    For keys of records, which a package's new version makes anew; {} where all parts ship.
    """
    found = {
        f"{group} {name}": f"{point.dist.name} {point.dist.version}"
        for group, names in parts.items()
        for name in names
        for point in entry_points(group=group, name=name)
        if point.dist is not None and point.dist.name != OWN_NAME
    }
    return {"packages": found} if found else {}


def check_part(
    group: str, name: str, built_in: Iterable[str], error: type[WhorlError] = SpecError
) -> None:
    """Raises `error`, with the nearest right name, if there is no part of that name."""
    names = part_names(group, built_in)
    if name in names:
        return
    near = difflib.get_close_matches(name, names, 1)
    raise error(
        f"there is no {_kind(group)} {name}" + (f"; did you mean {near[0]}?" if near else ""),
        expected=", ".join(names) or "one that an installed package brings: there is none",
        do=f"correct the name, or install the package that brings it (entry point group {group})",
    )


def _kind(group: str) -> str:
    return group.partition(".")[2].removesuffix("s")
