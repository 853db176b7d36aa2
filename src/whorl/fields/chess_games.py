"""Games of chess as environments, against players of known strength, or of both sides.

A win is worth 1, a draw ½. A game begins from a position and is played to its end by whoever is
asked. It is drawn after a third repetition, fifty moves without a capture or a pawn's, or
MOST_MOVES of the side that began. The other player's chance depends on the seed alone.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import chess

from whorl.core.environments import Observation, Reaction
from whorl.core.errors import DataError
from whorl.fields.chess_looks import VALUES
from whorl.fields.chess_names import BOTH_SIDES, GREEDY, STOCKFISH, TOLD, begun_by
from whorl.fields.chess_positions import DRAWS, GAINS, MATES, move_of, moves_of, row_of, word_of
from whorl.fields.stockfish import SharedStockfish, Stockfish

__all__ = [
    "ChessGame",
    "ChessWorld",
    "Ending",
    "Player",
    "captures",
    "chance_player",
    "ending_of",
    "points_of",
    "world_of",
]

MOST_MOVES = 150  # of one side: a longer game is drawn
NO_PROGRESS_PLIES, REPEATED = 100, 3
NAMES = {chess.WHITE: "White", chess.BLACK: "Black"}
ENDINGS = {  # what a draw or a mate is called; the other ways have their own names
    chess.Termination.CHECKMATE: "checkmate",
    chess.Termination.STALEMATE: "stalemate",
    chess.Termination.INSUFFICIENT_MATERIAL: "neither side has enough to mate",
}
Player = Callable[[chess.Board, random.Random], chess.Move]


def world_of(name: str, shared: SharedStockfish | None = None) -> tuple[ChessGame, int] | None:
    """The game that a document begins, or one of both sides, and its seed; None: it begins none.

    shared: see `ChessWorld`.
    """
    world, _, seed = name.rpartition("#")
    if world == BOTH_SIDES and seed.isdecimal():
        return ChessGame(), int(seed)
    found = begun_by(name)
    return None if found is None else (ChessWorld(found[1], found[2], shared), found[0])


@dataclass(frozen=True)
class Ending:
    """How a game ended. winner: None of a draw."""

    winner: chess.Color | None
    told: str


def ending_of(board: chess.Board) -> Ending | None:
    """None: the game goes on. board: with the moves since the game began."""
    outcome = board.outcome()
    if outcome is not None:
        told = outcome.termination.name.lower().replace("_", " ")
        return Ending(outcome.winner, ENDINGS.get(outcome.termination, told))
    if board.is_repetition(REPEATED):
        return Ending(None, "the same position for the third time")
    if board.halfmove_clock >= NO_PROGRESS_PLIES:
        return Ending(None, "fifty moves without a capture or a pawn's move")
    num_moves = (len(board.move_stack) + 1) // 2  # of the side that began
    return Ending(None, f"{MOST_MOVES} moves") if num_moves >= MOST_MOVES else None


def captures(board: chess.Board) -> list[chess.Move]:
    """The captures that take most; none where nothing can be taken."""
    gains: dict[chess.Move, int] = {}
    for move in board.generate_legal_captures():
        taken = board.piece_type_at(move.to_square) or chess.PAWN  # in passing
        gains[move] = VALUES[taken]
    best = max(gains.values(), default=0)
    return [move for move, gain in gains.items() if gain == best]


def _told(board: chess.Board) -> list[chess.Move]:
    """What its position says mates, or else gains, or else all that it does not call drawn."""
    row = row_of(board)
    if word := row.get(MATES) or row.get(GAINS):
        return [move_of(board, str(word))]
    drawn = str(row.get(DRAWS) or "").split()
    return [move for move in board.legal_moves if word_of(board, move) not in drawn]


def chance_player(name: str) -> Player:
    """random: any legal move; greedy: one that takes most, else any; told: see `_told`."""
    ways = {GREEDY: captures, TOLD: _told}

    def play(board: chess.Board, rng: random.Random) -> chess.Move:
        moves = ways[name](board) if name in ways else []
        return rng.choice(sorted(moves or board.legal_moves, key=chess.Move.uci))

    return play


class ChessGame:
    """A game from a position on, of which every move is an action, whosever turn it is.

    A reward is that of the side that has moved.
    """

    def __init__(self, start: str = chess.STARTING_FEN, name: str = BOTH_SIDES) -> None:
        """start: FEN."""
        self.start, self.name = start, name
        self.board, self.actions = chess.Board(start), tuple[str, ...]()
        self.ending: Ending | None = None

    @property
    def has_ended(self) -> bool:
        return self.ending is not None

    def reset(self, seed: int) -> Observation:
        """The seed changes nothing."""
        self.board, self.ending = chess.Board(self.start), None
        return self._seen()

    def step(self, action: str) -> Reaction:
        if action not in self.actions:
            found = "the game has ended" if self.has_ended else action
            raise DataError(f"{self.name} takes no such move", found=found, expected=self.actions)
        mine = self.board.turn
        self._push(move_of(self.board, action))
        if self.ending is None:
            self._answer()
        points = self._points(mine)
        return Reaction(self._seen(), points, self.has_ended, points == 1.0)

    def close(self) -> None: ...

    def scene(self) -> Mapping[str, Any]:
        """See `whorl.core.environments.Drawable`."""
        legal = () if self.has_ended else tuple(self.board.legal_moves)
        return {
            "kind": "board",
            "fen": self.board.fen(),
            "moves": {move.uci(): word_of(self.board, move) for move in legal},
            "told": self._told(),
        }

    def _answer(self) -> None:
        """What another player does after a move: here nothing."""

    def _push(self, move: chess.Move) -> None:
        self.board.push(move)
        self.ending = ending_of(self.board)

    def _seen(self) -> Observation:
        self.actions = () if self.has_ended else moves_of(self.board)
        return row_of(self.board)

    def _points(self, mine: chess.Color) -> float:
        """What the game came to for a side; 0 while it goes on."""
        if self.ending is None:
            return 0.0
        return 0.5 if self.ending.winner is None else float(self.ending.winner == mine)

    def _told(self) -> str:
        if self.ending is None:
            check = ", in check" if self.board.is_check() else ""
            return f"{NAMES[self.board.turn]} to move{check}"
        winner = self.ending.winner
        result = "A draw" if winner is None else f"{NAMES[winner]} has won"
        return f"{result}: {self.ending.told}"


class ChessWorld(ChessGame):
    """A game whose side to move is played by who acts, and the other by an opponent."""

    def __init__(self, opponent: str, start: str, shared: SharedStockfish | None = None) -> None:
        """start: FEN. shared: the Stockfish of several games; None: one of its own."""
        super().__init__(start, f"chess against {opponent}")
        self.opponent, self._rng, self._shared = opponent, random.Random(), shared
        self._player: Player | None = None
        self._stockfish: Stockfish | None = None

    def reset(self, seed: int) -> Observation:
        """Raises MissingExtra if Stockfish is asked to play and is not there."""
        if self._player is None:
            self._player = self._opened()
        self._rng = random.Random(f"{self.opponent} {seed}")
        return super().reset(seed)

    def close(self) -> None:
        if self._stockfish is not None:
            self._stockfish.close()
        self._stockfish, self._player, self.actions = None, None, ()

    def _opened(self) -> Player:
        if self.opponent != STOCKFISH:
            return chance_player(self.opponent)
        if self._shared is not None:
            return self._shared.opened.weakest
        self._stockfish = Stockfish.open()
        return self._stockfish.weakest

    def _answer(self) -> None:
        assert self._player is not None  # there are actions, so that it has begun
        self._push(self._player(self.board, self._rng))


def points_of(name: str, player: Player) -> float:
    """What another player gets from a document's game. Raises as `ChessWorld.reset`."""
    opened = world_of(name)
    if opened is None or not isinstance(opened[0], ChessWorld):
        raise DataError("this document begins no game", found=name)
    world, seed = opened
    rng, total = random.Random(f"player {seed}"), 0.0
    try:
        world.reset(seed)
        while not world.has_ended:
            action = word_of(world.board, player(world.board, rng))
            total += world.step(action).reward
    finally:
        world.close()
    return total
