"""Stockfish as a teacher of chess and as its weakest player, in a process of its own.

Both are functions of the positions of a game so far, the number of nodes and a seed: one thread, a
small memory that is cleared before each game, and before each move that is of no game. It is under
the GPL, which is one more reason to keep it apart.
"""

from __future__ import annotations

import contextlib
import functools
import random
import shutil
from dataclasses import dataclass
from pathlib import Path

import chess
import chess.engine

from whorl.core.digests import digest_file
from whorl.core.errors import DataError, MissingExtra

__all__ = ["SharedStockfish", "Stockfish", "identity", "program"]

PLACES = ("/usr/games/stockfish",)  # where Debian puts it, which is not on everybody's PATH
OPTIONS = {"Threads": 1, "Hash": 1}
ANSWER_S = 60.0  # after which it is taken for dead
# How Stockfish weakens itself at skill 0: of the best four moves of a search of one ply, the one
# whose score with a random bonus is best. Its own chance is of the clock, so it is drawn here.
WEAK_MOVES, WEAK_DEPTH, WEAKNESS, PAWN, SCALE = 4, 1, 120, 126, 128
MATE = 32_000


def program() -> str | None:
    """Where Stockfish is installed; None: nowhere."""
    found = shutil.which("stockfish")
    return found or next((place for place in PLACES if Path(place).is_file()), None)


@functools.cache
def identity() -> str:
    """Of the program by its bytes. Raises MissingExtra if it is not installed."""
    return f"stockfish {digest_file(Path(_program()))[:32]}"


def _program() -> str:
    found = program()
    if found is None:
        raise MissingExtra(
            "labelling positions, and playing against it, needs the program stockfish",
            found="not on the PATH" + "".join(f", nor {place}" for place in PLACES),
            do="apt-get install stockfish",
        )
    return found


@dataclass
class Stockfish:
    """A running program. Close it."""

    engine: chess.engine.SimpleEngine

    @classmethod
    def open(cls) -> Stockfish:
        """Raises MissingExtra if it is not installed, DataError if it does not start."""
        place = _program()
        try:
            engine = chess.engine.SimpleEngine.popen_uci(place, timeout=ANSWER_S)
            engine.configure(OPTIONS)
        except (chess.engine.EngineError, OSError, TimeoutError) as error:
            raise DataError("stockfish does not start", found=f"{place}: {error}") from error
        return cls(engine)

    def best(self, board: chess.Board, nodes: int, game: object = None) -> chess.Move:
        """Its move after so many nodes. Raises DataError if it gives none.

        game: within the same one it remembers what it has searched; None: of no other position.
        """
        game = game or object()
        try:
            found = self.engine.play(board, chess.engine.Limit(nodes=nodes), game=game).move
        except (chess.engine.EngineError, TimeoutError) as error:
            raise _dumb(board, error) from error
        if found is None:
            raise _dumb(board)
        return found

    def weakest(self, board: chess.Board, rng: random.Random) -> chess.Move:
        """The move of skill 0: see WEAK_MOVES."""
        found = self._asked(board, chess.engine.Limit(depth=WEAK_DEPTH), WEAK_MOVES)
        top, last = found[0][1], found[-1][1]
        spread = min(top - last, PAWN)
        best, chosen = -(10**9), found[0][0]
        for move, score in found:
            push = (WEAKNESS * (top - score) + spread * rng.randrange(WEAKNESS)) // SCALE
            if score + push >= best:
                best, chosen = score + push, move
        return chosen

    def _asked(
        self, board: chess.Board, limit: chess.engine.Limit, count: int
    ) -> list[tuple[chess.Move, int]]:
        """(move, score in hundredths of a pawn) of the best moves, best first."""
        count = min(count, board.legal_moves.count())
        try:  # another `game` each time: what it remembers is cleared
            told = self.engine.analyse(board, limit, multipv=count, game=object())
        except (chess.engine.EngineError, TimeoutError) as error:
            raise _dumb(board, error) from error
        found = [
            (each["pv"][0], each["score"].relative.score(mate_score=MATE))
            for each in told
            if each.get("pv") and "score" in each
        ]
        if not found:
            raise _dumb(board)
        return found

    def close(self) -> None:
        with contextlib.suppress(chess.engine.EngineError, TimeoutError):
            self.engine.quit()


class SharedStockfish:
    """A program for several games, which is opened when the first of them needs it. Close it."""

    def __init__(self) -> None:
        self._opened: Stockfish | None = None

    @property
    def opened(self) -> Stockfish:
        """Raises as `Stockfish.open`."""
        if self._opened is None:
            self._opened = Stockfish.open()
        return self._opened

    def close(self) -> None:
        if self._opened is not None:
            self._opened.close()
        self._opened = None


def _dumb(board: chess.Board, error: object = "") -> DataError:
    return DataError("stockfish gave no move", found=f"{board.fen()} {error}".strip())
