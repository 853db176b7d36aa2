"""Worlds for the page's rooms: a grid, a road, a board, each with what is drawn of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from whorl.core.environments import Observation, PlayTask, Reaction, Step
from whorl.core.errors import DataError
from whorl.core.ports import Part

__all__ = ["BOARD", "GRID", "PLAYS", "ROAD", "TURNS", "BoardWorld", "RoadWorld"]

TURNS = ("turn_left", "turn_right", "forward")
GRID, ROAD, BOARD = "gymnasium:minigrid:Rooms-v0", "gymnasium:highway_env:road-v0", "chess"
SIDE = 6


@dataclass
class GridWorld:
    """A ball in a room; it is seen by where it lies from the agent."""

    name: str = GRID
    actions: tuple[str, ...] = TURNS
    at: tuple[int, int] = (1, 1)
    way: int = 0
    ball: tuple[int, int] = (4, 3)

    def reset(self, seed: int) -> Observation:
        self.at, self.way, self.ball = (1, 1), seed % 4, (4, 2 + seed % 3)
        return self._seen()

    def step(self, action: str) -> Reaction:
        if action == "forward":
            ahead = tuple(a + b for a, b in zip(self.at, self._ahead(), strict=True))
            if ahead == self.ball:
                return Reaction(self._seen(), 1.0, True, True)
            if all(0 < axis < SIDE for axis in ahead):
                self.at = ahead  # type: ignore[assignment]
        else:
            self.way = (self.way + (1 if action == "turn_right" else 3)) % 4
        return Reaction(self._seen(), 0.0, False)

    def close(self) -> None: ...

    def scene(self) -> dict[str, Any]:
        edge = range(SIDE + 1)
        walls = [[x, y, "wall", "grey"] for x in edge for y in edge if {x, y} & {0, SIDE}]
        more = [[2, 4, "key", "yellow"], [5, 1, "box", "purple"], [SIDE, 3, "door", "blue"]]
        return {
            "kind": "grid",
            "width": SIDE + 1,
            "height": SIDE + 1,
            "agent": [*self.at, self.way],
            "things": [*walls, [*self.ball, "ball", "red"], *more],
            "told": "go to the red ball",
        }

    def _ahead(self) -> tuple[int, int]:
        return ((1, 0), (0, 1), (-1, 0), (0, -1))[self.way]

    def _seen(self) -> Observation:
        away = [to - at for to, at in zip(self.ball, self.at, strict=True)]
        (x, y), turned = self._ahead(), [-self._ahead()[1], self._ahead()[0]]
        ahead, aside = away[0] * x + away[1] * y, away[0] * turned[0] + away[1] * turned[1]
        return {"ahead": float(ahead), "aside": float(aside)}


@dataclass
class RoadWorld:
    """Three lanes; whoever is ahead is slower."""

    name: str = ROAD
    actions: tuple[str, ...] = ("FASTER", "LANE_RIGHT")
    x: float = 0.0
    lane: int = 0
    time: int = 0

    def reset(self, seed: int) -> Observation:
        self.x, self.lane, self.time = 0.0, 0, 0
        return self._seen()

    def step(self, action: str) -> Reaction:
        self.time += 1
        self.x += 12.0
        self.lane = min(2, self.lane + (action == "LANE_RIGHT"))
        return Reaction(self._seen(), 0.8, self.time == 12, True)

    def close(self) -> None: ...

    def scene(self) -> dict[str, Any]:
        others = [[20 + 32 * n + 8.0 * self.time, 4.0 * (n * 2 % 3)] for n in range(6)]
        lanes = [[[self.x - 40, 4.0 * n], [self.x + 100, 4.0 * n]] for n in range(3)]
        mine = [self.x, 4.0 * self.lane, 0.0, 5.0, 2.0, True, False]
        return {
            "kind": "road",
            "lanes": lanes,
            "vehicles": [mine, *([*at, 0.0, 5.0, 2.0, False, False] for at in others)],
            "told": "12 m/s",
        }

    def _seen(self) -> Observation:
        return {"ahead": float(self.time % 4), "aside": float(self.lane)}


@dataclass
class BoardWorld:
    """The first moves of a game, whoever makes them; a move is an action of whoever is to move."""

    name: str = BOARD
    actions: tuple[str, ...] = ()
    done: tuple[str, ...] = ()

    START = "rnbqkbnr/pppppppp/8/8/8/8/PPPPPPPP/RNBQKBNR w KQkq - 0 1"
    OPENINGS: ClassVar[
        dict[tuple[str, ...], tuple[str, tuple[str, ...]]]
    ] = {  # moves so far -> (FEN, legal moves that are told)
        (): (START, ("e2e4", "d2d4", "g1f3")),
        ("e2e4",): (
            "rnbqkbnr/pppppppp/8/8/4P3/8/PPPP1PPP/RNBQKBNR b KQkq e3 0 1",
            ("e7e5", "c7c5"),
        ),
        ("e2e4", "e7e5"): (
            "rnbqkbnr/pppp1ppp/8/4p3/4P3/8/PPPP1PPP/RNBQKBNR w KQkq e6 0 2",
            ("g1f3", "f1c4"),
        ),
    }

    def reset(self, seed: int) -> Observation:
        self.done = ()
        return self._seen()

    def step(self, action: str) -> Reaction:
        if action not in self.actions:
            raise DataError("there is no such move", found=action)
        self.done = (*self.done, action)
        has_ended = self.done not in self.OPENINGS
        return Reaction(self._seen(), 0.0, has_ended)

    def close(self) -> None: ...

    def scene(self) -> dict[str, Any]:
        fen, moves = self.OPENINGS.get(self.done, (self.START, ()))
        told = "White to move" if " w " in fen else "Black to move"
        return {"kind": "board", "fen": fen, "moves": {move: move for move in moves}, "told": told}

    def _seen(self) -> Observation:
        self.actions = self.OPENINGS.get(self.done, ("", ()))[1]
        return {"ahead": float(len(self.done)), "aside": 0.0}


def open_world(name: str) -> tuple[Any, int] | None:
    world, _, seed = name.rpartition("#")
    kind = {GRID: GridWorld, ROAD: RoadWorld, BOARD: BoardWorld}.get(world)
    return None if kind is None else (kind(), int(seed))


def _ask(steps: Sequence[Step], seen: Observation) -> tuple[Part, ...]:
    return (Part("seen", seen),)


PLAYS = {
    "episodes": PlayTask(open_world=open_world, ask=_ask),
    "chess": PlayTask(open_world=open_world, ask=_ask, codec="move"),
}
