"""Episodes: demonstrations as jsonl, worlds of Gymnasium by name, played through an engine."""

from __future__ import annotations

import json
import random
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the extra train")

from tests.fields.support import miniature
from tests.stages.evaluate.fakes import ScoringEngine
from whorl.codecs.contract import Tokens
from whorl.core.context import NoProgress
from whorl.core.environments import PlayTask, Reaction
from whorl.core.errors import DataError, SpecError
from whorl.core.metrics import RETURN, SUCCESS
from whorl.core.ports import Document, HeldoutDocument, Part, Source
from whorl.core.reasons import Reason
from whorl.fields import episodes, gymnasium_worlds
from whorl.fields.base import options_of
from whorl.fields.episodes import FIELD, HISTORY, question_of
from whorl.fields.gymnasium_worlds import GymWorld
from whorl.fields.teachers import demonstration
from whorl.stages.evaluate.play import played
from whorl.testing.worlds import FakeEnvironment

GOTO = "gymnasium:minigrid:BabyAI-GoToLocal-v0"


def corridor(seed: int) -> dict[str, list[Any]]:
    """A demonstration of the way out."""
    world, seen, done = FakeEnvironment(), [], []
    seen.append(world.reset(seed))
    outcome = None
    while outcome is None or not outcome.has_ended:
        done.append(world.lamp)
        outcome = world.step(world.lamp)
        seen.append(outcome.observation)
    return {"observations": seen, "actions": done}


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(source: str, **options: str) -> tuple[list[Document], Counter[str]]:
    given = Source(source, "episodes", options=options_of(FIELD, options))
    reasons: Counter[str] = Counter()

    def reject(reason: str) -> None:
        reasons[reason] += 1

    return [d for i in FIELD.items(given) for d in FIELD.read(given, i, reject)], reasons


def test_episodes_and_single_steps_give_the_same(tmp_path: Path) -> None:
    rows = [{**corridor(n), "id": n} for n in range(30)]
    for row in rows:
        for seen in row["observations"]:
            seen["id"] = float(row["id"])
    whole, reasons = read(str(write(tmp_path / "a.jsonl", rows)))
    steps = [
        {"episode": n, "observation": seen, "action": action}
        for n, row in enumerate(rows)
        for seen, action in zip(row["observations"], row["actions"], strict=False)
    ]
    random.Random(0).shuffle(steps)
    steps.sort(key=lambda step: (abs(step["observation"]["place"]), step["episode"]))
    apart, _ = read(str(write(tmp_path / "b.jsonl", steps)))
    assert not reasons
    assert {repr((d.parts, d.split)) for d in whole} == {repr((d.parts, d.split)) for d in apart}
    assert {d.split for d in whole} == {"train", "heldout"}
    for document in whole:
        assert [p.codec for p in document.parts] == ["row", "action"] * 3
        assert [p.trained for p in document.parts] == [False, True] * 3


