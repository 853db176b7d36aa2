"""What one look at the legal moves tells, beside trying every move by the rules of python-chess."""

from __future__ import annotations

import random

import pytest

pytest.importorskip("torch", reason="needs the extra train")
pytest.importorskip("chess", reason="needs the extra chess")

import chess

from tests.fields.test_chess import at_random
from whorl.fields.chess_games import chance_player
from whorl.fields.chess_looks import FEW_MEN
from whorl.fields.chess_positions import codec_of, mate_of, row_of, word_of, words_of


def looked(board: chess.Board) -> dict[str, list[str]]:
    """The moves behind each label of a position."""
    found: dict[str, list[str]] = {"draws": [], "gains": [], "mates": []}
    words = words_of(row_of(board))
    for place, word in enumerate(words):
        if codec_of(word) == "chess":
            found[words[place - 1]].append(word)
    first, last = ["draws"] * len(found["draws"]), words[-2:-1]
    assert words[: 2 * len(first) : 2] == first and words.count("draws") == len(first)
    assert bool(found["gains"] or found["mates"]) == (last in (["gains"], ["mates"]))
    return found


def after(board: chess.Board, move: chess.Move) -> chess.Board:
    found = board.copy(stack=False)
    found.push(move)
    return found


def test_mates_and_draws_are_told_as_trying_every_move_finds_them() -> None:
    """The rules say so: what a legal move leads to is mate, or stalemate."""
    boards = [board for seed in range(8) for board in at_random(seed)]
    boards += [board for seed in range(80) for board in far_ahead(seed)]
    num_mates = num_draws = 0
    for board in boards:
        named = {word_of(board, move): after(board, move) for move in board.legal_moves}
        mates = sorted(word for word, then in named.items() if then.is_checkmate())
        draws = sorted(word for word, then in named.items() if then.is_stalemate())
        told = looked(board)
        assert told["mates"] == mates[:1], board.fen()
        mate = mate_of(board)
        assert [word_of(board, mate)] == mates[:1] if mate else not mates
        if chess.popcount(board.occupied_co[not board.turn]) <= FEW_MEN:
            assert told["draws"] == draws, board.fen()
        assert set(told["draws"]) <= set(draws) and not (told["mates"] and told["gains"])
        num_mates, num_draws = num_mates + bool(mates), num_draws + bool(draws)
    assert num_mates > 50 and num_draws > 10


def far_ahead(seed: int) -> list[chess.Board]:
    """Positions in which one side has pieces and the other hardly any; some of promotion."""
    rng, found = random.Random(seed), list[chess.Board]()
    while len(found) < 10:
        board = chess.Board(None)
        signs = ["K", "k", *rng.choices("QRBNP", k=rng.randint(1, 6)), *rng.choices("pn", k=1)]
        for square, sign in zip(rng.sample(chess.SQUARES, len(signs)), signs, strict=True):
            board.set_piece_at(square, chess.Piece.from_symbol(sign))
        if board.is_valid():
            found.append(board if seed % 2 else board.mirror())
    return found


def test_moves_back_are_told_where_the_game_is_known() -> None:
    """Every position that was is kept, and every move tried."""
    num_told = 0
    for seed in range(6):
        rng, board, been = random.Random(seed), chess.Board(), set[str]()
        while not board.is_game_over() and board.ply() < 120:
            been.add(board.epd(en_passant="legal"))
            named = {word_of(board, move): after(board, move) for move in board.legal_moves}
            back = {w for w, then in named.items() if then.epd(en_passant="legal") in been}
            drawn = back | {word for word, then in named.items() if then.is_stalemate()}
            assert back <= set(looked(board)["draws"]) <= drawn
            assert not looked(board.copy(stack=False))["draws"] or drawn - back
            num_told += bool(back)
            nearby = list(board.generate_legal_moves(board.knights | board.rooks))  # often back
            board.push(rng.choice(nearby or list(board.legal_moves)))
    assert num_told > 100


@pytest.mark.parametrize(
    ("fen", "mate"),
    [
        ("k7/2K5/8/8/8/8/1P6/1R6 w - - 0 1", "b1a1"),
        ("7k/5Kpp/8/8/8/8/8/R7 w - - 0 1", "a1a8"),
        ("6rk/6pp/7N/8/8/8/8/K7 w - - 0 1", "h6f7"),  # smothered
        ("7k/4P1pp/8/8/8/8/8/K7 w - - 0 1", "e7e8q"),  # a rook mates, too, and is later by name
        ("5k2/R7/8/1B1B4/8/8/8/4K2R w K - 0 1", "e1g1"),  # by castling
        ("7k/6pp/8/8/8/8/1r4PP/7K b - - 0 1", "b7b8"),
        ("8/8/8/8/8/5k2/8/4K2R w K - 0 1", None),
    ],
)
def test_mates_that_are_known(fen: str, mate: str | None) -> None:
    board = chess.Board(fen)
    mates = sorted(
        word_of(board, move) for move in board.legal_moves if after(board, move).is_checkmate()
    )
    assert mates[:1] == ([mate] if mate else []) == looked(board)["mates"]


def test_captures_that_gain_are_told() -> None:
    """By hand: what is taken, less what moved if it may be taken there."""
    for fen, gain in (
        ("4k3/8/3p4/4n3/8/8/8/4R1K1 w - - 0 1", []),  # a rook for a knight that a pawn holds
        ("4k3/8/8/4n3/8/8/8/4R1K1 w - - 0 1", ["e1e5"]),
        ("4k3/8/3p4/4q3/8/8/8/4R1K1 w - - 0 1", ["e1e5"]),
        ("4k3/8/3p4/4n3/3P4/8/8/4R1K1 w - - 0 1", ["d4e5"]),  # the pawn loses less
        ("8/8/3p4/1k2n3/8/8/8/4R1K1 w - - 0 1", []),
        ("8/8/8/8/4k3/4p3/3P1P2/6K1 b - - 0 1", ["e6d7", "e6f7"]),  # as Black sees it
        ("4k3/1P6/8/8/8/8/8/K7 w - - 0 1", ["b7b8q"]),
        ("2n1k3/1P6/8/8/8/8/8/K7 w - - 0 1", ["b7c8q"]),
        ("4k3/8/8/3pP3/8/8/8/K7 w - d6 0 2", ["e5d6"]),  # in passing
    ):
        assert looked(chess.Board(fen))["gains"] == gain[:1], fen


def test_who_plays_what_is_told_mates_or_gains_or_makes_no_draw() -> None:
    """What is told is known by hand; of two kings alone and a queen, every move but stalemates."""
    play, rng = chance_player("told"), random.Random(0)
    assert play(chess.Board("7k/5Kpp/8/8/8/8/8/R7 w - - 0 1"), rng).uci() == "a1a8"
    assert play(chess.Board("4k3/8/8/4n3/8/8/8/4R1K1 w - - 0 1"), rng).uci() == "e1e5"
    queen = chess.Board("7k/8/8/6K1/8/8/5Q2/8 w - - 0 1")
    stalemates = {m for m in queen.legal_moves if after(queen, m).is_stalemate()}
    assert stalemates and not any(after(queen, m).is_checkmate() for m in queen.legal_moves)
    assert {play(queen, rng) for _ in range(600)} == set(queen.legal_moves) - stalemates
