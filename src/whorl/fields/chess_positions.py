"""Positions of chess as rows of cells, moves as two squares: both seen by whoever is to move.

Black's board is turned, so that what is learned of one side holds for both: own pieces are capital
letters and stand at the first rank. A square's cell is the piece that stands there, with how it
stands: `!` it is attacked, `?` it is attacked and not defended. Empty squares have no cell.
"""

from __future__ import annotations

from collections.abc import Mapping

import chess

from whorl.codecs.pair import PairCodec
from whorl.codecs.table import Cell, Column, TableCodec

__all__ = [
    "CASTLING",
    "EN_PASSANT",
    "MOVE",
    "POSITION",
    "board_of",
    "codecs",
    "move_of",
    "moves_of",
    "row_of",
    "word_of",
]

POSITION, MOVE = "position", "move"
CASTLING, EN_PASSANT = "castling", "en passant"  # cells beside those of squares
PIECES, STATES = "PNBRQKpnbrqk", ("", "!", "?")
RIGHTS, PROMOTED = "KQkq", "nbrq"
EMPTY = 0  # place of a missing cell: it is left out


def codecs() -> dict[str, TableCodec | PairCodec]:
    """One id for each piece, state and square; moves have two, from where and to where.

    A pawn that becomes something goes to a square with its letter behind.
    """
    pieces = tuple(sorted(piece + state for piece in PIECES for state in STATES))
    columns = [Column(square, pieces, usual=EMPTY) for square in chess.SQUARE_NAMES]
    rights = sorted("".join(RIGHTS[n] for n in range(4) if bits >> n & 1) for bits in range(1, 16))
    columns.append(Column(CASTLING, tuple(rights), usual=EMPTY))
    columns.append(Column(EN_PASSANT, tuple(chess.FILE_NAMES), usual=EMPTY))
    becoming = [f"{square}{piece}" for square in chess.SQUARE_NAMES[-8:] for piece in PROMOTED]
    moves = PairCodec([*chess.SQUARE_NAMES, *becoming], len("a1"), MOVE)
    return {POSITION: TableCodec(tuple(columns), POSITION), MOVE: moves}


def row_of(board: chess.Board) -> dict[str, Cell]:
    """The cells of a position: squares in their order, then what cannot be seen."""
    seen = board if board.turn == chess.WHITE else board.mirror()
    row: dict[str, Cell] = {}
    for square, piece in sorted(seen.piece_map().items()):
        row[chess.SQUARE_NAMES[square]] = piece.symbol() + _state(seen, square, piece.color)
    rights = seen.castling_xfen()
    if rights != "-":
        row[CASTLING] = "".join(sign for sign in RIGHTS if sign in rights)
    if seen.ep_square is not None and seen.has_legal_en_passant():
        row[EN_PASSANT] = chess.FILE_NAMES[chess.square_file(seen.ep_square)]
    return row


def _state(board: chess.Board, square: chess.Square, color: chess.Color) -> str:
    if not board.attackers_mask(not color, square):
        return ""
    return "!" if board.attackers_mask(color, square) else "?"


def board_of(row: Mapping[str, Cell]) -> chess.Board:
    """The position of a row, as White's: of Black's it is the turned one."""
    board = chess.Board(None)
    for square, name in enumerate(chess.SQUARE_NAMES):
        if cell := row.get(name):
            board.set_piece_at(square, chess.Piece.from_symbol(str(cell)[0]))
    board.set_castling_fen(str(row.get(CASTLING) or "-"))
    if letter := row.get(EN_PASSANT):
        board.ep_square = chess.square(chess.FILE_NAMES.index(str(letter)), 5)
    return board


def word_of(board: chess.Board, move: chess.Move) -> str:
    """A move as whoever makes it sees it: Black's e7e5 is e2e4."""
    if board.turn == chess.WHITE:
        return move.uci()
    turned = chess.Move(
        chess.square_mirror(move.from_square), chess.square_mirror(move.to_square), move.promotion
    )
    return turned.uci()


def moves_of(board: chess.Board) -> tuple[str, ...]:
    """The words of all legal moves, in a fixed order."""
    return tuple(sorted(word_of(board, move) for move in board.legal_moves))


def move_of(board: chess.Board, word: str) -> chess.Move:
    """The move that a word is there. Raises ValueError on what is no legal one."""
    move = chess.Move.from_uci(word)
    if board.turn == chess.BLACK:
        move = chess.Move(
            chess.square_mirror(move.from_square),
            chess.square_mirror(move.to_square),
            move.promotion,
        )
    if not board.is_legal(move):
        raise ValueError(f"{word} is no legal move")
    return move
