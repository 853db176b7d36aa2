"""Games of chess against players of known strength, as an environment: a win is worth 1, a draw ½.

A game begins from a position and is played to its end by whoever is asked. It is drawn after a
third repetition, fifty moves without a capture or a pawn's, or MOST_MOVES of the asked player. The
other player's chance depends on the seed alone.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import chess

from whorl.core.environments import Observation, Reaction
from whorl.core.errors import DataError
from whorl.fields.chess_names import GREEDY, STOCKFISH, begun_by
from whorl.fields.chess_positions import move_of, moves_of, row_of, word_of
from whorl.fields.stockfish import Stockfish

__all__ = ["ChessWorld", "Player", "captures", "chance_player", "points_of", "world_of"]

MOST_MOVES = 150  # of one side: a longer game is drawn
NO_PROGRESS_PLIES, REPEATED = 100, 3
VALUES = {chess.PAWN: 1, chess.KNIGHT: 3, chess.BISHOP: 3, chess.ROOK: 5, chess.QUEEN: 9}
Player = Callable[[chess.Board, random.Random], chess.Move]


def world_of(name: str) -> tuple[ChessWorld, int] | None:
    """The game that a document begins, and its seed; None: it begins none."""
    found = begun_by(name)
    return None if found is None else (ChessWorld(found[1], found[2]), found[0])


def captures(board: chess.Board) -> list[chess.Move]:
    """The captures that take most; none where nothing can be taken."""
    gains: dict[chess.Move, int] = {}
    for move in board.generate_legal_captures():
        taken = board.piece_type_at(move.to_square) or chess.PAWN  # in passing
        gains[move] = VALUES[taken]
    best = max(gains.values(), default=0)
    return [move for move, gain in gains.items() if gain == best]


def chance_player(name: str) -> Player:
    """random: any legal move; greedy: one that takes most, else any."""

    def play(board: chess.Board, rng: random.Random) -> chess.Move:
        moves = captures(board) if name == GREEDY else []
        return rng.choice(sorted(moves or board.legal_moves, key=chess.Move.uci))

    return play


@dataclass
class ChessWorld:
    """A game from a position on, whose side to move is played by who acts; actions are legal."""

    opponent: str
    start: str  # FEN
    name: str = field(init=False)
    actions: tuple[str, ...] = ()
    board: chess.Board = field(init=False)
    has_ended: bool = True
    _num_moves: int = 0
    _rng: random.Random = field(default_factory=random.Random)
    _player: Player | None = None
    _stockfish: Stockfish | None = None

    def __post_init__(self) -> None:
        self.name = f"chess against {self.opponent}"
        self.board = chess.Board(self.start)

    def reset(self, seed: int) -> Observation:
        """Raises MissingExtra if Stockfish is asked to play and is not there."""
        if self._player is None:
            self._player = self._opened()
        self.board, self._num_moves = chess.Board(self.start), 0
        self._rng, self.has_ended = random.Random(f"{self.opponent} {seed}"), False
        return self._seen()

    def step(self, action: str) -> Reaction:
        if self.has_ended or action not in self.actions or self._player is None:
            found = "the game has ended" if self.has_ended else action
            raise DataError(f"{self.name} takes no such move", found=found, expected=self.actions)
        mine = self.board.turn
        self.board.push(move_of(self.board, action))
        self._num_moves += 1
        if (points := self._points(mine)) is None:
            self.board.push(self._player(self.board, self._rng))
            points = self._points(mine)
        self.has_ended = points is not None
        return Reaction(self._seen(), points or 0.0, self.has_ended, points == 1.0)

    def close(self) -> None:
        if self._stockfish is not None:
            self._stockfish.close()
        self._stockfish = self._player = None

    def _opened(self) -> Player:
        if self.opponent != STOCKFISH:
            return chance_player(self.opponent)
        self._stockfish = Stockfish.open()
        return self._stockfish.weakest

    def _seen(self) -> Observation:
        self.actions = () if self.has_ended else moves_of(self.board)
        return row_of(self.board)

    def _points(self, mine: chess.Color) -> float | None:
        """What the game is worth to a side; None: it goes on."""
        outcome = self.board.outcome()
        if outcome is not None:
            return 0.5 if outcome.winner is None else float(outcome.winner == mine)
        is_drawn = self.board.halfmove_clock >= NO_PROGRESS_PLIES
        is_drawn |= self.board.is_repetition(REPEATED) or self._num_moves >= MOST_MOVES
        return 0.5 if is_drawn else None


def points_of(name: str, player: Player) -> float:
    """What another player gets from a document's game. Raises as `ChessWorld.reset`."""
    opened = world_of(name)
    if opened is None:
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
