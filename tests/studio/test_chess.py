"""The Chess room with a real game: python-chess says what is legal, and how a game ended."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

pytest.importorskip("chess", reason="needs the extra chess")

import chess

from tests.studio.browser import CTRL, Browser
from tests.studio.conftest import Site, real_site
from tests.studio.test_looks import CONTRASTS
from whorl.codecs.contract import Tokens
from whorl.core.errors import EngineError
from whorl.fields.chess import FIELD
from whorl.stages.serve.card import TaskCard

SQUARES = "[...document.querySelectorAll('.board button')]"
NAMES = ".map((each) => each.dataset.square)"
TARGETS = f"{SQUARES}.filter((each) => each.dataset.target === 'true'){NAMES}"
SHOWN = (
    f"Object.fromEntries({SQUARES}.map((each) =>"
    " [each.dataset.square, each.ariaLabel.split(', ')[1]]))"
)
LIST = "[...document.querySelectorAll('.moves-list li')].map((each) => each.textContent).join(' ')"


class Likes:
    """An engine that likes some moves, each as whoever makes it sees it; the first ones else."""

    def __init__(self, tokens: Tokens) -> None:
        self.tokens, self.liked, self.fails = tokens, list[str](), False

    def score(self, sequences: Sequence[Sequence[int]], prefix: Sequence[int] = ()) -> list[Any]:
        if self.fails:
            raise EngineError("the engine is tired")
        words = [self.tokens.decode(ids) for ids in sequences]
        return [np.log([0.3 if word in self.liked else 0.01, 0.5]) for word in words]


@pytest.fixture(scope="module")
def playing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A model of field chess."""
    tokens = Tokens.build(FIELD.fit_codecs([], {}), 2432)
    task = FIELD.task
    card = TaskCard(field="chess", asked=("chess",), answer="chess", worlds=task.own_worlds)  # type: ignore[attr-defined]
    home = tmp_path_factory.mktemp("home")
    with real_site(tokens, home, 0.0, (card,), {"chess": task}) as found:  # type: ignore[dict-item]
        found.rules = Likes(tokens)
        found.engine.score = found.rules.score
        yield found


@pytest.fixture
def room(browser: Browser, playing: Site) -> Browser:
    playing.rules.liked, playing.rules.fails = [], False
    playing.enter(browser)
    assert not browser.evaluate("document.getElementById('tab-chess').hidden")
    browser.click("#tab-chess")
    browser.has("#chess-result .said", "White to move")  # a game begins by itself
    browser.wait_for("document.getElementById('chess-stop').hidden")
    return browser


def click(browser: Browser, *squares: str) -> None:
    for square in squares:
        browser.click(f"[data-square={square}]")


def made(browser: Browser, moves: str) -> None:
    """Waits until these moves are told, and nothing is asked any more."""
    browser.wait_for(f"{LIST} === {moves!r}")
    browser.wait_for("document.getElementById('chess-stop').hidden")


def of_board(board: Any) -> dict[str, str]:
    colours = {True: "white", False: "black"}
    return {
        chess.square_name(square): "empty"
        if (piece := board.piece_at(square)) is None
        else f"{colours[piece.color]} {chess.piece_name(piece.piece_type)}"
        for square in chess.SQUARES
    }


def test_only_legal_moves_can_be_made(room: Browser) -> None:
    """A game of random moves, in which each square is tried before each of the person's."""
    board, rng = chess.Board(), random.Random(3)
    for _ in range(8):
        for square in chess.SQUARES:
            name = chess.square_name(square)
            click(room, name)
            legal = {chess.square_name(m.to_square) for m in board.legal_moves
                     if m.from_square == square}  # fmt: skip
            assert set(room.evaluate(TARGETS)) == legal
            if legal:
                click(room, name)  # let go
        move = rng.choice(sorted(board.legal_moves, key=str))
        click(room, chess.square_name(move.from_square), chess.square_name(move.to_square))
        board.push(move)
        room.wait_for(f"{LIST}.split(' ').length === {board.ply() + 1}")
        answer = room.evaluate(LIST).split(" ")[-1]
        assert chess.Move.from_uci(answer) in board.legal_moves
        board.push_uci(answer)
        room.wait_for("document.getElementById('chess-stop').hidden")
        assert room.evaluate(SHOWN) == of_board(board)
    assert room.complaints() == []


