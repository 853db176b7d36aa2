"""What one look at a side's own legal moves tells: mates, draws, and captures that gain.

Nothing is searched beyond the move itself. The side to move must be White, others are turned
before; but `returning` is of either side, since it needs the game, which turning forgets.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import chess

__all__ = ["VALUES", "best_gain", "mate_in_one", "returning", "stalemates"]

VALUES = {chess.PAWN: 1, chess.KNIGHT: 3, chess.BISHOP: 3, chess.ROOK: 5, chess.QUEEN: 9}
FEW_MEN = 3  # of the other side, king included: with more, hardly a move ends in stalemate


def mate_in_one(board: chess.Board) -> chess.Move | None:
    """The first by its name of the moves that mate; None: there is none."""
    found = []
    for move in _may_check(board):
        board.push(move)
        if board.is_checkmate():
            found.append(move)
        board.pop()
    return min(found, key=chess.Move.uci, default=None)


def _may_check(board: chess.Board) -> Iterable[chess.Move]:
    """Legal moves, of which all that give check are some, each once."""
    king = board.king(chess.BLACK)
    if king is None:
        return ()
    white, last = board.occupied_co[chess.WHITE], chess.BB_RANK_8
    straight = chess.BB_RANK_ATTACKS[king][chess.BB_RANK_MASKS[king] & board.occupied]
    straight |= chess.BB_FILE_ATTACKS[king][chess.BB_FILE_MASKS[king] & board.occupied]
    slanting = chess.BB_DIAG_ATTACKS[king][chess.BB_DIAG_MASKS[king] & board.occupied]
    passed = chess.BB_SQUARES[board.ep_square] if board.ep_square is not None else chess.BB_EMPTY
    hiding = _hiding(board, king) & white
    ways = (
        (board.knights & white, chess.BB_KNIGHT_ATTACKS[king]),
        ((board.bishops | board.queens) & white, slanting),
        ((board.rooks | board.queens) & white, straight),
        (board.pawns & white, chess.BB_PAWN_ATTACKS[chess.BLACK][king] | last | passed),
        (hiding, chess.BB_ALL),
    )
    found: dict[chess.Move, None] = {}
    for pieces, squares in ways:
        if pieces and squares:
            found.update(dict.fromkeys(board.generate_legal_moves(pieces, squares)))
    found.update(dict.fromkeys(board.generate_castling_moves()))
    return found


def _hiding(board: chess.Board, king: chess.Square) -> chess.Bitboard:
    """What alone stands between Black's king and a piece that would attack it."""
    white, found = board.occupied_co[chess.WHITE], chess.BB_EMPTY
    sliders = (chess.BB_RANK_ATTACKS[king][0] | chess.BB_FILE_ATTACKS[king][0]) & (
        board.rooks | board.queens
    ) | chess.BB_DIAG_ATTACKS[king][0] & (board.bishops | board.queens)
    for slider in chess.scan_forward(sliders & white):
        between = chess.between(king, slider) & board.occupied
        if chess.popcount(between) == 1:
            found |= between
    return found


def stalemates(board: chess.Board) -> Iterator[chess.Move]:
    """Moves that leave the other side none and no check, where it has FEW_MEN or fewer."""
    if chess.popcount(board.occupied_co[chess.BLACK]) > FEW_MEN:
        return
    for move in list(board.legal_moves):
        board.push(move)
        is_one = board.is_stalemate()
        board.pop()
        if is_one:
            yield move


def returning(board: chess.Board) -> Iterator[chess.Move]:
    """Moves to where the game has been before, as far as the board's stack has it.

    Stockfish's search takes such a move for a draw, too.
    """
    mine, past, found = board.turn, board.copy(stack=board.halfmove_clock), set[chess.Move]()
    now, other = board.occupied_co[mine], board.occupied_co[not mine]
    while past.move_stack:
        past.pop()
        then = past.occupied_co[mine]
        left, entered = now & ~then, then & ~now
        if past.turn == mine or past.occupied_co[not mine] != other:
            continue
        if chess.popcount(left) != 1 or chess.popcount(entered) != 1:
            continue
        move = chess.Move(chess.msb(left), chess.msb(entered))
        if move not in found and board.is_legal(move) and _leads_to(board, move, past):
            found.add(move)
            yield move


def _leads_to(board: chess.Board, move: chess.Move, then: chess.Board) -> bool:
    board.push(move)
    is_same = board.epd(en_passant="legal") == then.epd(en_passant="legal")
    board.pop()
    return is_same


def best_gain(board: chess.Board) -> chess.Move | None:
    """The capture, or pawn's last step, that is worth most if what moved is lost where guarded.

    None: no such move is worth anything. Of equals the first by name.
    """
    steps = board.generate_legal_moves(board.pawns, chess.BB_RANK_8 & ~board.occupied)
    found = [(-_gain(board, move), move.uci(), move) for move in board.generate_legal_captures()]
    found += [(-_gain(board, move), move.uci(), move) for move in steps]
    best = min(found, default=None)
    return best[2] if best is not None and best[0] < 0 else None


def _gain(board: chess.Board, move: chess.Move) -> int:
    """Pawns won: what is taken and promoted to, less what moved, if it may be taken there."""
    taken, mine = board.piece_type_at(move.to_square), board.piece_type_at(move.from_square)
    worth = VALUES.get(mine or chess.KING, 0)  # a king may take nothing that is guarded
    is_passing = taken is None and move.promotion is None
    gain = VALUES[chess.PAWN] if is_passing else VALUES.get(taken or chess.KING, 0)
    if move.promotion is not None:
        gain, worth = gain + VALUES[move.promotion] - worth, VALUES[move.promotion]
    left = board.occupied & ~chess.BB_SQUARES[move.from_square]
    if board.attackers_mask(chess.BLACK, move.to_square, left):
        gain -= worth
    return gain
