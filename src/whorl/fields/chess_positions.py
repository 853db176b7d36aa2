"""Positions and moves of chess as labels, seen by whoever is to move.

Black's board is turned, so that what is learned of one side holds for both: own pieces are capital
letters and stand at the first rank. A piece is one label of what it is, how it stands (`-`; `!` it
may be taken; `?` it may be taken at a gain: nobody guards it, or who takes it is worth less) and
its square. A move is two squares, the latter with what a pawn becomes.

What one look at the legal moves tells (`chess_looks`) are moves behind a label each: first of all
those that are stalemate or lead to where the game has been before, last of all one that mates, or
else one that gains. Where a board comes without its game, nothing leads back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import chess

from whorl.codecs.label import LabelCodec
from whorl.codecs.pair import PairCodec
from whorl.codecs.table import Cell
from whorl.fields.chess_looks import best_gain, mate_in_one, returning, stalemates

__all__ = [
    "CHESS",
    "DRAWS",
    "GAINS",
    "MATES",
    "POSITION",
    "board_of",
    "codec_of",
    "codecs",
    "mate_of",
    "move_of",
    "moves_of",
    "row_of",
    "word_of",
    "words_of",
]

CHESS, POSITION = "chess", "position"  # codecs of a move, and of what stands where
CASTLING, EN_PASSANT, FLIGHT = "castling", "en passant", "flight"  # cells beside those of squares
# Labels before the king's aim, the square that is passed, and one that the other king may flee to.
MAY_CASTLE, MAY_TAKE, MAY_FLEE = "ca", "ep", "fl"
DRAWS, GAINS, MATES = "draws", "gains", "mates"  # cells, and labels before their moves
AIMS = {"K": "g1", "Q": "c1", "k": "g8", "q": "c8"}
PIECES, STATES, PROMOTED = "PNBRQKpnbrqk", "-!?", "nbrq"
WIDTH = 2  # of every label before a square


def codecs() -> tuple[LabelCodec, PairCodec]:
    """All that may stand somewhere, and all squares: nothing depends on data."""
    squares = chess.SQUARE_NAMES
    stands = [
        f"{piece}{state}{square}"
        for piece in PIECES
        for state in STATES
        for square in (squares[8:-8] if piece in "Pp" else squares)
    ]
    castling = [MAY_CASTLE + aim for aim in AIMS.values()]
    passed = [MAY_TAKE + square for square in squares[40:48]]
    flights = [MAY_FLEE + square for square in squares]
    becoming = [f"{square}{piece}" for square in squares[-8:] for piece in PROMOTED]
    return (
        LabelCodec([*castling, *passed, *flights, *stands, DRAWS, GAINS, MATES], POSITION),
        PairCodec([*squares, *becoming], WIDTH, CHESS),
    )


def row_of(board: chess.Board) -> dict[str, Cell]:
    """The cells of a position: squares that are not empty, then what cannot be seen."""
    seen = board if board.turn == chess.WHITE else board.mirror()
    row: dict[str, Cell] = {}
    for square, piece in sorted(seen.piece_map().items()):
        row[chess.SQUARE_NAMES[square]] = piece.symbol() + _state(seen, square, piece)
    rights = seen.castling_xfen()
    if rights != "-":
        row[CASTLING] = "".join(sign for sign in AIMS if sign in rights)
    if seen.ep_square is not None and seen.has_legal_en_passant():
        row[EN_PASSANT] = chess.SQUARE_NAMES[seen.ep_square]
    if flights := [chess.SQUARE_NAMES[square] for square in _flights(seen)]:
        row[FLIGHT] = " ".join(flights)
    draws = {move.uci() for move in stalemates(seen)}
    if draws := draws | {word_of(board, move) for move in returning(board)}:
        row[DRAWS] = " ".join(sorted(draws))
    if mate := mate_in_one(seen):
        row[MATES] = mate.uci()
    elif gain := best_gain(seen):
        row[GAINS] = gain.uci()
    return row


def mate_of(board: chess.Board) -> chess.Move | None:
    """The move that its position says mates; None: it says none."""
    if board.turn == chess.WHITE:
        return mate_in_one(board)
    found = mate_in_one(board.mirror())
    return None if found is None else move_of(board, found.uci())


def _state(board: chess.Board, square: chess.Square, piece: chess.Piece) -> str:
    takers = board.attackers_mask(not piece.color, square)
    if not takers:
        return "-"
    if not board.attackers_mask(piece.color, square):
        return "?"
    minor = board.knights | board.bishops
    worth_less = {
        chess.PAWN: 0,
        chess.KNIGHT: board.pawns,
        chess.BISHOP: board.pawns,
        chess.ROOK: board.pawns | minor,
        chess.QUEEN: board.pawns | minor | board.rooks,
        chess.KING: board.occupied,
    }
    if takers & worth_less[piece.piece_type]:
        return "?"
    return "!" if takers & ~board.kings else "-"  # a king takes nothing that is guarded


def _flights(board: chess.Board) -> Iterable[chess.Square]:
    """Where Black's king might go: no square that White attacks."""
    king = board.king(chess.BLACK)
    if king is None:
        return
    occupied = board.occupied & ~chess.BB_SQUARES[king]  # it does not shelter what is behind it
    around = chess.BB_KING_ATTACKS[king] & ~board.occupied_co[chess.BLACK]
    for square in chess.scan_forward(around):
        if not board.attackers_mask(chess.WHITE, square, occupied):
            yield square


def words_of(row: Mapping[str, Cell]) -> list[str]:
    """The labels and moves of a position's cells, own pieces behind the others."""
    words = _behind(DRAWS, row)
    words += [MAY_CASTLE + AIMS[sign] for sign in str(row.get(CASTLING) or "")]
    if square := row.get(EN_PASSANT):
        words.append(f"{MAY_TAKE}{square}")
    words += [MAY_FLEE + square for square in str(row.get(FLIGHT) or "").split()]
    pieces = [f"{row[square]}{square}" for square in chess.SQUARE_NAMES if row.get(square)]
    words += sorted(pieces, key=lambda word: word[0].isupper())
    return [*words, *_behind(GAINS, row), *_behind(MATES, row)]


def _behind(label: str, row: Mapping[str, Cell]) -> list[str]:
    return [word for move in str(row.get(label) or "").split() for word in (label, move)]


def codec_of(word: str) -> str:
    """Of a word of a position: a move begins with a square."""
    return CHESS if word[:WIDTH] in chess.SQUARE_NAMES else POSITION


def board_of(words: Iterable[str]) -> chess.Board:
    """The position of its labels, as White's: of Black's it is the turned one."""
    board, rights = chess.Board(None), ""
    for label, name in ((word[:WIDTH], word[WIDTH:]) for word in words):
        if label == MAY_CASTLE:
            rights += next(sign for sign, aim in AIMS.items() if aim == name)
        elif label == MAY_TAKE:
            board.ep_square = chess.parse_square(name)
        elif label[0] in PIECES and label[1] in STATES:
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
