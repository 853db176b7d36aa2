"""Positions with Stockfish's move: games between players who know it and often do otherwise.

Each side of a game has a share of moves that it draws at random, from none to all, so that what is
learned from holds openings, fights, and how a lost game is won. Every position is labelled by
itself: its label does not depend on the game.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import chess

from whorl.fields.stockfish import Stockfish

__all__ = ["FIRST_ASKED_PLY", "labelled", "starts"]

OPENING_PLIES = (2, 10)  # drawn at random, before anything is labelled
CHANCES = (0.0, 0.1, 0.3, 1.0)  # of a side: the share of its moves that it draws
MOST_PLIES = 160
FIRST_ASKED_PLY = 10  # held-out games are asked from here on: their openings are everybody's
START_PLIES = 4  # drawn before a game that is scored, and one more in every second
LESSONS_VERSION = 1


def labelled(
    words: str, count: int, nodes: int, first_ply: int = 0
) -> Iterator[tuple[str, chess.Board, chess.Move]]:
    """(name, position, best move) of so many positions of games that depend on `words` alone.

    Raises MissingExtra or DataError of Stockfish.
    """
    rng, stockfish, number = random.Random(words), Stockfish.open(), 0
    try:
        while count > 0:
            for board, best in _game(rng, stockfish, nodes):
                if board.ply() < first_ply:
                    continue
                yield f"{number}@{board.ply()}", board, best
                count -= 1
                if count == 0:
                    return
            number += 1
    finally:
        stockfish.close()


def _game(
    rng: random.Random, stockfish: Stockfish, nodes: int
) -> Iterator[tuple[chess.Board, chess.Move]]:
    board, chances = chess.Board(), [rng.choice(CHANCES) for _ in chess.COLORS]
    _moved_at_random(board, rng, rng.randrange(*OPENING_PLIES))
    while not board.is_game_over() and board.ply() < MOST_PLIES:
        best = stockfish.best(board, nodes)
        yield board.copy(stack=False), best
        if rng.random() < chances[board.turn]:
            _moved_at_random(board, rng, 1)
        else:
            board.push(best)


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