def test_long_episodes_are_told_in_parts_as_they_are_asked(tmp_path: Path) -> None:
    long = {"observations": list(range(20)), "actions": ["a", "b"] * 10}
    rows = [long, *({"observations": [n], "actions": ["a"]} for n in range(20))]
    documents, _ = read(str(write(tmp_path / "a.jsonl", rows)))
    mine = [d for d in documents if d.name.startswith("a.jsonl@0")]
    assert [len(d.parts) // 2 for d in mine] == [8, 8, 4]
    assert mine[1].parts[0].value == {"seen": 8.0}
    steps = [({"seen": float(n)}, "a") for n in range(20)]
    assert len(question_of(steps, {"seen": 20.0})) == 2 * HISTORY + 1


def test_odd_rows_are_refused_by_reason_and_place(tmp_path: Path) -> None:
    rows: list[Any] = [{"observations": [n, 0], "actions": ["a", "b"]} for n in range(30)]
    odd: list[Any] = [
        {"observations": [1, 2, 3], "actions": ["a"]},
        {"observations": [], "actions": []},
        {"observations": [[float("inf")]], "actions": ["a"]},
        {"observations": [1], "actions": [None]},
        {"observations": [1], "actions": ["x" * 101]},
        {"observation": 1, "action": "a"},
        {"observations": [10**400], "actions": ["a"]},
    ]
    documents, reasons = read(str(write(tmp_path / "a.jsonl", [*rows, *odd])))
    found = {str(r): str(r.place) for r in reasons if isinstance(r, Reason) and r.kind == "refused"}
    assert found == {
        "episode of other than one action for each observation": "a.jsonl, line 31",
        "episode without observations and actions": "a.jsonl, line 32",
        "observation with a cell that is no number, text or null": "a.jsonl, line 33",
        "action that is neither a name nor a number": "a.jsonl, line 34",
        "action of control signs, or of more than 100": "a.jsonl, line 35",
        "no key episode": "a.jsonl, line 36",
    }
    numbers = [r for r in reasons if "no number" in r]
    assert sum(reasons[r] for r in numbers) == 2  # infinity, and what has 401 digits
    assert len(documents) == 30
    with pytest.raises(DataError, match="nothing to learn or to ask"):
        read(str(write(tmp_path / "b.jsonl", rows[:1])))


def tokens_of_corridor() -> Tokens:
    documents = [
        Document(str(n), (*question_of([], dict(seen)), *_action(action)))
        for n in range(2)
        for row in [corridor(n)]
        for seen, action in zip(row["observations"], row["actions"], strict=False)
    ]
    return Tokens.build(FIELD.fit_codecs(documents, {}), 64)


def test_only_worlds_are_groups_of_the_report(tmp_path: Path) -> None:
    """What somebody showed in files of their own is in none, whatever the files are called."""
    task: Any = FIELD.task
    rows = [{**corridor(n), "id": n} for n in range(30)]
    for row in rows:
        for seen in row["observations"]:
            seen["id"] = float(row["id"])
    for name in ("play#1.jsonl", "b.jsonl"):
        documents, _ = read(str(write(tmp_path / name, rows)))
        assert {task.group(document.name) for document in documents} == {""}
    assert task.group(f"{GOTO}#{10**8}") == GOTO


def _action(action: str) -> tuple[Any, ...]:
    from whorl.core.ports import Part

    return (Part("action", action),)


def test_a_world_is_played_from_its_seed_by_the_most_probable_action() -> None:
    tokens = tokens_of_corridor()
    first = next(each.id_start for each in tokens.contract.codecs if each.name == "action")
    lamp = {name: tokens.encode_parts(question_of([], {"lamp": name, "place": 0.0}))[0]
            for name in ("left", "right")}  # fmt: skip

    def follows_the_lamp(ids: list[int]) -> list[float]:
        is_right = lamp["right"] in ids
        return [0.0] * (len(ids) - 2) + [-1.0 if (ids[-1] - first == 1) == is_right else -2.0]

    def always_left(ids: list[int]) -> list[float]:
        return [0.0] * (len(ids) - 2) + [-1.0 if ids[-1] == first else -2.0]

    task = PlayTask(open_world=lambda name: (FakeEnvironment(), int(name)), ask=question_of)
    documents = [HeldoutDocument(str(n), np.array([1]), np.array([False]), 0) for n in range(6)]
    for scorer, right in ((follows_the_lamp, [1] * 6), (always_left, [1, 0] * 3)):
        engine = ScoringEngine(tokens.contract.digest, scorer)
        grades = played(engine, tokens, task, documents, window=64)
        assert [grade[SUCCESS] for grade in grades] == [(float(n), 1.0) for n in right]
        assert [grade[RETURN] for grade in grades] == [(float(n), 1.0) for n in right]
    with pytest.raises(DataError, match="no action of corridor"):
        world = FakeEnvironment(actions=("up", "down"))
        task = PlayTask(open_world=lambda name: (world, 0), ask=question_of)
        played(engine, tokens, task, documents[:1], window=64)


def test_an_episode_that_shows_what_is_not_known_has_failed_and_is_counted() -> None:
    @dataclass
    class Odd(FakeEnvironment):
        def step(self, action: str) -> Reaction:
            after = super().step(action)
            return replace(after, observation={**after.observation, "ghost": 1.0}, reward=0.5)

    @dataclass
    class Told(NoProgress):
        note: str = ""

        def finish(self, note: str = "") -> None:
            self.note = note

    worlds = {"0": FakeEnvironment, "1": Odd}
    task = PlayTask(open_world=lambda name: (worlds[name](), 0), ask=question_of)
    documents = [HeldoutDocument(n, np.array([1]), np.array([False]), 0) for n in worlds]
    tokens, told = tokens_of_corridor(), Told()
    first = next(each.id_start for each in tokens.contract.codecs if each.name == "action")
    engine = ScoringEngine(
        tokens.contract.digest,
        lambda ids: [0.0] * (len(ids) - 2) + [-1.0 if ids[-1] == first else -2.0],
    )
    grades = played(engine, tokens, task, documents, window=64, progress=told)
    assert [(g[SUCCESS][0], g[RETURN][0]) for g in grades] == [(1.0, 1.0), (0.0, 0.5)]
    assert told.note.startswith("1 failed by what they showed: there is no column 'ghost'")


class Clock:
    """An environment of Gymnasium that never ends, or after `end` steps; it shows NaN at first."""

    def __init__(self, end: int) -> None:
        self.end, self.count, self.actions = end, 0, ("wait",)
        self.action_space, self.unwrapped = self, self

    def reset(self, seed: int) -> tuple[Any, dict[str, Any]]:
        self.count = 0
        return np.array([np.nan, seed]), {}

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.count += 1
        return np.array([self.count, np.inf]), 1.0, self.count == self.end, False, {}

    def close(self) -> None: ...


@pytest.mark.parametrize(
    ("end", "steps", "succeeded"), [(500, 500, True), (501, 500, False), (10**9, 500, False)]
)
def test_everybody_plays_as_long_and_who_is_longer_has_failed(
    monkeypatch: pytest.MonkeyPatch, end: int, steps: int, succeeded: bool
) -> None:
    monkeypatch.setattr(
        gymnasium_worlds, "open_world", lambda name: GymWorld(name, Clock(end), ("wait",))
    )
    world = GymWorld("clock", Clock(end), ("wait",))
    seen = list(demonstration(world, "random", 7))
    assert (len(seen), world.has_succeeded) == (steps, succeeded)
    assert seen[0][0] == {"[0]": None, "[1]": 7.0} and seen[2][0] == {"[0]": 2.0, "[1]": None}
    name = "gymnasium:clock#7"
    document = Document(name, (*question_of([], seen[0][0]), Part("action", "wait")), "heldout")
    scores = {(s.name, s.metric): s.value for s in FIELD.baselines([document], [document], None)}
    assert scores["random", SUCCESS] == succeeded and scores["random", RETURN] == 500
    tokens = Tokens.build(FIELD.fit_codecs([document], {}), 64)
    engine = ScoringEngine(tokens.contract.digest, lambda ids: [0.0] * (len(ids) - 1))
    held = [HeldoutDocument(name, np.array([1]), np.array([False]), 0)]
    (grade,) = played(engine, tokens, FIELD.task, held, window=64)  # type: ignore[arg-type]
    assert grade[SUCCESS][0] == succeeded and grade[RETURN][0] == 500


def test_demonstrations_that_failed_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        gymnasium_worlds, "open_world", lambda name: GymWorld(name, Clock(501), ("wait",))
    )
    monkeypatch.setattr(gymnasium_worlds, "identity_of", lambda name: name)
    documents, reasons = read("gymnasium:clock", teacher="random", episodes="3", asked="2")
    assert {d.split for d in documents} == {"heldout"} and len(documents) == 2
    assert reasons == {"demonstration that failed": 3}


