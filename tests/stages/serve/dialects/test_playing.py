"""/v1/play: a model acts in a corridor, step by step; nothing but its own worlds is opened."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from tests.stages.serve.conftest import Running, Start
from whorl.codecs.contract import Tokens
from whorl.codecs.label import LabelCodec
from whorl.codecs.parts import token_space
from whorl.codecs.table import Column, TableCodec
from whorl.core.environments import Observation, PlayTask, Reaction, Step
from whorl.core.errors import DataError, MissingExtra
from whorl.core.ports import Part
from whorl.stages.serve.card import TaskCard
from whorl.testing.worlds import FakeEnvironment

WORLD = "gymnasium:corridor"
PLACES = [float(n) for n in range(-3, 3)]  # at the right end there is something never seen


@dataclass
class Corridor(FakeEnvironment):
    """Its lamp is always right; tells how often it was opened and closed."""

    opened: list[str] = field(default_factory=list)
    step_s: float = 0.0

    def step(self, action: str) -> Reaction:
        time.sleep(self.step_s)
        return super().step(action)

    def close(self) -> None:
        self.opened.remove("corridor")

    def scene(self) -> dict[str, Any]:
        return {"kind": "grid", "width": 7, "height": 1, "agent": [self.place + 3, 0, 0]}


def ask(steps: Sequence[Step], seen: Observation) -> tuple[Part, ...]:
    before = [p for row, action in steps[-2:] for p in (Part("row", row), Part("action", action))]
    return (*before, Part("row", seen))


@pytest.fixture(scope="module")
def acting() -> Tokens:
    columns = (Column.of_words("lamp", ["left", "right"]), Column.of_numbers("place", PLACES, 9))
    actions = LabelCodec(["left", "right", "wait"], "action")  # of another world
    return Tokens.build({"row": TableCodec(columns), "action": actions}, 64)


@pytest.fixture
def opened() -> list[str]:
    return []


@pytest.fixture
def server(start: Start, acting: Tokens, opened: list[str]) -> Iterator[Running]:
    """An engine that goes right two times of three, and likes to wait best of all."""

    def open_world(name: str) -> tuple[Corridor, int] | None:
        world, _, seed = name.rpartition("#")
        if world == "gymnasium:missing":
            raise MissingExtra.of("gymnasium", "worlds", "an environment")
        opened.append("corridor")
        return Corridor(opened=opened), int(seed)

    with start(contract=acting) as running:
        served = running.gateway.served
        card = TaskCard(
            field="episodes", asked=("row",), answer="action", worlds=(WORLD, "gymnasium:missing")
        )
        served.card = served.card.model_copy(update={"tasks": (card,)})
        served.plays = {"episodes": PlayTask(open_world=open_world, ask=ask)}
        running.engine.asked = []  # type: ignore[attr-defined]
        ids = token_space(acting).ranges["action"]
        likes = dict(zip(ids, np.log([0.2, 0.4, 0.9]), strict=True))

        def score(sequences: Sequence[Sequence[int]], prefix: Sequence[int] = ()) -> list[Any]:
            running.engine.asked.append(tuple(prefix))  # type: ignore[attr-defined]
            return [np.array([likes[i] for i in ids]) for ids in sequences]

        running.engine.score = score  # type: ignore[method-assign]
        yield running


def play(server: Running, **fields: Any) -> Any:
    return server.client.post("/v1/play", json={"model": "tiny", "seed": 1, **fields})


def test_it_acts_as_it_is_asked_and_ends_with_the_world(
    server: Running, acting: Tokens, opened: list[str]
) -> None:
    told = play(server, steps=32).json()
    assert told["frames"][0]["actions"] == ["left", "right"] and told["world"] == WORLD
    assert told["frames"][-1]["actions"] == []  # it has ended
    first, *frames = told["frames"]
    assert first["observation"] == {"lamp": "right", "place": 0} and first["action"] is None
    assert [frame["action"] for frame in frames] == ["right"] * 3
    assert [frame["observation"]["place"] for frame in frames] == [1, 2, 3]
    shares = [[each["probability"] for each in frame["choices"]] for frame in frames]
    assert np.allclose(shares, [[2 / 3, 1 / 3]] * 3)
    assert [frame["scene"]["agent"][0] for frame in told["frames"]] == [3, 4, 5, 6]
    assert [frame["has_ended"] for frame in frames] == [False, False, True]
    assert frames[-1]["has_succeeded"] and frames[-1]["total"] == 1 and told["num_steps"] == 3
    rows = [{"lamp": "right", "place": float(n)} for n in range(3)]
    parts = ask([(row, "right") for row in rows[:2]], rows[2])
    asked = (*acting.contract.start_ids, *acting.encode_parts(parts))
    assert server.engine.asked[-1] == asked  # type: ignore[attr-defined]
    assert told["usage"]["prompt_tokens"] == sum(map(len, server.engine.asked))  # type: ignore[attr-defined]
    assert server.wait_until(lambda: not opened and server.gateway.inside == 0)


def test_a_field_s_own_names_of_codecs_are_those_of_the_contract(
    start: Start, acting: Tokens
) -> None:
    """Two fields call their codecs alike: the one that acts is asked by its own."""
    row, action = acting.codecs["row"], acting.codecs["action"]
    assert isinstance(row, TableCodec) and isinstance(action, LabelCodec)
    other = TableCodec((Column.of_words("price", ["high", "low"]),), "table.row")
    mine = TableCodec(row.columns, "episodes.row"), LabelCodec(action.labels, "episodes.action")
    codecs = {codec.name: codec for codec in (other, *mine, LabelCodec(["a"], "table.action"))}
    tokens = Tokens.build(codecs, 160)
    card = TaskCard(
        field="episodes", asked=("episodes.row",), answer="episodes.action", worlds=(WORLD,)
    )
    asked: list[tuple[int, ...]] = []

    def score(sequences: Sequence[Sequence[int]], prefix: Sequence[int] = ()) -> list[Any]:
        asked.append(tuple(prefix))
        return [np.zeros(1) for _ in sequences]

    with start(contract=tokens) as running:
        served = running.gateway.served
        served.card = served.card.model_copy(update={"tasks": (card,)})
        served.plays = {
            "episodes": PlayTask(open_world=lambda name: (FakeEnvironment(), 1), ask=ask)
        }
        running.engine.score = score  # type: ignore[method-assign]
        told = play(running, steps=2).json()
    assert [frame["action"] for frame in told["frames"]] == [None, "left", "left"]
    parts = ask([({"lamp": "right", "place": 0.0}, "left")], {"lamp": "right", "place": -1.0})
    renamed = [Part(f"episodes.{part.codec}", part.value) for part in parts]
    assert asked[-1] == (*tokens.contract.start_ids, *tokens.encode_parts(renamed))


def test_what_was_done_is_done_again_whoever_did_it(server: Running) -> None:
    told = play(server, actions=["left", "right", "right"], steps=1).json()
    assert [frame["observation"]["place"] for frame in told["frames"]] == [1, 2]
    assert told["frames"][0]["action"] == "right" and not told["frames"][0]["choices"]
    assert told["num_steps"] == 4
    only = play(server, actions=["left"], steps=0).json()
    assert [frame["observation"]["place"] for frame in only["frames"]] == [-1]
    ended = play(server, actions=["right"] * 3, steps=5).json()
    assert len(ended["frames"]) == 1 and ended["frames"][0]["has_ended"]


def test_what_the_model_cannot_read_ends_its_part(server: Running) -> None:
    server.gateway.served.plays["episodes"] = PlayTask(  # type: ignore[index]
        open_world=lambda name: (FakeEnvironment(lamp="blue"), 1), ask=_odd
    )
    told = play(server, steps=3).json()
    assert "there is no column 'smell'" in told["fault"] and len(told["frames"]) == 1


def _odd(steps: Sequence[Step], seen: Observation) -> tuple[Part, ...]:
    return (Part("row", {"smell": 1.0}),)


@pytest.mark.parametrize(
    ("fields", "status", "told"),
    [
        ({"world": "gymnasium:os:system-v0"}, 400, "this model was taught to act in"),
        ({"world": "gymnasium:missing"}, 501, "worlds"),
        ({"actions": ["fly"]}, 400, "actions[0]: the corridor takes no such action"),
        ({"actions": ["right"] * 3 + ["left"] * 6}, 400, "actions[8]"),
        ({"actions": ["left"] * 501}, 400, "actions"),
        ({"steps": 33}, 400, "steps"),
        ({"steps": -1}, 400, "steps"),
        ({"seed": -1}, 400, "seed"),
        ({"seed": 2**40}, 400, "seed"),
        ({"model": "other"}, 404, "there is no model"),
        ({"wrold": WORLD}, 400, "wrold"),
    ],
)
def test_what_is_wrong_is_refused_by_name(
    server: Running, opened: list[str], fields: dict[str, Any], status: int, told: str
) -> None:
    answer = play(server, **fields)
    assert answer.status_code == status and told in answer.json()["error"]["message"], answer.text
    assert server.wait_until(lambda: not opened)


def test_a_model_of_no_world_is_told_so(server: Running) -> None:
    server.gateway.served.plays = {}
    assert "not taught to act" in play(server).json()["error"]["message"]


def test_an_environment_that_fails_is_no_secret(server: Running) -> None:
    def broken(name: str) -> None:
        raise DataError("the road is closed")

    server.gateway.served.plays = {"episodes": PlayTask(open_world=broken, ask=ask)}
    answer = play(server)
    assert answer.status_code == 503 and "the road is closed" in answer.text


def test_a_deadline_ends_it_and_the_world_is_closed(server: Running, opened: list[str]) -> None:
    def slow(name: str) -> tuple[Corridor, int]:
        opened.append("corridor")
        return Corridor(opened=opened, step_s=0.2), 1

    server.gateway.served.plays = {"episodes": PlayTask(open_world=slow, ask=ask)}
    headers = {"x-request-timeout": "0.3"}
    body = {"model": "tiny", "seed": 1, "actions": ["left", "right"] * 4, "steps": 0}
    begin_s = time.monotonic()
    answer = server.client.post("/v1/play", json=body, headers=headers)
    assert answer.status_code == 504 and time.monotonic() - begin_s < 1.0
    assert server.wait_until(lambda: not opened)


def test_few_are_played_at_once(server: Running, opened: list[str]) -> None:
    go_on = threading.Event()

    def waiting(name: str) -> tuple[Corridor, int]:
        go_on.wait(5)
        opened.append("corridor")
        return Corridor(opened=opened), 1

    server.gateway.served.plays = {"episodes": PlayTask(open_world=waiting, ask=ask)}
    answers: list[int] = []
    threads = [
        threading.Thread(target=lambda: answers.append(play(server, steps=1).status_code))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    assert server.wait_until(lambda: len(answers) == 2)
    assert answers == [429, 429]
    go_on.set()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [200] * 4 + [429] * 2
    assert server.wait_until(lambda: not opened)
