"""Documents that begin a game of chess, by their names: number, opponent, and from which position.

Known without any rule of chess, so that a recipe is read where no library of it is installed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from whorl.core.metrics import POINTS_GREEDY, POINTS_RANDOM, POINTS_STOCKFISH, Metric

__all__ = [
    "BOTH_SIDES",
    "GREEDY",
    "METRICS",
    "RANDOM",
    "STOCKFISH",
    "TOLD",
    "begun_by",
    "name_of",
]

RANDOM, GREEDY, STOCKFISH = "random", "greedy", "stockfish"
TOLD = "told"  # who plays by what a position tells of its moves: no opponent
BOTH_SIDES = "chess"  # a game whose moves are all made by who acts: a person's and the model's
METRICS: Mapping[str, Metric] = {  # of games against each opponent
    RANDOM: POINTS_RANDOM,
    GREEDY: POINTS_GREEDY,
    STOCKFISH: POINTS_STOCKFISH,
}
NAME = re.compile(rf"game (\d+) against ({'|'.join(METRICS)}) from (\S+ [wb] \S+ \S+ \d+ \d+)")


def name_of(number: int, opponent: str, fen: str) -> str:
    """The name of a document that begins a game."""
    return f"game {number} against {opponent} from {fen}"


def begun_by(name: str) -> tuple[int, str, str] | None:
    """(number, opponent, FEN) of the game that a document begins; None: it begins none."""
    found = NAME.fullmatch(name)
    return None if found is None else (int(found[1]), found[2], found[3])