def test_baselines_of_other_sources_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two environments have their teachers; beside jsonl nothing is played."""
    monkeypatch.setattr(episodes, "_result", lambda world, seed, who: (who != "random", seed))

    def asked(*names: str) -> dict[tuple[str, str], float]:
        documents = [Document(n, (Part("row", {}), Part("action", "a")), "heldout") for n in names]
        found = FIELD.baselines(documents, documents, None)
        return {(score.name, score.metric.name): score.value for score in found}

    road, level, pole = "gymnasium:highway_env:x#3", f"{GOTO}#5", "gymnasium:CartPole-v1#7"
    commonest = {("commonest action", "accuracy"): 1.0}
    at_random = {("random", "success"): 0.0, ("random", "return"): 4.0}
    assert asked(road, level) == {
        **commonest,
        **at_random,
        ("bot and idm", "success"): 1.0,
        ("bot and idm", "return"): 4.0,
    }
    still = Document(f"{GOTO}#6", (Part("row", {}), Part("action", "IDLE")), "heldout")
    names = {score.name for score in FIELD.baselines([still], [still], None)}
    assert names == {"commonest action", "bot", "idle", "random"}
    assert asked(level, "a.jsonl@3") == asked("a.jsonl@3", level) == commonest
    assert asked("gymnasium:highway_env:x#1", pole) == {**commonest, **at_random}


def test_a_cell_that_is_neither_text_nor_numbers_is_named() -> None:
    with pytest.raises(SpecError, match=r"the cell at\.b of an observation"):
        gymnasium_worlds.described("x", {"at": {"a": 1, "b": object()}})


def test_the_way_out_is_learned_from_demonstrations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [corridor(n) for n in range(200)]
    for number, row in enumerate(rows):
        for seen in row["observations"]:
            seen["day"] = str(number % 50)  # which says nothing
    path = write(tmp_path / "a.jsonl", rows)
    entry = {"source": path, "field": "episodes"}
    session = miniature(monkeypatch, tmp_path / "home", entry, (90, 900), 60)
    scores = session.evaluate().metrics["scores"]
    assert scores.keys() == {"episodes"}  # nothing can be played
    assert scores["episodes"]["hf f32"] > 0.9 > scores["episodes"]["commonest action"]


def test_a_level_of_babyai_is_demonstrated_and_never_from_an_asked_seed() -> None:
    pytest.importorskip("minigrid", reason="needs the extra worlds")
    documents, _ = read(GOTO, episodes="12", asked="4")
    held = [d for d in documents if d.split == "heldout"]
    assert [d.name for d in held] == [f"{GOTO}#{10**8 + n}" for n in range(4)]
    seeds = {int(d.name.rpartition("#")[2].partition("+")[0]) for d in documents if d not in held}
    assert seeds == set(range(12))
    row = documents[0].parts[0].value
    assert [row["word 1"], row["word 2"], row["word 3"]] == ["go", "to", "the"]
    scores = {(s.name, s.metric): s.value for s in FIELD.baselines(documents, held, None)}
    assert scores["bot", SUCCESS] == 1.0
    assert read(GOTO, episodes="12", asked="4")[0] == documents


def test_worlds_without_a_teacher_or_of_no_name_are_told(tmp_path: Path) -> None:
    pytest.importorskip("gymnasium", reason="needs the extra worlds")
    with pytest.raises(SpecError, match="there is no environment CartPol-v1"):
        read("gymnasium:CartPol-v1")
    with pytest.raises(SpecError, match="no choice"):
        read("gymnasium:Pendulum-v1")
    with pytest.raises(SpecError, match=r"options\.teacher"):
        read("gymnasium:CartPole-v1")
    documents, _ = read("gymnasium:CartPole-v1", teacher="random", episodes="2", asked="1")
    assert documents[0].parts[0].value.keys() == {"[0]", "[1]", "[2]", "[3]"}
    with pytest.raises(SpecError, match="settings of an environment"):
        read("gymnasium:CartPole-v1?sutton")


def test_a_road_is_driven_with_settings_and_without_most_crashes() -> None:
    pytest.importorskip("highway_env", reason="needs the extra worlds")
    from whorl.fields.gymnasium_worlds import open_world
    from whorl.fields.teachers import demonstration

    world = open_world("highway_env:highway-fast-v0?config.duration=8&config.vehicles_count=6")
    assert {step.action for step in demonstration(world, "idle", 3)} == {"IDLE"}
    assert world.actions == ("LANE_LEFT", "IDLE", "LANE_RIGHT", "FASTER", "SLOWER")
    ends = []
    for seed in range(4):
        steps = list(demonstration(world, "auto", seed))
        assert len(steps) <= 8 and len(steps[0][0]) == 25
        ends.append(world.has_succeeded)
    assert sum(ends) >= 3
    world.close()


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("highway_env:highway-fast-v0?config.duration=12&config.vehicles_count=6", "highway_env"),
        ("minigrid:BabyAI-GoToLocal-v0", "minigrid"),
    ],
)
def test_what_is_done_astray_is_seen_and_not_learned(name: str, module: str) -> None:
    """What is learned is what the teacher does there: another one is led to the same places."""
    pytest.importorskip(module, reason="needs the extra worlds")
    from whorl.fields.teachers import _chooser

    with closing(gymnasium_worlds.open_world(name)) as world:
        straight = list(demonstration(world, "auto", 5))
        assert all(step.is_taught for step in straight)
        shown = [list(demonstration(world, "auto", seed, 0.4)) for seed in range(5, 15)]
        wrong = sum(not step.is_taught for steps in shown for step in steps)
        assert 0.2 < wrong / sum(map(len, shown)) < 0.6
        world.reset(5)
        choose, done = _chooser(world, "auto", 5), None
        for step in shown[0]:
            wanted = choose(done)
            assert not step.is_taught or step.action == wanted
            done = step.action
            world.step(done)
    documents, _ = read(f"gymnasium:{name}", episodes="10", asked="2", astray="0.4")
    train = [d for d in documents if d.split == "train"]
    actions = [part for d in train for part in d.parts if part.codec == "action"]
    assert {part.trained for part in actions} == {True, False}
    held = [part for d in documents if d.split == "heldout" for part in d.parts]
    assert all(part.trained for part in held if part.codec == "action")
