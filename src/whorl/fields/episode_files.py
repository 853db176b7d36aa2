"""Episodes as jsonl: one a row, {"observations": […], "actions": […]}, or one step a row.

An observation is an object of named cells, a list of numbers, a number or a text.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from whorl.core.environments import Observation, Step
from whorl.core.sources import FileItem
from whorl.fields.formats import rows_of
from whorl.fields.jsonl import Row
from whorl.fields.places import Places, Reject
from whorl.fields.whole import is_test

__all__ = ["SUFFIXES", "Episode", "episodes_of"]

SUFFIXES = (".jsonl", ".ndjson")
MAX_ACTION, MAX_CELLS = 100, 400


@dataclass(frozen=True)
class Episode:
    name: str
    steps: tuple[Step, ...]
    is_test: bool


def episodes_of(files: Sequence[FileItem], reject: Reject) -> Iterator[Episode]:
    """All episodes of a source; what cannot be used is refused row by row."""
    for item in files:
        places = Places.of(item, reject)
        is_held = is_test(item)
        begun: dict[str, list[Step]] = {}
        for name, row in rows_of(replace(item, kind="jsonl"), (), places):
            try:
                if "observations" in row:
                    yield Episode(name, _whole(row), is_held)
                else:
                    key, step = _one(row)
                    begun.setdefault(key, []).append(step)
            except ValueError as error:
                places.refuse(*error.args)
        for key, steps in begun.items():
            yield Episode(f"{item.name}: {key}", tuple(steps), is_held)


def _whole(row: Row) -> tuple[Step, ...]:
    """Raises ValueError with the reason why a row is refused."""
    seen, done = row["observations"], row.get("actions")
    if not isinstance(seen, list) or not isinstance(done, list) or not done:
        raise ValueError("episode without observations and actions")
    if len(seen) not in (len(done), len(done) + 1):  # what is seen at the end may be there
        hint = f"{len(seen)} observations, {len(done)} actions"
        raise ValueError("episode of other than one action for each observation", hint)
    return tuple((_row(each), _action(act)) for each, act in zip(seen, done, strict=False))


def _one(row: Row) -> tuple[str, Step]:
    """(episode, step) of a row of one step. Raises ValueError."""
    if missing := [key for key in ("episode", "observation", "action") if key not in row]:
        raise ValueError(f"no key {missing[0]}", f"it has {', '.join(map(str, list(row)[:8]))}")
    return str(row["episode"])[:100], (_row(row["observation"]), _action(row["action"]))


def _action(value: Any) -> str:
    if isinstance(value, bool | None | list | dict) or not str(value).strip():
        raise ValueError("action that is neither a name nor a number", f"it is {value!r}"[:80])
    name = str(value).strip()
    if len(name) > MAX_ACTION or not name.isprintable():
        raise ValueError(f"action of control signs, or of more than {MAX_ACTION}")
    return name


def _row(value: Any) -> Observation:
    if isinstance(value, Mapping):
        cells = dict(value)
    elif isinstance(value, list):
        cells = {str(place): cell for place, cell in enumerate(value)}
    else:
        cells = {"seen": value}
    if not cells or len(cells) > MAX_CELLS:
        raise ValueError(f"observation of no cell, or of more than {MAX_CELLS}")
    return {str(key): _cell(cell) for key, cell in cells.items()}


def _cell(value: Any) -> float | str | None:
    if isinstance(value, bool):
        return str(value).lower()
    if value is None or isinstance(value, str):
        return value
    try:
        number = float(value) if isinstance(value, int | float) else math.nan
    except OverflowError:  # a whole number of more than 308 digits
        number = math.inf
    if not math.isfinite(number):
        told = str(type(value).__name__) if isinstance(value, int) else repr(value)[:80]
        raise ValueError("observation with a cell that is no number, text or null", told)
    return number
