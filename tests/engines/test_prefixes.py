"""Beginnings that requests share are computed once, and nobody learns of another's by the clock.

What is looked at is the number of steps until the first token: a prompt of 160 ids takes five
steps of 32, one whose beginning is known takes one.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from whorl.core.ports import GenerateRequest
from whorl.engines.openvino_engine import OpenvinoStepper
from whorl.engines.setup import EngineSetup
from whorl.model.folder import read_card

pytest.importorskip("openvino_genai")


@pytest.fixture
def stepper(folders: Path) -> Iterator[OpenvinoStepper]:
    setup = EngineSetup(max_running=4, shares_prefixes=True, batched_tokens=32, threads=1)
    opened = OpenvinoStepper(folders / "f32", read_card(folders / "f32"), setup)
    yield opened
    opened.close()


def ask(stepper: OpenvinoStepper, ids: tuple[int, ...], key: str) -> tuple[int, list[int]]:
    """(steps until the first token, the answer)."""
    request = GenerateRequest(f"{key}-{len(ids)}", ids, 4, cache_key=key)
    assert stepper.add(request)
    steps, first, answer = 0, 0, list[int]()
    while True:
        steps += 1
        for event in stepper.step():
            first = first or steps
            answer += event.token_ids
            if event.finish_reason is not None:
                return first, answer


def prompt(seed: int) -> tuple[int, ...]:
    return tuple(np.random.default_rng(seed).integers(20, 380, 160).tolist())


def test_the_same_beginning_is_read_once(stepper: OpenvinoStepper) -> None:
    slow, first = ask(stepper, prompt(1), "a")
    fast, second = ask(stepper, (*prompt(1), 33), "a")
    again, third = ask(stepper, prompt(1), "a")
    assert (slow, fast, again) == (5, 1, 1)
    assert first == third and second != []
    assert ask(stepper, prompt(2), "a")[0] == 5


def test_another_key_learns_nothing(stepper: OpenvinoStepper, folders: Path) -> None:
    """Not of what was asked before it came, nor later; and the first learns nothing of it."""
    _, expected = ask(stepper, prompt(1), "a")
    assert ask(stepper, prompt(1), "a")[0] == 1
    steps, answer = ask(stepper, prompt(1), "b")
    assert steps == 5 and answer == expected
    for key in ("b", "a", "c", "a", ""):
        assert ask(stepper, prompt(1), key) == (5, expected)


def test_a_second_key_waits_until_nothing_of_the_first_runs(stepper: OpenvinoStepper) -> None:
    assert stepper.add(GenerateRequest("first", prompt(1), 6, cache_key="a"))
    second = GenerateRequest("second", prompt(1), 6, cache_key="b")
    assert not stepper.add(second)
    while not any(event.finish_reason for event in stepper.step()):
        assert not stepper.add(second)
    assert stepper.add(second)


def test_scores_do_not_change_by_what_is_known(stepper: OpenvinoStepper, folders: Path) -> None:
    ids = prompt(3)
    before = stepper.score([ids])[0]
    ask(stepper, ids, "a")
    after = stepper.score([ids])[0]
    assert len(before) == len(ids) - 1 and np.array_equal(before, after)


def test_many_beginnings_more_than_there_is_room_for(stepper: OpenvinoStepper) -> None:
    """Those that were asked least lately give way; answers are what they were."""
    expected = [ask(stepper, prompt(seed), "a")[1] for seed in range(12)]
    assert [ask(stepper, prompt(seed), "a")[1] for seed in range(12)] == expected
