"""Positions with Stockfish's move: games of a learner who knows it and often does otherwise.

The learner plays against random moves, against greedy captures, or against itself, and draws a
share of its moves at random, so that what is learned from holds openings, fights, what blunders
lead to, and how a won game is brought to its end. Some games begin far ahead for that. Positions
of the learner alone are labelled: by the move that they say mates, if there is one.

Of 200 nodes Stockfish does not bring a bare king to its end (in 12 endings of a queen and a king
against random moves 5 mates, of 2,000 nodes 11; of a rook 2, and of 6,000 nodes 10), so that it
searches more where little is left to the other side, and a node takes least there.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import chess

from whorl.fields.chess_games import chance_player
from whorl.fields.chess_names import GREEDY, RANDOM
from whorl.fields.chess_positions import mate_of
from whorl.fields.stockfish import Stockfish

__all__ = ["FIRST_ASKED_PLY", "labelled", "starts"]

OPENING_PLIES = (2, 10)  # drawn at random, before anything is labelled
CHANCES = (0.0, 0.1, 0.3, 0.7)  # of the learner: the share of its moves that it draws
PASSED_OVER = 0.5  # of the positions where it draws: not labelled, since neighbours are alike
ITSELF = "itself"
OPPONENTS = (RANDOM, RANDOM, GREEDY, ITSELF)
AHEAD = 0.5  # of the games: they begin with few pieces, of which the learner has more
STRONG, WEAK = "QQRRBNPPP", "RBNPPP"  # what is drawn there beside the kings
MOST_STRONG, MOST_WEAK = 6, 3
DEEPER = {1: 30, 2: 10, 3: 10}  # times the nodes, where the other side has so many men
ENDING_MOVE = 40  # that such a game says it begins at
MOST_PLIES = 160
FIRST_ASKED_PLY, LEAST_ASKED_MEN = 10, 5  # openings and bare endings are of many games: not asked
START_PLIES = 4  # drawn before a game that is scored, and one more in every second
LESSONS_VERSION = 3


def labelled(
    words: str, count: int, nodes: int, is_asked: bool = False
) -> Iterator[tuple[str, chess.Board, chess.Move]]:
    """(name, position, best move) of so many positions of games that depend on `words` alone.

    is_asked: none that other games may well have too.
    Raises MissingExtra or DataError of Stockfish.
    """
    rng, stockfish, number = random.Random(words), Stockfish.open(), 0
    try:
        while count > 0:
            for board, best in _game(rng, stockfish, nodes):
                if is_asked and not _is_rare(board):
                    continue
                yield f"{number}@{board.ply()}", board, best
                count -= 1
                if count == 0:
                    return
            number += 1
    finally:
        stockfish.close()


def _is_rare(board: chess.Board) -> bool:
    men = chess.popcount(board.occupied)
    return board.ply() >= FIRST_ASKED_PLY and men >= LEAST_ASKED_MEN


def _game(
    rng: random.Random, stockfish: Stockfish, nodes: int
) -> Iterator[tuple[chess.Board, chess.Move]]:
    learner, share = rng.choice(chess.COLORS), rng.choice(CHANCES)
    opponent, board, game = rng.choice(OPPONENTS), chess.Board(), object()
    if rng.random() < AHEAD:
        board = _ahead(rng, learner)
    else:
        _moved_at_random(board, rng, rng.randrange(*OPENING_PLIES))
    for _ in range(MOST_PLIES):
        if board.is_game_over():
            return
        if opponent != ITSELF and board.turn != learner:
            board.push(chance_player(opponent)(board, rng))
            continue
        is_drawn = rng.random() < share
        if is_drawn and rng.random() < PASSED_OVER:
            _moved_at_random(board, rng, 1)
            continue
        best = mate_of(board) or stockfish.best(board, _nodes(board, nodes), game)
        yield board.copy(stack=board.halfmove_clock), best
        if is_drawn:
            _moved_at_random(board, rng, 1)
        else:
            board.push(best)


def _nodes(board: chess.Board, nodes: int) -> int:
    return nodes * DEEPER.get(chess.popcount(board.occupied_co[not board.turn]), 1)


def _ahead(rng: random.Random, strong: chess.Color) -> chess.Board:
    """Kings, and pieces, of one side as many as of the other or more, wherever rules let them."""
    while True:
        board = chess.Board(None)
        count = rng.randint(1, MOST_STRONG)
        pieces = ["K", *rng.choices(STRONG, k=count)]
        others = ["K", *rng.choices(WEAK, k=rng.randint(0, min(count, MOST_WEAK)))]
        squares = iter(rng.sample(chess.SQUARES, len(pieces) + len(others)))
        for color, signs in ((strong, pieces), (not strong, others)):
            for sign in signs:
                kind = chess.PIECE_SYMBOLS.index(sign.lower())
                board.set_piece_at(next(squares), chess.Piece(kind, color))
        board.turn, board.fullmove_number = rng.choice(chess.COLORS), ENDING_MOVE
        if board.is_valid() and not board.is_game_over():
            return board


def starts(words: str, count: int, nodes: int) -> Iterator[tuple[chess.Board, chess.Move]]:
    """So many positions after a few random moves, each another, with their best moves.

    White and Black are to move in turns. Raises as `labelled`.
    """
    rng, stockfish, seen = random.Random(words), Stockfish.open(), set[str]()
    try:
        while len(seen) < count:
            board = chess.Board()
            _moved_at_random(board, rng, START_PLIES + len(seen) % 2)
            if board.epd() not in seen and not board.is_game_over():
                seen.add(board.epd())
                yield board, stockfish.best(board, nodes)
    finally:
        stockfish.close()


def _moved_at_random(board: chess.Board, rng: random.Random, plies: int) -> None:
    for _ in range(plies):
        if moves := sorted(board.legal_moves, key=chess.Move.uci):
            board.push(rng.choice(moves))
