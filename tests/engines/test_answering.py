"""The engine's process tells the events of a turn in one line, and all of them."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest

from tests.engines.test_loop import ScriptedStepper
from whorl.core.ports import GenerateRequest, TokenEvent, TokenLogprob
from whorl.core.scoring import Continuations
from whorl.engines.answering import _obey, _Teller
from whorl.engines.limits import Limits
from whorl.engines.loop import EngineLoop
from whorl.engines.score_lines import questions_told


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
    for number, seconds in enumerate([0.5, 0.03, 0.004, 0.004, 0.004, 0.004]):
        now[0] += seconds
        teller.add(TokenEvent("a", (number,)))
        if number == 4:
            teller.add(TokenEvent("b", (9,)))  # its first, which nobody else's tokens go with
        teller.tell()
    assert sent == [[("a", 0)], [("a", 1)], [("b", 9)]]
    teller.add(TokenEvent("a", (), "length"))
    teller.tell()
    assert sent[3:] == [[("a", 2, 3, 4, 5)]]
    teller.tell()
    assert len(sent) == 4
    for number in range(10):  # 4 ms each: 25 ms after the last time that all were told, and again
        now[0] += 0.004
        teller.add(TokenEvent("b", (number,)))
        teller.tell()
    assert sent[4:] == [[("b", 0, 1, 2)], [("b", *range(3, 10))]]


def test_log_probabilities_stay_beside_their_tokens() -> None:
    rows: list[Any] = []
    teller = _Teller(lambda kind, told: rows.extend(told))
    for number in (5, 6):
        teller.add(
            TokenEvent("a", (number,), logprobs=(TokenLogprob(number, -0.5, ((number, -0.5),)),))
        )
    teller.tell()
    assert rows == [["a", [5, 6], None, None, [(5, -0.5, ((5, -0.5),)), (6, -0.5, ((6, -0.5),))]]]


class WatchingStepper(ScriptedStepper):
    """Does something at a step, and keeps (tokens made, tokens told) before what takes long."""

    def __init__(self, at_step: int, work: Callable[[], None], num_told: Callable[[], int]) -> None:
        super().__init__()
        self.at_step, self.work, self.num_told = at_step, work, num_told
        self.num_made, self.known = 0, set[str]()
        self.before_long: list[tuple[str, int, int]] = []

    def step(self) -> list[TokenEvent]:
        if new := self.left.keys() - self.known:
            self.before_long.append((*new, self.num_made, self.num_told()))
            self.known |= new
        if self.steps == self.at_step:
            self.work()
        events = super().step()
        self.num_made += len(events)
        return events

    def score(
        self, sequences: Sequence[Sequence[int]], prefix: Sequence[int] = ()
    ) -> list[np.ndarray[Any, Any]]:
        self.before_long.append(("score", self.num_made, self.num_told()))
        return super().score(sequences, prefix)


@pytest.mark.parametrize("long_one", ["second", "score"])
def test_what_is_kept_does_not_wait_for_a_prompt_or_a_score(
    monkeypatch: pytest.MonkeyPatch, long_one: str
) -> None:
    monkeypatch.setattr("whorl.engines.answering.TOGETHER_S", 1e9)  # the fastest model there is
    sent: list[Any] = []
    ended = threading.Event()

    def send(kind: str, *rest: Any) -> None:
        rows = rest[0] if kind == "events" else []
        sent.extend(rows)
        if any(row[0] == "first" and row[2] for row in rows):
            ended.set()

    def command(name: str, max_tokens: int) -> str:
        request = GenerateRequest(name, (1, 2), max_tokens=max_tokens, stop_ids=(3,))
        return json.dumps(["submit", asdict(request)])

    asked, may_go_on = threading.Event(), threading.Event()

    def interrupt() -> None:  # while the fifth token of the first request is made
        asked.set()
        assert may_go_on.wait(10)

    stepper = WatchingStepper(4, interrupt, lambda: sum(len(row[1]) for row in sent))
    limits = Limits(8, context_tokens=100, vocab_size=50, candidates_beside=True)
    engine = EngineLoop("scripted", "digest", stepper, limits)

    def commands() -> Iterator[str]:
        yield command("first", 20)
        assert asked.wait(10)
        if long_one == "score":
            yield json.dumps(["score", 1, questions_told([Continuations([1], [[4, 5]])])])
        else:
            yield command("second", 5)
        end_s = time.monotonic() + 10
        while not (engine._scoring or engine._waiting) and time.monotonic() < end_s:
            time.sleep(0.001)
        may_go_on.set()
        assert ended.wait(10)

    try:
        _obey(engine, commands(), send)
    finally:
        may_go_on.set()
        engine.close()
    assert stepper.before_long[:2] == [("first", 0, 0), (long_one, 5, 5)]
    assert len(sent) < 20  # others did wait for each other


def test_what_json_has_no_words_for_costs_its_request_alone() -> None:
    """An engine from outside may give NumPy's numbers, or nonsense."""

    class Odd(ScriptedStepper):
        def step(self) -> list[TokenEvent]:
            return [
                TokenEvent(
                    event.request_id,
                    (np.int64(7),) if event.request_id == "good" else (object(),),  # type: ignore[arg-type]
                    event.finish_reason,
                    None,
                    (TokenLogprob(np.int64(7), np.float32(-0.5), ((7, np.float32(-0.5)),)),),  # type: ignore[arg-type]
                )
                for event in super().step()
            ]

    stepper, sent, ended = Odd(), list[Any](), threading.Event()
    engine = EngineLoop("scripted", "digest", stepper, Limits(8, 100, 50))

    def send(kind: str, rows: Any) -> None:
        sent.extend(json.loads(json.dumps(rows)))
        if {row[0] for row in sent if row[2]} == {"good", "bad"}:
            ended.set()

    def commands() -> Iterator[str]:
        for name in ("bad", "good"):
            request = GenerateRequest(name, (1, 2), max_tokens=5, stop_ids=(3,))
            yield json.dumps(["submit", asdict(request)])
        assert ended.wait(10)

    _obey(engine, commands(), send)
    assert engine.failure is None and not stepper.left
    engine.close()
    good = [row for row in sent if row[0] == "good"]
    assert [number for row in good for number in row[1]] == [7] * 5 and good[-1][2] == "length"
    assert good[0][4] == [[7, -0.5, [[7, -0.5]]]]
    (bad,) = [row for row in sent if row[0] == "bad"]
    assert bad[1:3] == [[], "error"] and "int()" in bad[3]


def test_scores_that_are_none_are_an_answer_too() -> None:
    class Odd:
        failure = None

        def score(self, rows: Any, prefix: Any) -> list[Any]:
            return [object()]

    sent: list[Any] = []

    def commands() -> Iterator[str]:
        yield json.dumps(["score", 3, questions_told([Continuations([], [[1]])])])
        end_s = time.monotonic() + 10
        while not sent and time.monotonic() < end_s:
            time.sleep(0.001)

    _obey(Odd(), commands(), lambda *message: sent.append(message))
    assert [message[:2] for message in sent] == [("failed", 3)]
