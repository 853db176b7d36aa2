"""Environments: what acts in a world of its own is asked by letting it act.

An environment tells what is seen as a row of named cells, takes one of its actions, and gives a
reward for it: Gymnasium's way, in words. A `PlayTask` scores how often the right action is the most
probable one, and, where an environment can be opened, plays it: success and the sum of rewards.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from whorl.core.metrics import RETURN, SUCCESS, Metric
from whorl.core.ports import HeldoutDocument, Part
from whorl.core.tasks import ChoiceTask

__all__ = [
    "MAX_STEPS",
    "Drawable",
    "Environment",
    "Observation",
    "Opener",
    "PlayTask",
    "Reaction",
    "Step",
]

MAX_STEPS = 500  # of an episode, whoever plays: after so many it has not succeeded
Observation = Mapping[str, float | str | None]
Step = tuple[Observation, str]  # what was seen, what was done


@dataclass(frozen=True)
class Reaction:
    """What an action came to. has_succeeded: whether the whole went well, once it has ended."""

    observation: Observation
    reward: float
    has_ended: bool
    has_succeeded: bool = False


class Environment(Protocol):
    """A world to act in: the same seed and the same actions give the same, whatever was before.

    actions: what may be done now; most worlds always have the same.
    """

    name: str
    actions: tuple[str, ...]  # those that are possible now, such as a game's legal moves

    def reset(self, seed: int) -> Observation:
        """Begin anew; what is seen first."""
        ...

    def step(self, action: str) -> Reaction:
        """Raises DataError on an action that is not possible now, or after the end."""
        ...

    def close(self) -> None: ...


@runtime_checkable
class Drawable(Protocol):
    """An environment that tells what is where, for whoever watches: the model sees none of it."""

    def scene(self) -> Mapping[str, Any]:
        """Plain values of what is there now, which the page draws; {}: nothing can be drawn.

        {"kind": "grid", "width", "height", "agent": [x, y, direction], "things": [[x, y, kind,
        colour], …], "told"}: squares, directions 0 to 3 from the right clockwise. {"kind": "road",
        "lanes": [[[x, y], …], …], "vehicles": [[x, y, heading, length, width, is_own, has_crashed],
        …], "told"}: metres and radians, y downwards. {"kind": "board", "fen", "moves":
        {"e2e4": its action, …}, "told"}: chess.
        """
        ...


Opener = Callable[[str], tuple[Environment, int] | None]


def _no_world(name: str) -> None:
    return None


def _nothing(steps: Sequence[Step], seen: Observation) -> tuple[Part, ...]:
    return ()


def _in_none(name: str) -> str:
    return ""


@dataclass(frozen=True)
class PlayTask(ChoiceTask):
    """open_world: of a held-out document's name the environment and its seed, None if it has none;
    ask: the parts of a question, of the steps so far and what is seen now; codec: of actions;
    world_of: of a document's name `world#seed` the world, to be opened from any seed, "": none."""

    open_world: Opener = _no_world
    ask: Callable[[Sequence[Step], Observation], tuple[Part, ...]] = _nothing
    codec: str = "action"
    name: str = "play"
    further: tuple[Metric, ...] = (SUCCESS, RETURN)
    max_steps: int = MAX_STEPS
    world_of: Callable[[str], str] = _in_none
    own_worlds: tuple[str, ...] = ()  # to open besides those of documents, as `world#seed` too

    def worlds(self) -> AbstractContextManager[Opener]:
        """What opens worlds as `open_world` does, several at once, until it is left: they may
        share what they need."""
        return nullcontext(self.open_world)

    def plays(self, document: HeldoutDocument) -> bool:
        """Whether there is an environment to play."""
        world = self.open_world(document.name)
        if world is not None:
            world[0].close()
        return world is not None

    def further_of(self, documents: Sequence[HeldoutDocument]) -> tuple[Metric, ...]:
        """The metrics of what is played: none where a document has no environment."""
        return self.further if documents and all(map(self.plays, documents)) else ()

    def measures(self, document: HeldoutDocument, metric: Metric) -> bool:
        """Whether a document counts in a metric."""
        return True

    def played(
        self, document: HeldoutDocument, succeeded: bool, total: float
    ) -> Mapping[Metric, tuple[float, float]]:
        """What came of an episode, in metrics of playing. total: the sum of its rewards."""
        return {SUCCESS: (float(succeeded), 1.0), RETURN: (total, 1.0)}
