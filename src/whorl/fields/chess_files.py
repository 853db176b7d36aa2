"""Positions with the move that was made there, as people have them: PGN, EPD, rows of fen and move.

Rows are csv, tsv, jsonl or parquet; a move is written as e2e4 or as Nf3. What no rule of chess
allows is refused, a game of a PGN as a whole.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import chess
import chess.pgn

from whorl.core.sources import FileItem
from whorl.fields.files import NAMED_FORMATS, ROW_FORMATS, bare_suffix
from whorl.fields.formats import lines_of, rows_of
from whorl.fields.jsonl import Row
from whorl.fields.places import Places, Reject
from whorl.fields.whole import is_test

__all__ = ["SUFFIXES", "Game", "games_of"]

PGN, EPD = ".pgn", ".epd"
SUFFIXES = (PGN, EPD, *ROW_FORMATS)
ROWS = {**ROW_FORMATS, **NAMED_FORMATS}
FEN_KEYS = ("fen", "position", "board", "epd")
MOVE_KEYS = ("move", "best_move", "bestmove", "best", "uci", "san", "bm")
PASSED, RANKS = "0000", 8
MOST_PLIES, MAX_GAME_CHARS, MAX_FEN = 1_000, 2**18, 100
STANDARD = ("", "standard", "normal", "from position")  # what a game without other rules says


@dataclass(frozen=True)
class Game:
    """moves: from `start` on, each legal there. A row of a position is a game of one move."""

    name: str
    start: str  # FEN
    moves: tuple[str, ...]  # UCI
    winner: bool | None = None  # chess.WHITE, chess.BLACK; None: nobody, or nobody says
    is_test: bool = False

    @property
    def place(self) -> str:
        """Where it starts, without the counts of moves."""
        return self.start.rsplit(" ", 2)[0]

    def positions(self) -> Iterator[tuple[chess.Board, chess.Move]]:
        """Each position with its move. The board is moved on: copy what is kept."""
        board = chess.Board(self.start)
        for word in self.moves:
            move = chess.Move.from_uci(word)
            yield board, move
            board.push(move)


def games_of(files: Sequence[FileItem], reject: Reject) -> Iterator[Game]:
    """All games of a source; what cannot be used is refused with its line."""
    for item in files:
        places = Places.of(item, reject)
        suffix = bare_suffix(item.name)
        read = _of_pgn if suffix == PGN else _of_epd if suffix == EPD else _of_rows
        yield from read(item, places, is_test(item))


# ------------------------------------------------------------------ PGN


class _Builder(chess.pgn.GameBuilder[chess.pgn.Game]):
    """Faults are kept without being logged."""

    def handle_error(self, error: Exception) -> None:
        self.game.errors.append(error)


def _of_pgn(item: FileItem, places: Places, is_test: bool) -> Iterator[Game]:
    for number, (line, text) in enumerate(_texts(lines_of(item, places), places), 1):
        try:
            if len(text) > MAX_GAME_CHARS:
                raise ValueError(f"game of more than {MAX_GAME_CHARS:,} signs")
            yield _played(f"{item.name} game {number}", text, is_test)
        except ValueError as error:
            places.at(line).refuse(*error.args)


def _texts(lines: Iterator[str], places: Places) -> Iterator[tuple[int | None, str]]:
    """(line it begins at, text) of each game: tags after moves begin the next one."""
    kept, first, num_chars, has_moves, depth = list[str](), None, 0, False, 0
    for line in lines:
        at = places.line  # who is given a game moves it
        is_tag = line.startswith("[Event ") or (line.startswith("[") and depth == 0)
        if is_tag and has_moves:
            yield first, "\n".join(kept)
            kept, num_chars, has_moves, depth = [], 0, False, 0
        if not kept:
            first = at
        if not is_tag and not line.startswith("%"):
            has_moves = True
            depth = max(0, depth + line.partition(";")[0].count("{") - line.count("}"))
        num_chars += len(line)
        if num_chars <= 2 * MAX_GAME_CHARS:  # of what is longer the rest is not kept
            kept.append(line)
    if kept:
        yield first, "\n".join(kept)


def _played(name: str, text: str, is_test: bool) -> Game:
    """Raises ValueError with the reason why a game is refused."""
    game = chess.pgn.read_game(io.StringIO(text), Visitor=_Builder)
    if game is None:
        raise ValueError("game without a move")
    if game.headers.get("Variant", "").lower() not in STANDARD:
        raise ValueError("game of another variant", game.headers["Variant"][:40])
    if game.errors:
        raise ValueError("game with a move that is not legal, or not readable", _told(game.errors))
    start = game.board()
    if not start.is_valid():
        raise ValueError("game from a position that is not possible", start.fen()[:MAX_FEN])
    moves = tuple(move.uci() for move in game.mainline_moves())
    if not moves:
        raise ValueError("game without a move")
    if PASSED in moves:
        raise ValueError("game in which a side passes")
    if len(moves) > MOST_PLIES:
        raise ValueError(f"game of more than {MOST_PLIES:,} moves of both sides")
    winner = {"1-0": chess.WHITE, "0-1": chess.BLACK}.get(game.headers.get("Result", ""))
    return Game(name, start.fen(), moves, winner, is_test)


def _told(errors: Sequence[Exception]) -> str:
    return str(errors[0])[:80]


# ------------------------------------------------------------------ EPD, rows


def _of_epd(item: FileItem, places: Places, is_test: bool) -> Iterator[Game]:
    for line in lines_of(item, places):
        try:
            board = chess.Board(None)
            try:
                told = board.set_epd(line.strip())
            except ValueError as error:
                raise ValueError("line that is no EPD", str(error)[:80]) from error
            best = told.get("bm") or told.get("pm") or []
            moves = best if isinstance(best, list) else [best]
            if not moves or not isinstance(moves[0], chess.Move):
                raise ValueError("EPD without a best move (bm)")
            _check_position(board)
            name = f"{item.name}@{places.line}"
            yield Game(name, board.fen(), (moves[0].uci(),), None, is_test)
        except ValueError as error:
            places.refuse(*error.args)


def _of_rows(item: FileItem, places: Places, is_test: bool) -> Iterator[Game]:
    kind = ROWS.get(bare_suffix(item.name), "jsonl")
    rows = replace(item, kind=kind)
    named = rows_of(rows, (), places) if _has_names(rows) else _nameless(rows, places)
    for name, row in named:
        try:
            board = _board(_text(row, FEN_KEYS))
            move = _move(board, _text(row, MOVE_KEYS))
            yield Game(name, board.fen(), (move.uci(),), None, is_test)
        except ValueError as error:
            places.refuse(*error.args)


def _has_names(item: FileItem) -> bool:
    """Whether the first row of a table names its columns: a position is no name."""
    if item.kind not in ("csv", "tsv"):
        return True
    first = next(lines_of(item, lambda reason: None), "")
    return first.count("/") < RANKS - 1


def _nameless(item: FileItem, places: Places) -> Iterator[tuple[str, Row]]:
    """Rows of a position and a move, in this order."""
    for line in lines_of(item, places):
        fen, _, move = line.partition("\t" if "\t" in line else ",")
        yield f"{item.name}@{places.line}", {"fen": fen, "move": move}


def _text(row: Row, keys: Sequence[str]) -> str:
    by_name: Mapping[str, object] = {str(key).strip().lower(): row[key] for key in row}
    for key in keys:
        if key in by_name:
            if not isinstance(by_name[key], str) or not str(by_name[key]).strip():
                raise ValueError(f"{keys[0]} that is no text")
            return str(by_name[key]).strip()
    raise ValueError(f"no key {keys[0]}", f"it has {', '.join(map(str, list(row)[:8]))}")


def _board(fen: str) -> chess.Board:
    try:
        board = chess.Board(fen[:MAX_FEN])
    except ValueError as error:
        raise ValueError("position that is no FEN", str(error)[:80]) from error
    _check_position(board)
    return board


def _check_position(board: chess.Board) -> None:
    if not board.is_valid():
        raise ValueError("position that is not possible", board.fen()[:MAX_FEN])


def _move(board: chess.Board, text: str) -> chess.Move:
    """Raises ValueError on what is no legal move in either way of writing."""
    for read in (board.parse_uci, board.parse_san):
        try:
            if move := read(text[:MAX_FEN]):  # one of nobody is false
                return move
        except ValueError:
            continue
    raise ValueError("move that is not legal there", text[:40])
