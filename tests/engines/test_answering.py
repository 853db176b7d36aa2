"""The engine's process tells the events of a turn in one line, and all of them."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import pytest

from tests.engines.test_loop import ScriptedStepper
from whorl.core.ports import GenerateRequest, TokenEvent, TokenLogprob
from whorl.engines.answering import _obey, _Teller
from whorl.engines.limits import Limits
from whorl.engines.loop import EngineLoop


def test_events_of_a_turn_go_in_one_line() -> None:
    stepper = ScriptedStepper()
    stepper.refused = {"r9"}
    limits = Limits(max_running=8, context_tokens=100, vocab_size=50)
    engine = EngineLoop("scripted", "digest", stepper, limits)
    sent: list[tuple[Any, ...]] = []
    ended = threading.Event()

    def send(*message: Any) -> None:
        sent.append(json.loads(json.dumps(message)))
        rows = [row for kind, rows in sent for row in rows if kind == "events"]
        if sum(row[2] is not None for row in rows) == 6:
            ended.set()

    def commands() -> Iterator[str]:
        stepper.gate.clear()
        for number in (0, 1, 2, 3, 9):
            request = GenerateRequest(f"r{number}", (1, 2), max_tokens=5, stop_ids=(3,))
            yield json.dumps(["submit", asdict(request)])
        too_long = GenerateRequest("long", (1,) * 200, max_tokens=5, stop_ids=(3,))
        yield json.dumps(["submit", asdict(too_long)])
        stepper.gate.set()
        assert ended.wait(10)

    try:
        _obey(engine, commands(), send)
    finally:
        stepper.gate.set()
        engine.close()
    rows = [row for _, rows in sent for row in rows]
    for number in range(4):
        mine = [row for row in rows if row[0] == f"r{number}"]
        assert mine[0][1] == [7]  # the first token at once
        assert [number for row in mine for number in row[1]] == [7] * 5
        assert [row[2] for row in mine] == [None] * (len(mine) - 1) + ["length"]
    assert {row[0] for row in rows if row[2] == "error"} == {"r9", "long"}
    # a line a turn at most: twenty tokens of four requests, and two refusals
    assert len(sent) <= stepper.steps + 2 and stepper.steps < 20


def test_tokens_of_slow_turns_are_told_turn_by_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("whorl.engines.answering.time.monotonic", lambda: now[0])
    sent: list[list[Any]] = []
    teller = _Teller(lambda kind, rows: sent.append([(row[0], *row[1]) for row in rows]))
    for number, seconds in enumerate([0.5, 0.02, 0.004, 0.004, 0.004, 0.004]):
        now[0] += seconds
        teller.add(TokenEvent("a", (number,)))
        if number == 4:
            teller.add(TokenEvent("b", (9,)))  # its first: everything goes
        teller.tell()
    assert sent == [[("a", 0)], [("a", 1)], [("a", 2, 3, 4), ("b", 9)]]
    teller.add(TokenEvent("a", (), "length"))
    teller.tell()
    assert sent[3:] == [[("a", 5)]]
    teller.tell()
    assert len(sent) == 4


def test_log_probabilities_stay_beside_their_tokens() -> None:
    rows: list[Any] = []
    teller = _Teller(lambda kind, told: rows.extend(told))
    for number in (5, 6):
        teller.add(
            TokenEvent("a", (number,), logprobs=(TokenLogprob(number, -0.5, ((number, -0.5),)),))
        )
    teller.tell()
    assert rows == [["a", [5, 6], None, None, [(5, -0.5, ((5, -0.5),)), (6, -0.5, ((6, -0.5),))]]]
