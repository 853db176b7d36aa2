"""Positions and moves of chess in pairs of labels, seen by whoever is to move.

Black's board is turned, so that what is learned of one side holds for both: own pieces are capital
letters and stand at the first rank. A piece is a label of what it is and how it stands (`-`; `!` it
is attacked; `?` it is attacked and not defended) and its square, a move is two squares. Both are of
one vocabulary: where a move begins has the id of the square that the piece stands on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import chess

from whorl.codecs.pair import PairCodec
from whorl.codecs.table import Cell

__all__ = ["CHESS", "board_of", "codec", "move_of", "moves_of", "row_of", "word_of", "words_of"]

CHESS = "chess"
CASTLING, EN_PASSANT = "castling", "en passant"  # cells beside those of squares
MAY_CASTLE, MAY_TAKE = "ca", "ep"  # labels before the king's aim, and the square that is passed
AIMS = {"K": "g1", "Q": "c1", "k": "g8", "q": "c8"}
PIECES, STATES, PROMOTED = "PNBRQKpnbrqk", "-!?", "nbrq"
WIDTH = 2  # of every label but of squares where a pawn becomes something


def codec() -> PairCodec:
    """All squares, pieces and what pawns become: nothing depends on data."""
    becoming = [f"{square}{piece}" for square in chess.SQUARE_NAMES[-8:] for piece in PROMOTED]
    pieces = [piece + state for piece in PIECES for state in STATES]
    labels = [*chess.SQUARE_NAMES, *becoming, *pieces, MAY_CASTLE, MAY_TAKE]
    return PairCodec(labels, WIDTH, CHESS)


def row_of(board: chess.Board) -> dict[str, Cell]:
    """The cells of a position: squares that are not empty, then what cannot be seen."""
    seen = board if board.turn == chess.WHITE else board.mirror()
    row: dict[str, Cell] = {}
    for square, piece in sorted(seen.piece_map().items()):
        row[chess.SQUARE_NAMES[square]] = piece.symbol() + _state(seen, square, piece.color)
    rights = seen.castling_xfen()
    if rights != "-":
        row[CASTLING] = "".join(sign for sign in AIMS if sign in rights)
    if seen.ep_square is not None and seen.has_legal_en_passant():
        row[EN_PASSANT] = chess.SQUARE_NAMES[seen.ep_square]
    return row


def _state(board: chess.Board, square: chess.Square, color: chess.Color) -> str:
    if not board.attackers_mask(not color, square):
        return "-"
    return "!" if board.attackers_mask(color, square) else "?"


def words_of(row: Mapping[str, Cell]) -> list[str]:
    """The pairs of a position's cells."""
    words = [f"{row[square]}{square}" for square in chess.SQUARE_NAMES if row.get(square)]
    words += [MAY_CASTLE + AIMS[sign] for sign in str(row.get(CASTLING) or "")]
    if square := row.get(EN_PASSANT):
        words.append(f"{MAY_TAKE}{square}")
    return words


def board_of(words: Iterable[str]) -> chess.Board:
    """The position of its pairs, as White's: of Black's it is the turned one."""
    board, rights = chess.Board(None), ""
    for label, name in ((word[:WIDTH], word[WIDTH:]) for word in words):
        if label == MAY_CASTLE:
            rights += next(sign for sign, aim in AIMS.items() if aim == name)
        elif label == MAY_TAKE:
            board.ep_square = chess.parse_square(name)
        else:
            board.set_piece_at(chess.parse_square(name), chess.Piece.from_symbol(label[0]))
    board.set_castling_fen(rights or "-")
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
