"""The loop alone, driven by a scripted stepper: order, places, failures, closing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from whorl.core.collect import run_requests
from whorl.core.errors import EngineError
from whorl.core.ports import Engine, GenerateRequest, TokenEvent
from whorl.engines.limits import Limits
from whorl.engines.loop import EngineLoop


class ScriptedStepper:
    """Says 7 until max_tokens; can be made to wait, to refuse or to break."""

    def __init__(self) -> None:
        self.left: dict[str, int] = {}
        self.gate = threading.Event()
        self.gate.set()
        self.break_step = self.break_score = False
        self.refused: set[str] = set()
        self.most_running = 0
        self.room_tokens = 1_000
        self.mixed_scores = 0
        self.score_sizes: list[int] = []
        self.closed = False
        self.steps = 0

    def add(self, request: GenerateRequest) -> bool:
        if request.request_id in self.refused:
            raise EngineError("refused by the model")
        if sum(self.left.values()) + request.max_tokens > self.room_tokens:
            return False
        self.left[request.request_id] = request.max_tokens
        return True

    def cancel(self, request_id: str) -> None:
        self.left.pop(request_id, None)

    def step(self) -> list[TokenEvent]:
        self.gate.wait(10)
        if self.break_step:
            raise RuntimeError("kernel fell over")
        self.steps += 1
        self.most_running = max(self.most_running, len(self.left))
        events = []
        for name in list(self.left):
            self.left[name] -= 1
            events.append(TokenEvent(name, (7,), None if self.left[name] else "length"))
            if not self.left[name]:
                del self.left[name]
        return events

    def score(
        self, sequences: Sequence[Sequence[int]], prefix: Sequence[int] = ()
    ) -> list[NDArray[np.float64]]:
        self.mixed_scores += bool(self.left)
        self.score_sizes.append(len(sequences))
        if self.break_score:
            raise RuntimeError("score fell over")
        return [-np.asarray(ids[1:], dtype=np.float64) for ids in sequences]

    def close(self) -> None:
        self.closed = True


class Events(list[TokenEvent]):
    def __init__(self) -> None:
        super().__init__()
        self.ended = threading.Event()

    def __call__(self, event: TokenEvent) -> None:
        self.append(event)
        if event.finish_reason:
            self.ended.set()


@pytest.fixture
def stepper() -> ScriptedStepper:
    return ScriptedStepper()


def make(stepper: ScriptedStepper, max_running: int = 2) -> EngineLoop:
    return EngineLoop("scripted", "digest", stepper, Limits(max_running, 100, 50, 3))


def ask(name: str, max_tokens: int = 5) -> GenerateRequest:
    return GenerateRequest(name, (1, 2), max_tokens)


def test_is_an_engine(stepper: ScriptedStepper) -> None:
    loop = make(stepper)
    assert isinstance(loop, Engine)
    loop.close()


def test_places_are_limited_and_all_are_served(stepper: ScriptedStepper) -> None:
    loop = make(stepper, max_running=3)
    answers = run_requests(loop, [ask(str(i), 1 + i % 4) for i in range(20)])
    assert [len(a.token_ids) for a in answers] == [1 + i % 4 for i in range(20)]
    assert stepper.most_running == 3
    assert loop.stats().generated_tokens == sum(1 + i % 4 for i in range(20))
    loop.close()
    assert stepper.closed


def test_requests_wait_for_room_in_their_order(stepper: ScriptedStepper) -> None:
    stepper.room_tokens = 10
    loop = make(stepper, max_running=5)
    answers = run_requests(loop, [ask(str(i), 2 + i % 8) for i in range(20)])
    assert [len(a.token_ids) for a in answers] == [2 + i % 8 for i in range(20)]
    starts = [answer.first_token_s or 0.0 for answer in answers]
    assert starts == sorted(starts)
    loop.close()


def test_request_without_room_on_an_idle_engine_is_an_error(stepper: ScriptedStepper) -> None:
    stepper.room_tokens = 3
    loop = make(stepper)
    with pytest.raises(EngineError, match="no room"):
        run_requests(loop, [ask("big", 4)])
    loop.close()


def test_stats_tell_a_stall(stepper: ScriptedStepper) -> None:
    loop = make(stepper, max_running=1)
    assert loop.stats().last_token_age_s is None
    stepper.gate.clear()
    first, second = Events(), Events()
    loop.submit(ask("first"), first)
    loop.submit(ask("second"), second)
    deadline = time.monotonic() + 10
    while loop.stats().running == 0 and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(0.05)
    stats = loop.stats()
    assert (stats.running, stats.waiting) == (1, 1)
    assert stats.last_token_age_s is not None and stats.last_token_age_s >= 0.05
    stepper.gate.set()
    assert second.ended.wait(10)
    assert loop.stats().last_token_age_s is None
    loop.close()


def test_waiting_request_can_be_cancelled(stepper: ScriptedStepper) -> None:
    loop = make(stepper, max_running=1)
    stepper.gate.clear()
    first, second = Events(), Events()
    loop.submit(ask("first"), first)
    loop.submit(ask("second"), second)
    loop.cancel("second")
    loop.cancel("unknown")
    stepper.gate.set()
    assert second.ended.wait(10) and first.ended.wait(10)
    assert [e.finish_reason for e in second] == ["cancelled"]
    assert len(first) == 5
    again = Events()
    loop.submit(ask("second"), again)  # the name is free again, and not cancelled
    assert again.ended.wait(10) and again[-1].finish_reason == "length"
    loop.close()


def test_late_cancel_does_not_hit_the_next_request_of_that_name(stepper: ScriptedStepper) -> None:
    loop = make(stepper)
    for _ in range(50):
        events = Events()
        loop.submit(ask("name", 1), events)
        assert events.ended.wait(10)
        loop.cancel("name")
        assert events[-1].finish_reason == "length"
    loop.close()


def test_step_that_raises_ends_every_request(stepper: ScriptedStepper) -> None:
    loop = make(stepper, max_running=1)
    stepper.gate.clear()
    running, waiting = Events(), Events()
    loop.submit(ask("running"), running)
    loop.submit(ask("waiting"), waiting)
    stepper.break_step = True
    stepper.gate.set()
    assert running.ended.wait(10) and waiting.ended.wait(10)
    for events in (running, waiting):
        assert events[-1].finish_reason == "error" and "kernel fell over" in str(events[-1].error)
    with pytest.raises(EngineError, match="kernel fell over"):
        loop.submit(ask("late"), Events())
    with pytest.raises(EngineError, match="kernel fell over"):
        loop.score([(1, 2)])
    loop.close()
    assert stepper.closed


def test_one_refused_request_leaves_the_others_alone(stepper: ScriptedStepper) -> None:
    loop = make(stepper)
    stepper.refused = {"bad"}
    bad, good = Events(), Events()
    loop.submit(ask("bad"), bad)
    loop.submit(ask("good"), good)
    assert bad.ended.wait(10) and good.ended.wait(10)
    assert bad[-1].finish_reason == "error" and "refused by the model" in str(bad[-1].error)
    assert len(good) == 5
    loop.close()


def test_listener_that_raises_loses_its_request_only(stepper: ScriptedStepper) -> None:
    loop = make(stepper)
    good = Events()

    def broken(event: TokenEvent) -> None:
        raise ValueError("listener")

    loop.submit(ask("broken", 40), broken)
    loop.submit(ask("good", 20), good)
    assert good.ended.wait(10) and len(good) == 20
    assert loop.stats().running == 0 and not stepper.left
    loop.close()


def test_a_telling_of_turns_that_fails_leaves_nothing_open(stepper: ScriptedStepper) -> None:
    loop, found = make(stepper), Events()

    def fails() -> None:
        raise OSError("nobody listens")

    loop.on_turn = fails
    loop.submit(ask("a"), found)
    assert found.ended.wait(10) and found[-1].finish_reason == "error"
    assert _soon(lambda: stepper.closed)
    assert loop.failure == "OSError: nobody listens"


def test_scores_never_share_a_step_and_do_not_starve(stepper: ScriptedStepper) -> None:
    loop = make(stepper, max_running=2)
    stop = threading.Event()
    served = []

    def traffic(number: int) -> None:
        count = 0
        while not stop.is_set():
            run_requests(loop, [ask(f"{number}-{count}", 3)])
            count += 1
        served.append(count)

    threads = [threading.Thread(target=traffic, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    sequences = [(1, *range(i % 9)) for i in range(20)]
    for _ in range(10):
        scores = loop.score(sequences)
        assert [s.tolist() for s in scores] == [[-float(i) for i in ids[1:]] for ids in sequences]
    stop.set()
    for thread in threads:
        thread.join(10)
    assert stepper.mixed_scores == 0 and max(stepper.score_sizes) == 3
    assert min(served) > 0
    loop.close()


@pytest.mark.parametrize("beside", [False, True])
def test_candidates_after_a_prefix_need_not_wait_for_answers(
    stepper: ScriptedStepper, beside: bool
) -> None:
    """Else they would wait for the longest answer, and every new request for them."""
    limits = Limits(4, 100, 50, candidates_together=2, candidates_beside=beside)
    loop = EngineLoop("scripted", "digest", stepper, limits)
    stepper.gate.clear()
    long, short = Events(), Events()
    loop.submit(ask("long", 90), long)
    assert _soon(lambda: loop.stats().running == 1)
    scorer = threading.Thread(target=lambda: loop.score([(1, 2)] * 6, (3,)))
    scorer.start()
    assert _soon(lambda: len(loop._scoring) == 3)
    loop.submit(ask("short", 2), short)
    stepper.gate.set()
    assert short.ended.wait(10) and long.ended.wait(10)
    scorer.join(10)
    loop.close()
    assert len(long) == 90 and len(short) == 2 and stepper.score_sizes == [2, 2, 2]
    assert stepper.mixed_scores == (3 if beside else 0)


def _soon(condition: Callable[[], bool]) -> bool:
    end_s = time.monotonic() + 5
    while not condition() and time.monotonic() < end_s:
        time.sleep(0.002)
    return condition()


def test_broken_score_is_an_error_for_all_who_wait(stepper: ScriptedStepper) -> None:
    loop = make(stepper)
    stepper.break_score = True
    with pytest.raises(EngineError, match="scoring failed"):
        loop.score([(1, 2)])
    with pytest.raises(EngineError):
        loop.submit(ask("late"), Events())
    loop.close()


def test_score_from_an_event_is_refused(stepper: ScriptedStepper) -> None:
    loop = make(stepper)
    caught: list[str] = []
    ended = threading.Event()

    def on_event(event: TokenEvent) -> None:
        try:
            loop.score([(1, 2)])
        except EngineError as error:
            caught.append(str(error))
        ended.set()

    loop.submit(ask("x", 1), on_event)
    assert ended.wait(10) and "wait for itself" in caught[0]
    loop.close()


def test_close_cancels_what_runs_and_waits(stepper: ScriptedStepper) -> None:
    loop = make(stepper, max_running=1)
    stepper.gate.clear()
    events = [Events(), Events()]
    for number, listener in enumerate(events):
        loop.submit(ask(str(number), 90), listener)
    closer = threading.Thread(target=loop.close)
    closer.start()
    stepper.gate.set()
    closer.join(10)
    loop.close()
    assert [e[-1].finish_reason for e in events] == ["cancelled", "cancelled"]
    with pytest.raises(EngineError, match="closed"):
        loop.submit(ask("late"), Events())
    with pytest.raises(EngineError, match="closed"):
        loop.score([(1, 2)])


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (GenerateRequest("a", (), 5), "empty"),
        (GenerateRequest("a", (1,), 0), "max_tokens"),
        (GenerateRequest("a", (1,) * 96, 5), "too long"),
        (GenerateRequest("a", (1, 50), 5), "outside the vocabulary"),
        (GenerateRequest("a", (-1,), 5), "outside the vocabulary"),
    ],
)
def test_impossible_requests_are_refused(
    request_: GenerateRequest, message: str, stepper: ScriptedStepper
) -> None:
    loop = make(stepper)
    with pytest.raises(EngineError, match=message):
        loop.submit(request_, Events())
    loop.close()


def test_two_requests_of_one_name_are_refused(stepper: ScriptedStepper) -> None:
    loop = make(stepper)
    stepper.gate.clear()
    events = Events()
    loop.submit(ask("twin"), events)
    with pytest.raises(EngineError, match="running already"):
        loop.submit(ask("twin"), Events())
    stepper.gate.set()
    assert events.ended.wait(10)
    loop.close()


def test_run_requests_reports_a_stall(stepper: ScriptedStepper) -> None:
    loop = make(stepper)
    stepper.gate.clear()
    with pytest.raises(EngineError, match="in time"):
        run_requests(loop, [ask("slow")], timeout_s=0.05)
    stepper.gate.set()
    loop.close()
