"""Episodes and games side by side: each is what a plain loop makes of it alone.

The oracle plays one after another: a prompt, one question to the engine, the best action.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the extra train")

import torch

from whorl.codecs.contract import Tokens
from whorl.core.environments import Environment, Observation, PlayTask, Reaction
from whorl.core.errors import DataError
from whorl.core.metrics import RETURN, SUCCESS
from whorl.core.ports import Document, Engine, HeldoutDocument, Part
from whorl.core.scoring import Continuations
from whorl.engines.limits import Limits
from whorl.engines.loop import EngineLoop
from whorl.engines.torch_engine import TorchStepper
from whorl.fields import stockfish
from whorl.fields.chess_names import name_of
from whorl.fields.episodes import FIELD as EPISODES
from whorl.fields.episodes import question_of
from whorl.model.hf import save_model_folder
from whorl.stages.evaluate import play
from whorl.stages.evaluate.play import played
from whorl.testing.engine import FakeEngine
from whorl.testing.fakes import RecordingProgress
from whorl.testing.models import tiny_model, tiny_shape
from whorl.testing.worlds import FakeEnvironment

Episode = tuple[list[str], float, bool]  # what was done, the rewards, whether it went well
WINDOW = 200


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small are faster on one thread, far more so on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def asked(names: Sequence[str]) -> list[HeldoutDocument]:
    return [HeldoutDocument(name, np.array([1]), np.array([False]), 0) for name in names]


class Hashed(FakeEngine):
    """Scores that look random and hang on every id; counts how it is asked."""

    def __init__(self, contract_digest: str) -> None:
        super().__init__(contract_digest)
        self.sizes: list[int] = []

    def score(self, sequences: Sequence[Sequence[int]], prefix: Sequence[int] = ()) -> list[Any]:
        return [
            np.array([-random.Random(str([*prefix, *ids])).random()] * len(ids))
            for ids in sequences
        ]

    def score_together(self, questions: Sequence[Continuations]) -> list[list[Any]]:
        self.sizes.append(len(questions))
        return [self.score(each.sequences, each.prefix) for each in questions]


def one_after_another(engine: Engine, tokens: Tokens, task: PlayTask, name: str) -> Episode:
    """The oracle."""
    opened = task.open_world(name)
    assert opened is not None
    world, seed = opened
    with closing(world):
        seen, steps, total = world.reset(seed), [], 0.0
        while len(steps) < task.max_steps:
            asked = tokens.encode_parts(task.ask(steps, seen))
            prompt = [*tokens.contract.start_ids, *asked]
            ways = [tokens.encode_parts([Part(task.codec, action)]) for action in world.actions]
            worth = [sum(nats.tolist()) for nats in engine.score(ways, prompt)]
            action = world.actions[worth.index(max(worth))]
            steps.append((seen, action))
            after = world.step(action)
            seen, total = after.observation, total + after.reward
            if after.has_ended:
                return [done for _, done in steps], total, after.has_succeeded
    return [done for _, done in steps], total, False


@dataclass
class Watched:
    """What worlds that are opened through it are told to do, and how many are open at once."""

    episodes: list[list[str]] = field(default_factory=list)
    is_open: int = 0
    most_open: int = 0
    closed: int = 0

    def watch(self, world: Environment) -> Environment:
        actions, step, close = list[str](), world.step, world.close
        self.episodes.append(actions)
        self.is_open += 1
        self.most_open = max(self.most_open, self.is_open)

        def stepped(action: str) -> Reaction:
            actions.append(action)
            return step(action)

        def closed() -> None:
            self.is_open, self.closed = self.is_open - 1, self.closed + 1
            close()

        world.step, world.close = stepped, closed  # type: ignore[method-assign]
        return world


def side_by_side(
    engine: Engine, tokens: Tokens, task: PlayTask, names: Sequence[str], monkeypatch: Any
) -> tuple[list[Episode], Watched]:
    """What `played` does with each name."""
    watched, own = Watched(), type(task).worlds
    told: list[tuple[float, bool]] = []

    @contextmanager
    def worlds(self: PlayTask) -> Iterator[Callable[[str], tuple[Environment, int] | None]]:
        with own(self) as opener:

            def opened(name: str) -> tuple[Environment, int] | None:
                found = opener(name)
                return None if found is None else (watched.watch(found[0]), found[1])

            yield opened

    def result(self: PlayTask, document: HeldoutDocument, succeeded: bool, total: float) -> Any:
        return {SUCCESS: (float(succeeded), 1.0), RETURN: (total, 1.0)}

    monkeypatch.setattr(type(task), "worlds", worlds)
    monkeypatch.setattr(type(task), "played", result)
    progress = RecordingProgress()
    grades = played(engine, tokens, task, asked(names), window=WINDOW, progress=progress)
    told = [(grade[RETURN][0], bool(grade[SUCCESS][0])) for grade in grades]
    assert progress.amount == len(names) and len(progress.labels) == 1
    assert watched.is_open == 0 and watched.closed == len(names)
    return [(a, *each) for a, each in zip(watched.episodes, told, strict=True)], watched


# ------------------------------------------------------------------ episodes


def corridor(name: str) -> tuple[Environment, int]:
    """Of length 2 to 5, with more or less patience."""
    number = int(name)
    return FakeEnvironment(2 + number % 4, 5 + number * 7 % 30), number


def tokens_of_corridor() -> Tokens:
    rows: list[Observation] = [
        {"lamp": lamp, "place": float(place)}
        for lamp in ("left", "right")
        for place in range(-5, 6)
    ]
    documents = [
        Document(
            str(number), (*question_of([], row), Part("action", ("left", "right")[number % 2]))
        )
        for number, row in enumerate(rows)
    ]
    return Tokens.build(EPISODES.fit_codecs(documents, {}), 96)


@pytest.mark.parametrize("together", [1, 3, 64])
def test_each_seed_gets_what_it_gets_alone(together: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(play, "MOST_OPEN", together)
    tokens, names = tokens_of_corridor(), [str(n) for n in range(40)]
    engine, task = Hashed(tokens.contract.digest), PlayTask(open_world=corridor, ask=question_of)
    task = replace(task, max_steps=25)
    expected = [one_after_another(engine, tokens, task, name) for name in names]
    found, watched = side_by_side(engine, tokens, task, names, monkeypatch)
    assert found == expected
    assert {len(actions) for actions, _, _ in found} != {25}
    assert any(len(actions) == 25 for actions, _, _ in found)  # cut off, and has failed
    assert watched.most_open == min(together, 40)
    steps = [len(actions) for actions, _, _ in found]
    assert sum(engine.sizes) == sum(steps) and max(engine.sizes) == min(together, 40)
    if together == 64:
        assert len(engine.sizes) == max(steps)


def test_what_fails_closes_every_world(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens, watched = tokens_of_corridor(), Watched()
    engine = Hashed(tokens.contract.digest)

    def open_world(name: str) -> tuple[Environment, int] | None:
        return None if name == "5" else (watched.watch(corridor(name)[0]), int(name))

    task = PlayTask(open_world=open_world, ask=question_of)
    with pytest.raises(DataError, match="no environment of 5"):
        played(engine, tokens, task, asked([str(n) for n in range(9)]), window=WINDOW)
    assert watched.closed == 5 and watched.is_open == 0


# ------------------------------------------------------------------ games through real models


def chess_engines(folder: Path) -> Iterator[tuple[Engine, Tokens]]:
    """A miniature that nobody trained, by torch, and by OpenVINO where it is installed."""
    from whorl.fields.chess import FIELD

    tokens = Tokens.build(FIELD.fit_codecs([], {}), 2399)
    shape = tiny_shape(vocab_size=tokens.contract.vocab_size)
    model = tiny_model(shape, seed=3)
    limits = Limits(16, shape.max_seq_len, shape.vocab_size, candidates_beside=True)
    yield EngineLoop("torch", tokens.contract.digest, TorchStepper(model), limits), tokens
    try:
        import openvino_genai  # noqa: F401
    except ImportError:
        return
    from whorl.engines.open import open_engine
    from whorl.engines.openvino_export import export_openvino
    from whorl.engines.setup import EngineSetup

    save_model_folder(folder / "hf", model.state_dict(), shape, tokens, {"prepare": "0" * 32})
    export_openvino(folder / "hf", folder / "f32")
    yield open_engine(folder / "f32", name="openvino", setup=EngineSetup(16, threads=1)), tokens


def test_games_of_a_miniature_are_those_it_plays_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Random opponents draw by their seeds, Stockfish is one program for all of its games."""
    pytest.importorskip("chess", reason="needs the extra chess")
    from tests.fields.test_chess import at_random
    from whorl.fields.chess import FIELD

    opponents = ["random", "greedy", *(["stockfish"] if stockfish.program() else [])]
    names = [
        name_of(number, opponent, at_random(number)[6 + number].fen())
        for number, opponent in enumerate(opponents * 2)
    ]
    task: Any = replace(FIELD.task, max_steps=8)  # type: ignore[type-var]
    opened: list[int] = []
    started = stockfish.Stockfish.open.__func__  # type: ignore[attr-defined]

    def counted(cls: type[stockfish.Stockfish]) -> stockfish.Stockfish:
        found: stockfish.Stockfish = started(cls)
        opened.append(1)
        return found

    for engine, tokens in chess_engines(tmp_path):
        with closing(engine):
            expected = [one_after_another(engine, tokens, task, name) for name in names]
            with monkeypatch.context() as patched:
                patched.setattr(stockfish.Stockfish, "open", classmethod(counted))
                opened.clear()
                found, _ = side_by_side(engine, tokens, task, names, patched)
        assert found == expected
        assert len({tuple(actions) for actions, _, _ in found}) == len(names)
        assert len(opened) == ("stockfish" in opponents)
