"""Chess: a model is taught, scored, served, and played against; python-chess says what is legal."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("torch", reason="needs the extra train")
pytest.importorskip("chess", reason="needs the extra chess")

import chess
import httpx

from tests.fields.test_chess import at_random
from tests.stages.plan.conftest import machine
from whorl.core.environments import Drawable
from whorl.core.errors import DataError, MissingExtra
from whorl.fields.chess import FIELD, ChessTask
from whorl.fields.chess_games import captures
from whorl.servable import find_model
from whorl.serving import open_model_app
from whorl.spec.resolved import ServeConfig
from whorl.stages.serve.server import running_server
from whorl.verbs import Session

MODEL = "hf f32"
KEY = "k" * 16


def game(seed: int = 0) -> Any:
    opened = FIELD.task.open_world(f"chess#{seed}")  # type: ignore[attr-defined]
    assert opened is not None and opened[1] == seed and isinstance(opened[0], Drawable)
    return opened[0]


def follow(moves: str) -> Any:
    """The game after these moves, as the board has them."""
    world = game()
    world.reset(0)
    for move in moves.split():
        last = world.step(world.scene()["moves"][move])
    return world, last


# ------------------------------------------------------------------ a game of both sides


def test_a_game_of_both_sides_is_that_of_the_rules() -> None:
    """Random moves of both sides: at each the same board and the same legal moves, to the end."""
    ends = []
    for seed in range(6):
        rng, board, world = random.Random(seed), chess.Board(), game(seed)
        world.reset(seed)
        while not world.has_ended:
            scene = world.scene()
            assert scene["kind"] == "board" and scene["fen"] == board.fen()
            assert set(scene["moves"]) == {move.uci() for move in board.legal_moves}
            assert sorted(scene["moves"].values()) == sorted(world.actions)
            assert scene["told"].startswith("White" if board.turn else "Black")
            assert scene["told"].endswith("in check") == board.is_check()
            move = rng.choice(sorted(scene["moves"]))
            after = world.step(scene["moves"][move])
            board.push_uci(move)
        drawn = board.is_repetition(3) or board.is_fifty_moves() or board.ply() == 2 * 150 - 1
        assert board.is_game_over() or drawn
        ends.append(board.is_checkmate())
        assert after.has_ended and after.has_succeeded == board.is_checkmate()
        assert after.reward == (1.0 if board.is_checkmate() else 0.5)
        assert world.actions == () and world.scene()["moves"] == {}
        with pytest.raises(DataError, match="the game has ended"):
            world.step("e2e4")
    assert len(set(ends)) == 2  # some were won, some drawn


@pytest.mark.parametrize(
    ("moves", "told"),
    [
        ("f2f3 e7e5 g2g4 d8h4", "Black has won: checkmate"),
        ("e2e4 e7e5 d1h5 b8c6 f1c4 g8f6 h5f7", "White has won: checkmate"),
        (
            "e2e3 a7a5 d1h5 a8a6 h5a5 h7h5 h2h4 a6h6 a5c7 f7f6 c7d7 e8f7 d7b7 d8d3 b7b8 d3h7"
            " b8c8 f7g6 c8e6",
            "A draw: stalemate",
        ),
        ("g1f3 g8f6 f3g1 f6g8 " * 2, "A draw: the same position for the third time"),
    ],
)
def test_the_end_is_told_as_people_say_it(moves: str, told: str) -> None:
    world, last = follow(moves)
    assert world.scene()["told"] == told and last.has_ended
    assert last.reward == (0.5 if told.startswith("A draw") else 1.0)


def test_fifty_moves_and_bare_kings_are_draws() -> None:
    from whorl.fields.chess_games import ending_of

    for fen, told in (
        ("7k/8/8/8/8/8/8/R6K w - - 100 120", "fifty moves without a capture or a pawn's move"),
        ("7k/8/8/8/8/8/8/N6K w - - 0 120", "neither side has enough to mate"),
        ("7k/8/8/8/8/8/8/R6K w - - 99 120", ""),
    ):
        ending = ending_of(chess.Board(fen))
        assert (ending.told if ending else "") == told
        assert ending is None or ending.winner is None


def test_moves_that_are_not_legal_are_refused() -> None:
    world = game()
    world.reset(0)
    for move in ("e2e5", "e7e5", "0000", "e2e4q", "", "no move"):
        with pytest.raises(DataError, match="no such move"):
            world.step(move)
    assert world.board.fen() == chess.STARTING_FEN


def test_no_other_name_opens_a_game_of_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    task = FIELD.task
    assert isinstance(task, ChessTask) and task.own_worlds == ("chess",)
    for name in ("chess", "chess#", "chess#one", "chess #1", "mine#1", "a.pgn game 1@0"):
        assert task.open_world(name) is None
    assert task.world_of("games#1.pgn game 1@0") == ""
    monkeypatch.setattr("whorl.core.errors.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"whorl\[chess\]"):
        task.open_world("chess#0")


# ------------------------------------------------------------------ a model that was taught


def rook_takes_queen(count: int) -> str:
    """Rows in which a rook can take a queen that nobody guards."""
    rng, rows = random.Random(0), dict[str, str]()
    while len(rows) < count:
        board = chess.Board(None)
        squares = rng.sample(range(64), 4)
        pieces = (chess.KING, chess.ROOK, chess.KING, chess.QUEEN)
        for place, (square, piece) in enumerate(zip(squares, pieces, strict=True)):
            board.set_piece_at(square, chess.Piece(piece, place < 2))
        takes = [move for move in board.generate_legal_captures() if move.from_square == squares[1]]
        if board.is_valid() and len(takes) == 1:
            rows[board.fen()] = takes[0].uci()
    return "".join(f"{fen}\t{move}\n" for fen, move in rows.items())


def captured(board: chess.Board) -> str:
    return (captures(board) or list(board.legal_moves))[0].uci()


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    """A model of two layers that takes queens."""
    folder = tmp_path_factory.mktemp("queens")
    opening = [f"{b.fen()}\t{captured(b)}" for seed in range(6) for b in at_random(seed)[4:8]]
    path = folder / "games#1.tsv"
    path.write_text(rook_takes_queen(1500) + "\n".join(opening) + "\n")
    recipe: dict[str, Any] = {
        "name": "queens",
        "data": [
            {"source": str(path), "field": "chess", "options": {"games": "1", "heldout": "0.2"}}
        ],
        "prepare": {"vocab_size": 2432},
        "model": {"layers": 2, "width": 48, "heads": 3, "kv_heads": 3, "head_dim": 16},
        "train": {"seq_len": 96, "batch_tokens": 1920, "steps": 120, "learning_rate": 0.01,
                  "embedding_learning_rate": 0.02, "threads": 1},
        "compress": "none",
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("whorl.launch.calibrate.this_machine", lambda home: machine())
        yield Session.open(recipe, overrides=[], home=folder / "home", workers=1)


def test_taking_a_queen_is_learned_and_games_are_scored(session: Session) -> None:
    scores = session.evaluate().metrics["scores"]
    assert set(scores) == {"chess", "chess/points_against_random", "chess/points_against_greedy"}
    assert scores["chess"][MODEL] > 0.45 > 3 * scores["chess"]["random moves"]
    assert scores["chess"]["greedy capture"] > 0.9
    for name in ("random", "greedy"):
        assert 0 <= scores[f"chess/points_against_{name}"][MODEL] <= 1
    told = {row["field"]: row["num_documents"] for row in session.evaluate().metrics["fields"]}
    assert told["chess/points_against_random"] == 1 < told["chess"]


@pytest.fixture(scope="module")
def client(session: Session) -> Iterator[httpx.Client]:
    """Of whorl's server before the torch engine."""
    record, home = session.train(), session.home
    config = ServeConfig(engine="torch", port=0)
    model = find_model(str(record.path / "model"), ServeConfig(engine="torch"), home)
    app, close = open_model_app(model, config, KEY, home=home, is_open=False)
    headers = {"Authorization": f"Bearer {KEY}"}
    try:
        with (
            running_server(app, config) as base_url,
            httpx.Client(base_url=base_url, headers=headers, timeout=60) as found,
        ):
            yield found
    finally:
        close()


