"""Chess: positions and moves as ids, people's files, games that are played to their end."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs the extra train")
pytest.importorskip("chess", reason="needs the extra chess")

import chess
import chess.pgn

from tests.stages.evaluate.fakes import ScoringEngine
from whorl.codecs.contract import Tokens
from whorl.codecs.parts import token_space
from whorl.core.errors import DataError, MissingExtra, SpecError
from whorl.core.metrics import POINTS_GREEDY, POINTS_RANDOM
from whorl.core.ports import Document, HeldoutDocument, Part, Source
from whorl.core.reasons import Reason
from whorl.fields import stockfish
from whorl.fields.base import options_of
from whorl.fields.chess import FIELD, ChessTask
from whorl.fields.chess_games import ChessWorld, captures, chance_player, points_of
from whorl.fields.chess_names import begun_by, name_of
from whorl.fields.chess_positions import (
    board_of,
    codec_of,
    codecs,
    move_of,
    moves_of,
    row_of,
    word_of,
    words_of,
)
from whorl.stages.evaluate.play import played

MATE_IN_ONE = "6k1/5ppp/8/8/8/8/8/R3K3 w - - 0 1"


def at_random(seed: int) -> list[chess.Board]:
    """Positions of a game of random moves, as they come."""
    rng, board, found = random.Random(seed), chess.Board(), []
    while not board.is_game_over() and len(found) < 120:
        found.append(board.copy(stack=False))
        board.push(rng.choice(list(board.legal_moves)))
    return found


def read(source: str, **options: str) -> tuple[list[Document], Counter[str]]:
    given = Source(source, "chess", options=options_of(FIELD, options))
    reasons: Counter[str] = Counter()

    def reject(reason: str) -> None:
        reasons[reason] += 1

    return [d for i in FIELD.items(given) for d in FIELD.read(given, i, reject)], reasons


def position_of(document: Document) -> list[str]:
    """Of the labels before the mark."""
    values = [part.value for part in document.parts]
    return values[: values.index("<|answer|>")]


def without_draws(document: Document) -> list[str]:
    words = position_of(document)
    return words[2 * words.count("draws") :]


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def games(count: int, plies: int = 30) -> list[chess.pgn.Game]:
    found = []
    for seed in range(count):
        rng, board = random.Random(seed), chess.Board()
        for _ in range(plies):
            board.push(rng.choice(list(board.legal_moves)))
        found.append(chess.pgn.Game.from_board(board))
    return found


# ------------------------------------------------------------------ positions


def test_a_position_and_its_moves_come_back_from_their_ids() -> None:
    places, pairs = codecs()
    for board in (board for seed in range(4) for board in at_random(seed)):
        seen = board if board.turn else board.mirror()
        position = [word for word in words_of(row_of(board)) if codec_of(word) == places.name]
        ids = [places.encode(word) for word in position]
        assert all(len(each) == 1 for each in ids)
        again = board_of([places.decode(each) for each in ids])
        assert again.epd() == seen.epd(en_passant="legal")
        words = moves_of(board)
        assert len(words) == board.legal_moves.count()
        for word in words:
            ids = pairs.encode(word)
            assert len(ids) == 2 and pairs.decode(ids) == word
            assert word_of(board, move_of(board, word)) == word
        assert {move_of(board, word) for word in words} == set(board.legal_moves)


def test_both_sides_see_the_same_board() -> None:
    for board in at_random(7):
        assert row_of(board) == row_of(board.mirror())
        assert moves_of(board) == moves_of(board.mirror())


def test_how_a_piece_stands_is_said_as_the_rules_have_it() -> None:
    board = chess.Board("4k3/8/3p4/4n3/8/3B4/8/4R1K1 w - - 0 1")
    row = row_of(board)  # the pawn holds the knight against a rook; nobody holds the bishop
    assert (row["e5"], row["d6"], row["d3"], row["e1"]) == ("n!", "p-", "B?", "R-")
    board = chess.Board("3rk3/3q4/8/4P3/3R4/3K4/1b6/8 w - - 0 1")
    row = row_of(board)  # the bishop takes a rook that a king holds; so would the queen of a rook
    assert (row["d4"], row["d7"], row["d8"], row["b2"]) == ("R?", "q?", "r-", "b-")
    guarded = row_of(chess.Board("8/8/4k3/4p3/4KP2/3p4/8/8 w - - 0 1"))  # a king may not take it
    assert (guarded["e5"], guarded["f4"], guarded["d3"]) == ("p!", "P!", "p?")


def test_flights_are_where_the_other_king_may_go() -> None:
    """The rules say so: those are its legal moves, were it its turn."""
    for board in (board for seed in range(3) for board in at_random(seed) if not board.is_check()):
        other = board.copy(stack=False)
        other.push(chess.Move.null())
        king = other.king(other.turn)
        legal = {m.to_square for m in other.legal_moves if m.from_square == king}
        legal -= {m.to_square for m in other.legal_moves if other.is_castling(m)}
        if board.turn == chess.BLACK:
            legal = {chess.square_mirror(square) for square in legal}
        words = [word[2:] for word in words_of(row_of(board)) if word.startswith("fl")]
        assert {chess.parse_square(square) for square in words} == legal


# ------------------------------------------------------------------ files


def test_games_rows_and_epd_give_the_same(tmp_path: Path) -> None:
    text = "\n\n".join(str(game) for game in games(12))
    whole, reasons = read(write(tmp_path / "a.pgn", text), games="0", heldout="0.3")
    pairs = []
    for game in games(12):
        board = game.board()
        for move in game.mainline_moves():
            pairs.append((board.copy(stack=False), move))
            board.push(move)
    forms = {
        "b.tsv": "".join(f"{b.fen()}\t{m.uci()}\n" for b, m in pairs),
        "c.csv": "fen,move\n" + "".join(f'{b.fen()},"{b.san(m)}"\n' for b, m in pairs),
        "d.jsonl": "".join(f'{{"FEN": "{b.fen()}", "best_move": "{m}"}}\n' for b, m in pairs),
        "e.epd": "".join(b.epd(bm=m) + "\n" for b, m in pairs),
    }

    def told(documents: list[Document]) -> set[str]:
        return {repr(without_draws(d)) for d in documents}  # a game knows where it has been

    assert len(told(whole)) > 300
    assert {d.split for d in whole} == {"train", "heldout"}
    assert {str(r) for r in reasons} <= {"held-out position that is trained on, or asked already"}
    alike = set()
    for name, content in forms.items():
        found, odd = read(write(tmp_path / name, content), games="0", heldout="0.3")
        alike.add(frozenset((repr(d.parts), d.split) for d in found))
        assert told(found) == told(whole), name
        assert not [r for r in odd if isinstance(r, Reason) and r.kind == "refused"]
    assert len(alike) == 1


def test_odd_games_are_refused_by_reason_and_line(tmp_path: Path) -> None:
    good = [f'[Event "{n}"]\n\n{g.accept(movetext())} *\n' for n, g in enumerate(games(20))]
    odd = [
        '[Event "a"]\n\n1. e4 e5 2. Ke3 *\n',
        '[Event "b"]\n[Variant "Atomic"]\n\n1. e4 *\n',
        '[Event "c"]\n[SetUp "1"]\n[FEN "8/8/8/8/8/8/8/8 w - - 0 1"]\n\n*\n',
        '[Event "d"]\n\n*\n',
        '[Event "e"]\n\n1. e4 { [a note that looks like a tag] } (1. d4) e5 $1 ; rest\n 2. Nf3 *\n',
        '[Event "f"]\n\n1. e4 -- 2. d4 *\n',
        '[Event "g"]\n\n' + "{" + "x" * 2**18 + "} 1. e4 *\n",
    ]
    documents, reasons = read(write(tmp_path / "a.pgn", "\n".join(odd + good)), games="0")
    found = {str(r): r.place.line for r in reasons if isinstance(r, Reason) and r.kind == "refused"}
    assert found == {
        "game with a move that is not legal, or not readable": 1,
        "game of another variant": 5,
        "game from a position that is not possible": 10,
        "game without a move": 16,
        "game in which a side passes": 25,
        "game of more than 262,144 signs": 29,
    }
    names = [d.name for d in documents if d.name.startswith("a.pgn game 5@")]
    assert names == ["a.pgn game 5@0", "a.pgn game 5@1", "a.pgn game 5@2"]


def movetext() -> chess.pgn.StringExporter:
    return chess.pgn.StringExporter(headers=False, comments=False)


def test_odd_rows_are_refused_by_reason_and_line(tmp_path: Path) -> None:
    rows = [f"{b.fen()}\t{next(iter(b.legal_moves))}" for b in at_random(0)]
    odd = [
        "8/8/8/8/8/8/8/8 w - - 0 1\te2e4",
        "no position\te2e4",
        f"{chess.STARTING_FEN}\te2e5",
        f"{chess.STARTING_FEN}\t0000",
        f"{chess.STARTING_FEN}\t",
    ]
    documents, reasons = read(write(tmp_path / "a.tsv", "\n".join(rows + odd)), games="0")
    found = {(str(r), reasons[r]) for r in reasons if isinstance(r, Reason) and r.kind == "refused"}
    assert found == {
        ("position that is not possible", 1),
        ("position that is no FEN", 1),
        ("move that is not legal there", 2),
        ("move that is no text", 1),
    }
    lines = [r.place.line for r in reasons if isinstance(r, Reason) and r.place]
    assert min(line or 0 for line in lines) > 0 and len(documents) > 100
    with pytest.raises(DataError, match="nothing to learn or to ask"):
        read(write(tmp_path / "b.tsv", rows[0] + "\n"))
    with pytest.raises(SpecError, match="opponents"):
        read(str(tmp_path / "a.tsv"), opponents="kasparov")
    with pytest.raises(SpecError, match="learn"):
        read(str(tmp_path / "a.tsv"), learn="losers")


def test_winners_alone_are_learned_from_where_asked(tmp_path: Path) -> None:
    rest = "\n\n".join(str(game) for game in games(12))
    text = f'[Event "x"]\n[Result "0-1"]\n\n1. f3 e5 2. g4 Qh4# 0-1\n\n{rest}'
    documents, _ = read(write(tmp_path / "a.pgn", text), learn="winner", heldout="0.2")
    mine = [d for d in documents if d.name.startswith("a.pgn game 1@")]
    answers = [part.value for d in mine for part in d.parts if part.trained]
    assert answers == ["e2e4", "d1h5"]  # Black's, as Black sees them


def test_what_is_missing_is_told_with_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stockfish, "program", lambda: None)
    stockfish.identity.cache_clear()
    with pytest.raises(MissingExtra, match="apt-get install stockfish"):
        FIELD.items(Source("stockfish:games", "chess"))
    monkeypatch.setattr("whorl.core.errors.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"whorl\[chess\]"):
        FIELD.items(Source("stockfish:games", "chess"))


# ------------------------------------------------------------------ games


def tokens_of_chess() -> Tokens:
    return Tokens.build(FIELD.fit_codecs([], {}), 2432)


def heldout_of(tokens: Tokens, document: Document) -> HeldoutDocument:
    ids, mask = tokens.encode_arrays(document)
    return HeldoutDocument(document.name, ids, mask, 0)


def test_only_legal_moves_are_chosen_and_played(tmp_path: Path) -> None:
    """An engine that always wants to go from a1 to a1 plays whole games without it."""
    text = "\n\n".join(str(game) for game in games(30))
    documents, _ = read(write(tmp_path / "a.pgn", text), games="2", heldout="0.4")
    tokens, task = tokens_of_chess(), FIELD.task
    assert isinstance(task, ChessTask)
    held = [heldout_of(tokens, d) for d in documents if d.split == "heldout"]
    space = token_space(tokens)
    wanted = space.encode([Part("chess", "a1a1")])[0]
    names = {each.name for each in held}
    for each in held:
        asked = task.question(each, space)
        words = [tokens.decode(move) for move in asked.candidates]
        assert 0 <= asked.right < len(words) == len(set(words))
    begun = [each for each in held if begun_by(each.name)]
    assert len(begun) == 4 and len(names) == len(held)
    colours = [chess.Board(begun_by(each.name)[2]).turn for each in begun]  # type: ignore[index]
    assert sorted(colours) == [False, False, True, True]
    for each in begun:
        _, _, fen = begun_by(each.name)  # type: ignore[misc]
        board = chess.Board(fen)
        legal = task.question(each, space).candidates
        assert len(legal) == board.legal_moves.count()
    assert task.further_of(held) == (POINTS_RANDOM, POINTS_GREEDY)
    engine = ScoringEngine(
        tokens.contract.digest,
        lambda ids: [0.0 if number == wanted else -1 - number * 1e-4 for number in ids[1:]],
    )
    grades = played(engine, tokens, task, begun, window=128)
    assert len(grades) == len(begun)
    for grade in grades:
        ((metric, (points, games_played)),) = grade.items()
        assert metric in (POINTS_RANDOM, POINTS_GREEDY) and points in (0.0, 0.5, 1.0)
        assert games_played == 1.0


def test_games_end_as_the_rules_have_it() -> None:
    world = ChessWorld("random", MATE_IN_ONE)
    world.reset(0)
    assert len(world.actions) == chess.Board(MATE_IN_ONE).legal_moves.count()
    with pytest.raises(DataError, match="no such move"):
        world.step("a1b2")
    after = world.step("a1a8")
    assert (after.reward, after.has_ended, after.has_succeeded) == (1.0, True, True)
    with pytest.raises(DataError, match="has ended"):
        world.step("e1e2")
    stalemate = ChessWorld("random", "7k/8/6K1/8/8/8/8/5Q2 w - - 0 1")
    stalemate.reset(0)
    after = stalemate.step("f1f7")
    assert (after.reward, after.has_ended, after.has_succeeded) == (0.5, True, False)
    slow = ChessWorld("random", "7k/8/8/8/8/8/8/R6K w - - 98 120")
    slow.reset(0)
    assert slow.step("h1g1").reward == 0.5  # and one of Black's: a hundred without progress
    black = ChessWorld("random", "rnbqkbnr/pppp1ppp/8/4p3/6P1/5P2/PPPPP2P/RNBQKBNR b KQkq - 0 2")
    black.reset(0)
    assert black.step("d1h5").reward == 1.0  # the fool's mate, as Black sees it


def test_the_same_seed_gives_the_same_game() -> None:
    def moves(seed: int) -> list[str]:
        world, found = ChessWorld("greedy", chess.STARTING_FEN), list[str]()
        world.reset(seed)
        while not world.has_ended and len(found) < 20:
            found.append(world.actions[0])
            world.step(world.actions[0])
        return [*found, world.board.fen()]

    assert moves(3) == moves(3) != moves(4)
    name = name_of(5, "random", chess.STARTING_FEN)
    assert points_of(name, chance_player("random")) == points_of(name, chance_player("random"))


def test_greedy_takes_what_is_worth_most() -> None:
    board = chess.Board("4k3/8/8/2q1r3/3P4/8/8/K7 w - - 0 1")
    assert [move.uci() for move in captures(board)] == ["d4c5"]
    passing = chess.Board("4k3/8/8/3pP3/8/8/8/4K3 w - d6 0 2")
    assert [move.uci() for move in captures(passing)] == ["e5d6"]
    assert captures(chess.Board()) == []
