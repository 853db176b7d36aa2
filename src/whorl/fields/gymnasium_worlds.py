"""Gymnasium's environments in words: `gymnasium:minigrid:BabyAI-GoToLocal-v0` and the like.

What stands after `gymnasium:` is a name that gymnasium.make takes: a module to import first, and
the environment's; `?config.vehicles_density=1.5&config.duration=20` gives it settings. Its actions
must be of a Discrete space. What minigrid shows is told by what lies where, others by numbers.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import EnumType
from importlib import metadata
from typing import Any

import numpy as np

from whorl.core.environments import Observation, Reaction
from whorl.core.errors import DataError, MissingExtra, SpecError
from whorl.fields.world_scenes import scene_of

__all__ = ["PREFIX", "GymWorld", "identity_of", "open_world"]

PREFIX = "gymnasium:"
MAX_CELLS = 400  # of an observation
UNSEEN = ("unseen", "empty", "wall", "floor", "agent")  # of minigrid: told by how far is free


@dataclass
class GymWorld:
    """An environment of Gymnasium behind the port `whorl.core.environments.Environment`."""

    name: str  # as gymnasium.make takes it
    env: Any
    actions: tuple[str, ...]
    total: float = 0.0
    has_ended: bool = True
    has_succeeded: bool = False
    _places: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        self._places = {action: place for place, action in enumerate(self.actions)}

    def reset(self, seed: int) -> Observation:
        with _quietly():
            seen, _ = self.env.reset(seed=seed)
        self.total, self.has_ended, self.has_succeeded = 0.0, False, False
        return described(self.name, seen)

    def step(self, action: str) -> Reaction:
        if self.has_ended or action not in self._places:
            found = "the episode has ended" if self.has_ended else action
            raise DataError(f"{self.name} takes no such action", found=found, expected=self.actions)
        start = getattr(self.env.action_space, "start", 0)
        with _quietly():
            seen, reward, ended, cut, info = self.env.step(self._places[action] + start)
        self.total, self.has_ended = self.total + float(reward), bool(ended or cut)
        self.has_succeeded = self.has_ended and self._success(info)
        seen = described(self.name, seen)
        return Reaction(seen, float(reward), self.has_ended, self.has_succeeded)

    def close(self) -> None:
        self.env.close()

    def scene(self) -> Mapping[str, Any]:
        """See `whorl.core.environments.Drawable`: squares of minigrid, roads of highway-env."""
        return scene_of(self.env.unwrapped)

    def _success(self, info: Mapping[str, Any]) -> bool:
        """As the environment says it; else whether nothing crashed, or it was worth anything."""
        if "is_success" in info:
            return bool(info["is_success"])
        return not info["crashed"] if "crashed" in info else self.total > 0


def open_world(name: str) -> GymWorld:
    """Raises MissingExtra, or SpecError if there is none of that name or its actions are no
    choice."""
    try:
        import gymnasium
    except ImportError as error:
        raise MissingExtra.of("gymnasium", "worlds", "an environment") from error
    try:
        plain, _, settings = name.partition("?")
        with _quietly():
            env = gymnasium.make(plain, **_settings(settings))
    except (gymnasium.error.Error, ImportError, TypeError) as error:
        raise SpecError(
            f"there is no environment {name}",
            found=str(error)[:200],
            expected="a name of gymnasium.make, such as CartPole-v1 or minigrid:BabyAI-GoToObj-v0",
            do="correct the name, or install the package that brings it",
        ) from error
    if not isinstance(env.action_space, gymnasium.spaces.Discrete):
        found = str(env.action_space)[:80]
        raise SpecError(f"actions of {name} are no choice", found=found, expected="Discrete(n)")
    return GymWorld(name, env, _names(env))


def _settings(text: str) -> dict[str, Any]:
    """Settings of a name, as JSON where they are; dots lead into objects. Raises SpecError."""
    found: dict[str, Any] = {}
    for word in filter(None, text.split("&")):
        key, sign, value = word.partition("=")
        if not (key and sign and value):
            expected = "key=value, more of them between &"
            raise SpecError("settings of an environment", found=word, expected=expected)
        *outer, last = key.split(".")
        inside = found
        for part in outer:
            inside = inside.setdefault(part, {})
        try:
            inside[last] = json.loads(value)
        except ValueError:
            inside[last] = value
    return found


def identity_of(name: str) -> str:
    """Name and versions of what it is made by."""
    module = name.partition(":")[0] if ":" in name else ""
    versions = [f"gymnasium {_version('gymnasium')}"]
    return ", ".join([name, *versions, *([f"{module} {_version(module)}"] if module else [])])


def _version(module: str) -> str:
    try:
        return metadata.version(module.replace("_", "-"))
    except metadata.PackageNotFoundError:
        return "unknown"


def _names(env: Any) -> tuple[str, ...]:
    """Actions by the names that the environment gives them, else by number."""
    given: Any = getattr(env.unwrapped, "actions", None)
    members: list[Any] = list(given) if isinstance(given, EnumType) else []
    names = [str(each.name) for each in members]
    meta = getattr(getattr(env.unwrapped, "action_type", None), "actions", None)
    if isinstance(meta, Mapping):
        names = [str(meta[number]) for number in sorted(meta)]
    count = int(env.action_space.n)
    return tuple(names) if len(set(names)) == count else tuple(str(n) for n in range(count))


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Environments print what nobody asked for."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield


# ------------------------------------------------------------------ what is seen


def described(name: str, seen: Any) -> Observation:
    """An observation as a row of cells; what is no finite number is missing.

    Raises SpecError if it has too many, or one that is neither a text nor numbers.
    """
    if isinstance(seen, Mapping) and {"image", "mission", "direction"} <= seen.keys():
        return _of_grid(seen)
    row = dict(_cells("", seen))
    if len(row) > MAX_CELLS:
        raise SpecError(
            f"{name} shows more than can be told",
            found=f"{len(row):,} numbers",
            expected=f"at most {MAX_CELLS}",
            do="wrap it so that it shows fewer, or give jsonl",
        )
    return row


def _cells(name: str, seen: Any) -> Iterator[tuple[str, float | str | None]]:
    if isinstance(seen, Mapping):
        for key, value in seen.items():
            yield from _cells(f"{name}.{key}" if name else str(key), value)
    elif isinstance(seen, str):
        yield name or "seen", seen
    elif isinstance(seen, tuple | list):
        for place, value in enumerate(seen):
            yield from _cells(f"{name}[{place}]", value)
    else:
        try:
            values = np.asarray(seen, np.float64)
        except (TypeError, ValueError, OverflowError) as error:
            told = f"the cell {name or 'seen'} of an observation is neither a text nor numbers"
            raise SpecError(told, found=repr(seen)[:80]) from error
        for at, number in np.ndenumerate(values):
            where = ",".join(str(axis) for axis in at)
            cell = float(number) if np.isfinite(number) else None
            yield (f"{name}[{where}]" if at else name or "seen"), cell


def _of_grid(seen: Mapping[str, Any]) -> Observation:
    """Of minigrid: the words of the mission, things by where they lie, and how far is free."""
    from minigrid.core.constants import IDX_TO_COLOR, IDX_TO_OBJECT

    words = str(seen["mission"]).split()
    row: dict[str, float | str | None] = {f"word {n}": word for n, word in enumerate(words, 1)}
    image = np.asarray(seen["image"])
    for (x, y), number in np.ndenumerate(image[:, :, 0]):
        kind = IDX_TO_OBJECT[int(number)]
        thing = "nothing"
        if kind not in UNSEEN:
            state = f" {int(image[x, y, 2])}" if kind == "door" else ""
            thing = f"{IDX_TO_COLOR[int(image[x, y, 1])]} {kind}{state}"
        row[f"{x},{y}"] = thing
    middle, last = image.shape[0] // 2, image.shape[1] - 1
    ahead = [IDX_TO_OBJECT[int(n)] for n in image[middle, last - 1 :: -1, 0]]
    row["ahead"] = str(next((n for n, kind in enumerate(ahead) if kind == "wall"), len(ahead)))
    aside = {"left": range(middle - 1, -1, -1), "right": range(middle + 1, image.shape[0])}
    for side, places in aside.items():
        kinds = [IDX_TO_OBJECT[int(image[x, last, 0])] for x in places]
        row[side] = str(next((n for n, kind in enumerate(kinds) if kind == "wall"), len(kinds)))
    return row