def test_a_person_plays_a_game_against_the_model(client: httpx.Client) -> None:
    """The person moves at random, first as White, then as Black; the model is always legal."""
    (model,) = client.get("/v1/models").json()["data"]
    (task,) = model["tasks"]
    assert (task["task"], task["worlds"]) == ("chess", ["chess"])
    for person in (chess.WHITE, chess.BLACK):
        rng, board, actions = random.Random(person), chess.Board(), list[str]()
        while board.ply() < 24 and not board.is_game_over():
            asked = {"model": model["id"], "world": "chess", "seed": 0, "actions": actions}
            if board.turn == person:
                told = client.post("/v1/play", json={**asked, "steps": 0}).json()
                scene = told["frames"][-1]["scene"]
                assert scene["fen"] == board.fen()
                assert set(scene["moves"]) == {move.uci() for move in board.legal_moves}
                move = rng.choice(sorted(scene["moves"]))
                actions.append(scene["moves"][move])
            else:
                told = client.post("/v1/play", json={**asked, "steps": 1}).json()
                before, after = told["frames"]
                names = {action: move for move, action in before["scene"]["moves"].items()}
                move = names[after["action"]]
                assert {each["action"] for each in after["choices"]} == set(names)
                assert sum(each["probability"] for each in after["choices"]) == pytest.approx(1)
                actions.append(after["action"])
            assert chess.Move.from_uci(move) in board.legal_moves
            board.push_uci(move)
        assert board.ply() > 6


