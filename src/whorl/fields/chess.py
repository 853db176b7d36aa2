"""Chess: which move is made in a position?

Sources are games (PGN) and positions with their moves (EPD, rows of fen and move), or
`stockfish:games`: positions of games that prepare has played and labelled by Stockfish. A document
is a position and its move; held-out ones also say which moves are legal there, and evaluation
chooses among these alone. Some held-out positions begin games, which evaluation plays through the
engine against others.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from whorl.core.environments import Environment, Observation, Opener, PlayTask, Step
from whorl.core.errors import DataError, MissingExtra, SpecError
from whorl.core.intervals import score_of
from whorl.core.metrics import MOVE_MATCH, Metric
from whorl.core.ports import (
    Choice,
    Codec,
    Document,
    HeldoutDocument,
    Part,
    QualityMeasure,
    Score,
    Source,
    Split,
    Task,
    TokenSpace,
)
from whorl.core.reasons import Place, Reason
from whorl.core.sources import DatasetItem
from whorl.fields.chess_names import (
    BOTH_SIDES,
    GREEDY,
    METRICS,
    RANDOM,
    STOCKFISH,
    TOLD,
    begun_by,
    name_of,
)
from whorl.fields.whole import (
    begins,
    check_sides,
    files_of,
    number_of,
    share_of,
    share_option,
    whole_items,
)

if TYPE_CHECKING:
    import chess

    from whorl.fields.chess_files import Game

__all__ = ["FIELD", "ChessField", "ChessTask", "question_of"]

CHESS, MARK_CODEC = "chess", "special"
MARK, END = "<|answer|>", "<|end|>"  # the latter stands before the moves that are legal
LABELLED = "stockfish:games"
SUFFIXES = (".pgn", ".epd", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")
BATCH = 2000  # positions of one item: each starts Stockfish, a third of a second
START_PLIES = range(4, 14)  # of a held-out game: where a game that is scored may begin
AUTO, ALL, WINNER = "auto", "all", "winner"
LOGIC_VERSION = 3


def question_of(steps: Sequence[Step], seen: Observation) -> tuple[Part, ...]:
    """The position as it is: what matters of what was before it is told there."""
    from whorl.fields.chess_positions import codec_of, words_of

    position = (Part(codec_of(word), word, trained=False) for word in words_of(seen))
    return (*position, Part(MARK_CODEC, MARK, trained=False))


def open_game(name: str) -> tuple[Environment, int] | None:
    """The game that a document begins, or a whole one, and its seed; None: it begins none.

    Raises MissingExtra without chess.
    """
    MissingExtra.check("chess", "chess", "a game of chess")
    from whorl.fields.chess_games import world_of

    return world_of(name)


@dataclass(frozen=True)
class ChessTask(PlayTask):
    """The best of the legal moves, which stand behind the answer; and points of games."""

    open_world: Opener = open_game
    ask: Callable[[Sequence[Step], Observation], tuple[Part, ...]] = question_of
    codec: str = CHESS
    name: str = "chess"
    metric: Metric = MOVE_MATCH
    further: tuple[Metric, ...] = tuple(METRICS.values())
    own_worlds: tuple[str, ...] = (BOTH_SIDES,)

    @contextmanager
    def worlds(self) -> Iterator[Opener]:
        """Games against one Stockfish, which they ask in turn: it remembers nothing between."""
        MissingExtra.check("chess", "chess", "a game of chess")
        from whorl.fields.chess_games import world_of
        from whorl.fields.stockfish import SharedStockfish

        with closing(SharedStockfish()) as shared:
            yield lambda name: world_of(name, shared)

    def question(self, document: HeldoutDocument, space: TokenSpace) -> Choice:
        """Raises DataError if the answer is none of the legal moves."""
        at, ids = int(document.mask.argmax()), space.ranges[self.codec]
        found = [number for number in document.ids[at:].tolist() if number in ids]
        answer, *legal = [tuple(found[n : n + 2]) for n in range(0, len(found) - 1, 2)] or [()]
        if answer not in legal:
            raise DataError(f"held-out document {document.name} says no legal moves")
        prompt = tuple(int(number) for number in document.ids[:at])
        return Choice(prompt, legal, legal.index(answer))

    def further_of(self, documents: Sequence[HeldoutDocument]) -> tuple[Metric, ...]:
        """Points against those who are played by some documents; others are only asked."""
        begun = {found[1] for each in documents if (found := begun_by(each.name))}
        return tuple(metric for opponent, metric in METRICS.items() if opponent in begun)

    def measures(self, document: HeldoutDocument, metric: Metric) -> bool:
        begun = begun_by(document.name)
        return metric == self.metric or (begun is not None and METRICS[begun[1]] == metric)

    def played(
        self, document: HeldoutDocument, succeeded: bool, total: float
    ) -> Mapping[Metric, tuple[float, float]]:
        """Points against the opponent of its game."""
        begun = begun_by(document.name)
        return {} if begun is None else {METRICS[begun[1]]: (total, 1.0)}


@dataclass(frozen=True)
class ChessField:
    """<position> <|answer|> <move>: only the move is learned."""

    name: str = "chess"
    task: Task = ChessTask()
    logic_version: int = LOGIC_VERSION
    options: Mapping[str, str] = field(
        default_factory=lambda: {
            **{"positions": "40000", "asked": "1000", "nodes": "200"},
            **{"games": "40", "opponents": AUTO, "learn": ALL},
            **{"heldout": "0.1", "seed": "0"},
        }
    )

    def items(self, source: Source) -> list[Any]:
        """Raises DataError when there are no files, MissingExtra without chess or Stockfish."""
        MissingExtra.check("chess", "chess", "chess")
        if source.source != LABELLED:
            return list(whole_items(source, SUFFIXES))
        from whorl.fields import chess_lessons, stockfish

        options = {**self.options, **source.options}
        keys = ("games", "asked", "positions", "nodes", "seed")
        told = ", ".join(f"{key} {number_of(options, key)}" for key in keys)
        told += f", against {' '.join(_opponents(options, True))}"
        told += f", lessons {chess_lessons.LESSONS_VERSION}, {stockfish.identity()}"
        counts = [number_of(options, key, 1) for key in ("asked", "positions")]
        count = 1 + sum(-(-each // BATCH) for each in counts)
        return [DatasetItem(place, f"{told}, part {place}", is_made=True) for place in range(count)]

    def read(self, source: Source, item: Any, reject: Callable[[str], None]) -> Iterator[Document]:
        """Raises DataError, MissingExtra or SpecError. What is held out comes first."""
        MissingExtra.check("chess", "chess", "chess")
        options = {**self.options, **source.options}
        if isinstance(item, DatasetItem):
            yield from _labelled(item.number, options)
        elif begins(item, reject):
            yield from _of_files(source, options, reject)

    def fit_codecs(
        self, documents: Iterable[Document], options: Mapping[str, Any]
    ) -> dict[str, Codec]:
        """Pieces and squares: nothing is fitted."""
        MissingExtra.check("chess", "chess", "chess")
        from whorl.fields.chess_positions import codecs

        return {codec.name: codec for codec in codecs()}

    def baselines(
        self, train: Sequence[Document], heldout: Sequence[Document], rows: NDArray[np.int64] | None
    ) -> list[Score]:
        """Who plays what a position tells, who takes what is worth most, who moves at random."""
        MissingExtra.check("chess", "chess", "chess")
        from whorl.fields.chess_games import chance_player, points_of
        from whorl.fields.chess_positions import board_of, word_of

        asked = [_taken_apart(document) for document in heldout]
        names, ones = tuple(document.name for document in heldout), np.ones(len(heldout))
        scores = []
        kinds = {"what a position tells": TOLD, "greedy capture": GREEDY, "random moves": RANDOM}
        for title, kind in kinds.items():
            player, rng = chance_player(kind), random.Random(0)
            guesses = [
                word_of(board, player(board, rng)) for board in (board_of(r) for r, _ in asked)
            ]
            hits = [guess == right for guess, (_, right) in zip(guesses, asked, strict=True)]
            measure = QualityMeasure(MOVE_MATCH, names, np.array(hits, np.float64), ones)
            scores.append(score_of(title, measure))
            for opponent, metric in METRICS.items():
                mine = [
                    name for name in names if (begun := begun_by(name)) and begun[1] == opponent
                ]
                points = np.array([points_of(name, player) for name in mine])
                if mine:
                    measure = QualityMeasure(metric, tuple(mine), points, np.ones(len(mine)))
                    scores.append(score_of(title, measure))
        return scores


# ------------------------------------------------------------------ documents


def _document(name: str, board: chess.Board, move: chess.Move, split: Split) -> Document:
    from whorl.fields.chess_positions import moves_of, row_of, word_of

    answer = Part(CHESS, word_of(board, move))
    parts = (*question_of((), row_of(board)), answer)
    if split == "heldout":
        legal = (Part(CHESS, word, trained=False) for word in moves_of(board))
        parts = (*parts, Part(MARK_CODEC, END, trained=False), *legal)
    return Document(name, parts, split, whole=split == "train")


def _taken_apart(document: Document) -> tuple[list[str], str]:
    """(labels of the position, right move) of a document made of ids."""
    values = [str(part.value) for part in document.parts]
    at = values.index(MARK)
    return values[:at], values[at + 1]


def _opponents(options: Mapping[str, str], is_labelled: bool) -> list[str]:
    """Raises SpecError on one that is not known."""
    if options["opponents"].strip().lower() == AUTO:
        return [RANDOM, GREEDY, *([STOCKFISH] if is_labelled else [])]
    found = options["opponents"].replace(",", " ").split()
    if unknown := [name for name in found if name not in METRICS]:
        expected = f"{AUTO}, or some of {' '.join(METRICS)}"
        raise SpecError("data.options.opponents", found=unknown[0], expected=expected)
    return found


def _labelled(part: int, options: Mapping[str, str]) -> Iterator[Document]:
    """Of part 0 the beginnings of games, then positions that are asked, then those learned."""
    from whorl.fields import chess_lessons

    seed, nodes = number_of(options, "seed"), number_of(options, "nodes", 1)
    if part == 0:
        opponents, games = _opponents(options, True), number_of(options, "games")
        found = chess_lessons.starts(f"starts {seed}", games * len(opponents), nodes)
        for number, (board, move) in enumerate(found):
            name = name_of(number, opponents[number // games], board.fen())
            yield _document(name, board, move, "heldout")
        return
    asked, positions = (number_of(options, key, 1) for key in ("asked", "positions"))
    asked_parts = -(-asked // BATCH)
    is_held = part <= asked_parts
    place = part - 1 if is_held else part - 1 - asked_parts
    count = min(BATCH, (asked if is_held else positions) - place * BATCH)
    split: Split = "heldout" if is_held else "train"
    words = f"{split} {seed} {part}"
    for name, board, move in chess_lessons.labelled(words, count, nodes, is_held):
        yield _document(f"{split} {place}/{name}", board, move, split)


# ------------------------------------------------------------------ people's own files


def _of_files(
    source: Source, options: Mapping[str, str], reject: Callable[[str], None]
) -> Iterator[Document]:
    """Raises DataError if there is nothing to learn or to ask, SpecError on wrong options."""
    from whorl.fields.chess_files import games_of

    if options["learn"] not in (ALL, WINNER):
        found, expected = options["learn"], f"{ALL} or {WINNER}"
        raise SpecError("data.options.learn", found=found, expected=expected)
    share, seed = share_option(options, "heldout"), number_of(options, "seed")
    games = list(games_of(files_of(source, SUFFIXES), reject))
    has_test = any(game.is_test for game in games)
    held = [g.is_test if has_test else share_of(seed, g.place, g.moves) < share for g in games]
    check_sides(source, "games (or positions)", held.count(False), held.count(True))
    learned = set()
    for game, is_held in zip(games, held, strict=True):
        if not is_held:
            for place, board, move in _moves_of(game, options["learn"]):
                learned.add(board.epd())
                yield _document(f"{game.name}@{place}", board, move, "train")
    asked = [game for game, is_held in zip(games, held, strict=True) if is_held]
    yield from _held(asked, learned, options, reject)


def _moves_of(game: Game, learn: str) -> Iterator[tuple[int, chess.Board, chess.Move]]:
    for place, (board, move) in enumerate(game.positions()):
        if learn == ALL or game.winner in (None, board.turn):
            yield place, board, move


def _held(
    games: Sequence[Game],
    learned: set[str],
    options: Mapping[str, str],
    reject: Callable[[str], None],
) -> Iterator[Document]:
    """Positions that nothing trains; of each game one may begin a game that is scored."""
    opponents, count = _opponents(options, False), number_of(options, "games")
    number, known = 0, set(learned)
    for game in games:
        has_begun = number >= count * len(opponents)
        for place, board, move in _moves_of(game, ALL):
            name = f"{game.name}@{place}"
            if board.epd() in known:
                words = "held-out position that is trained on, or asked already"
                reject(Reason(words, "passed over", Place(name)))
                continue
            known.add(board.epd())
            is_turn = board.ply() % 2 == number % 2  # White and Black in turns
            if not has_begun and is_turn and board.ply() in START_PLIES:
                name = name_of(number, opponents[number % len(opponents)], board.fen())
                number, has_begun = number + 1, True
            yield _document(name, board, move, "heldout")


FIELD = ChessField()
