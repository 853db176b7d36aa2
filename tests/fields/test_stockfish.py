"""Stockfish as teacher and as its weakest self: the same again, and nothing but the position."""

from __future__ import annotations

import random
from collections import Counter

import pytest

pytest.importorskip("torch", reason="needs the extra train")
pytest.importorskip("chess", reason="needs the extra chess")

import chess

from tests.fields.test_chess import MATE_IN_ONE, position_of, read
from whorl.fields import chess_lessons, stockfish
from whorl.fields.chess import FIELD
from whorl.fields.chess_names import begun_by

needs_stockfish = pytest.mark.skipif(
    stockfish.program() is None, reason="stockfish is not installed (apt-get install stockfish)"
)


@needs_stockfish
def test_labels_are_the_same_again_and_moves_of_no_game_are_of_the_position_alone() -> None:
    first = [(n, b.fen(), m) for n, b, m in chess_lessons.labelled("seed", 12, 200)]
    again = [(n, b.fen(), m) for n, b, m in chess_lessons.labelled("seed", 12, 200)]
    assert first == again
    opened = stockfish.Stockfish.open()
    try:
        alone = [opened.best(chess.Board(fen), 200) for _, fen, _ in first]
        for move, (_, fen, _) in zip(reversed(alone), reversed(first), strict=True):
            assert opened.best(chess.Board(fen), 200) == move
        assert opened.best(chess.Board(MATE_IN_ONE), 200).uci() == "a1a8"
        rng = random.Random(0)
        weak = {opened.weakest(chess.Board(), rng).uci() for _ in range(12)}
        assert 1 < len(weak) <= stockfish.WEAK_MOVES
    finally:
        opened.close()


@needs_stockfish
def test_games_of_stockfish_are_split_by_game_and_begin_scored_ones() -> None:
    documents, reasons = read(
        "stockfish:games", positions="30", asked="20", games="1", nodes="50", seed="3"
    )
    assert not reasons
    assert Counter(d.split for d in documents) == {"train": 30, "heldout": 23}
    begun = [found[1] for d in documents if (found := begun_by(d.name))]
    assert begun == ["random", "greedy", "stockfish"]
    held = [d for d in documents if d.split == "heldout" and not begun_by(d.name)]
    assert all(int(d.name.rpartition("@")[2]) >= chess_lessons.FIRST_ASKED_PLY for d in held)
    trained = {repr(position_of(d)) for d in documents if d.split == "train"}
    assert not trained & {repr(position_of(d)) for d in held}
    scores = {(s.name, s.metric.name): s for s in FIELD.baselines(documents, held[:4], None)}
    assert {title for title, metric in scores if metric == "move_match"} == {
        "what a position tells",
        "greedy capture",
        "random moves",
    }
    assert {metric for _, metric in scores} == {"move_match"}