def test_a_person_mates_as_black_and_nobody_moves_any_more(room: Browser, playing: Site) -> None:
    playing.rules.liked = ["f2f3", "g2g4"]
    room.choose("#chess-side", "black")
    made(room, "f2f3")
    assert room.evaluate(f"{SQUARES}[0].dataset.square") == "h1"  # Black's side is below
    assert room.evaluate("document.querySelector('#chess-result .row button').disabled")
    click(room, "e7", "e5")
    made(room, "f2f3 e7e5 g2g4")
    click(room, "d8", "h4")
    made(room, "f2f3 e7e5 g2g4 d8h4")
    room.has("#chess-result .said", "Black has won: checkmate · The game is over.")
    for square in ("a7", "e1", "h4"):
        click(room, square)
        assert room.evaluate(TARGETS) == []
    room.click("#chess-result .row button")  # taken back: the person goes on
    made(room, "f2f3 e7e5 g2g4")
    room.has("#chess-result .said", "Black to move")
    click(room, "a7", "a6")
    room.wait_for(f"{LIST}.startsWith('f2f3 e7e5 g2g4 a7a6 ')")
    room.press("Enter", CTRL)  # a new game
    made(room, "f2f3")
    assert room.complaints() == []


def test_the_model_mates(room: Browser, playing: Site) -> None:
    playing.rules.liked = ["e2e4", "d1h5"]  # e7e5 and d8h4, as it sees them
    click(room, "f2", "f3")
    made(room, "f2f3 e7e5")
    click(room, "g2", "g4")
    made(room, "f2f3 e7e5 g2g4 d8h4")
    room.has("#chess-result .said", "Black has won: checkmate")
    room.has("#chess-result .choice .chosen", "d8h4")
    room.click("#chess-result .row button")
    made(room, "f2f3 e7e5")
    assert room.complaints() == []


def turned(move: str) -> str:
    """As Black sees it."""
    return "".join(each if each.isalpha() else str(9 - int(each)) for each in move)


def test_castling_and_promotion(room: Browser, playing: Site) -> None:
    played = ""
    for move, answer in (
        *(("e2e4", "a7a6"), ("g1f3", "a6a5"), ("f1c4", "a5a4"), ("e1g1", "a4a3")),
        *(("b2a3", "h7h6"), ("a3a4", "h6h5"), ("a4a5", "h5h4"), ("a5a6", "g7g6"), ("a6b7", "g6g5")),
    ):
        playing.rules.liked = [turned(answer)]
        click(room, move[:2], move[2:])
        played = f"{played} {move} {answer}".strip()
        made(room, played)
        if move == "e1g1":
            shown = room.evaluate(SHOWN)
            assert (shown["g1"], shown["f1"], shown["h1"]) == ("white king", "white rook", "empty")
    click(room, "b7", "a8")
    room.has(".board-box [role=group]", "Promote to")
    buttons = "[...document.querySelectorAll('.board-box [role=group] button')]"
    assert set(room.evaluate(f"{buttons}.map((each) => each.textContent)")) == {
        *("queen", "rook", "bishop", "knight")
    }
    room.evaluate(f"{buttons}.find((each) => each.textContent === 'knight').click()")
    room.wait_for(f"{LIST}.includes('b7a8n ')")
    room.wait_for("document.getElementById('chess-stop').hidden")
    assert room.evaluate(SHOWN)["a8"] == "white knight"
    assert room.complaints() == []


def test_a_move_that_was_not_answered_is_not_made(room: Browser, playing: Site) -> None:
    playing.rules.fails = True
    click(room, "e2", "e4")
    room.has("#chess-result .said", "the engine is tired")
    assert room.evaluate(SHOWN) == of_board(chess.Board())
    assert room.evaluate(f"{SQUARES}.some((each) => each.dataset.last === 'true')") is False
    playing.rules.fails = False
    click(room, "d2", "d4")
    room.wait_for(f"{LIST}.startsWith('d2d4 ')")
    assert room.complaints() == []


def test_the_room_can_be_read_in_light_and_dark_and_on_a_phone(room: Browser) -> None:
    click(room, "e2", "e4")
    room.wait_for(f"{LIST}.startsWith('e2e4 ')")
    for scheme, width in (("light", 1280), ("dark", 1280), ("dark", 390), ("light", 320)):
        room.look(width, 780, scheme)
        assert room.evaluate("document.documentElement.scrollWidth") <= width
        assert room.evaluate(CONTRASTS) == []