def test_what_it_was_taught_it_plays(client: httpx.Client) -> None:
    """The best move that a game shows is the best one of /v1/rank, asked as the field asks."""
    from whorl.fields.chess_positions import codec_of, moves_of, row_of, words_of

    (model,) = client.get("/v1/models").json()["data"]
    moves = ["e2e4", "e2e4", "g1f3", "d2d4"]  # of whoever makes them
    board = chess.Board()
    for move in ("e2e4", "e7e5", "g1f3", "d7d5"):
        board.push_uci(move)
    asked = {"model": model["id"], "actions": moves, "steps": 1}
    frame = client.post("/v1/play", json=asked).json()["frames"][-1]
    parts = [{"codec": codec_of(word), "text": word} for word in words_of(row_of(board))]
    question = {
        "model": model["id"],
        "prompt": [*parts, {"codec": "special", "text": "<|answer|>"}],
        "codec": "chess",
        "candidates": list(moves_of(board)),
    }
    ranked = client.post("/v1/rank", json=question).json()["candidates"]
    assert frame["action"] == ranked[0]["candidate"]
    found = {each["action"]: each["probability"] for each in frame["choices"]}
    assert found == pytest.approx({e["candidate"]: e["probability"] for e in ranked}, rel=1e-4)


def test_the_end_of_a_game_is_told_over_http(client: httpx.Client) -> None:
    (model,) = client.get("/v1/models").json()["data"]
    mate = ["f2f3", "e2e4", "g2g4", "d1h5"]  # Black's as Black sees them
    told = client.post("/v1/play", json={"model": model["id"], "actions": mate, "steps": 3}).json()
    (frame,) = told["frames"]
    assert frame["has_ended"] and frame["actions"] == [] and frame["scene"]["moves"] == {}
    assert frame["scene"]["told"] == "Black has won: checkmate" and told["num_steps"] == 4
    after = client.post("/v1/play", json={"model": model["id"], "actions": [*mate, "a2a3"]})
    assert after.status_code == 400 and "the game has ended" in after.json()["error"]["message"]
    wrong = client.post("/v1/play", json={"model": model["id"], "actions": ["e2e5"]})
    assert wrong.status_code == 400 and "actions[0]" in wrong.json()["error"]["message"]
