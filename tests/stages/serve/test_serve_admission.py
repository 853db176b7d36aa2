"""Places, predicted waits and Retry-After, beside a simulated engine that knows none of them."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import pytest

from whorl.spec.resolved import ServeConfig
from whorl.stages.serve.admission import Admission, Ticket
from whorl.stages.serve.errors import ApiError

STEP_S = 0.05


@dataclass
class SimulatedEngine:
    """Gives each of the oldest max_running requests one token a step."""

    config: ServeConfig
    now_s: float = 100.0
    requests: list[tuple[Ticket, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.waits_s: list[float] = []
        self.admission = Admission(self.config, self.waits_s.append, lambda: self.now_s)

    def ask(self, who: str, max_tokens: int, deadline_s: float = 600.0) -> None:
        (ticket,) = self.admission.enter(who)
        self.admission.price([ticket], [(4, max_tokens)], deadline_s)
        self.requests.append((ticket, max_tokens))

    def step(self) -> None:
        self.now_s += STEP_S
        kept = []
        for number, (ticket, left) in enumerate(self.requests):
            runs = number < self.config.max_running
            if runs:
                self.admission.progress(ticket, 1)
            if left - runs <= 0:
                self.admission.leave(ticket)
            else:
                kept.append((ticket, left - runs))
        self.requests = kept


def retry_after(error: ApiError) -> int:
    assert error.status == 429
    return int(error.headers["Retry-After"])


@pytest.mark.parametrize(
    ("clients", "waiting", "most"), [(12, 4, 0.0), (30, 4, 0.15), (30, 16, 0.0), (60, 16, 0.05)]
)
@pytest.mark.parametrize("seed", range(2))
def test_clients_that_come_back_when_they_are_told_get_in(
    clients: int, waiting: int, most: float, seed: int
) -> None:
    """Each asks, obeys, and asks again when it was answered; without Retry-After most would be
    refused again: there are places for a fifth of them."""
    chooser = random.Random(seed)
    engine = SimulatedEngine(ServeConfig(max_running=waiting // 2 + 2, max_waiting=waiting))
    due = {f"client {number}": engine.now_s + chooser.random() for number in range(clients)}
    came_back: dict[str, bool] = dict.fromkeys(due, False)
    refused_again = answered = told = 0
    for _ in range(2000):
        for who, when_s in list(due.items()):
            if engine.now_s < when_s:
                continue
            try:
                engine.ask(who, chooser.randrange(5, 40))
            except ApiError as error:
                told += 1
                refused_again += came_back[who]
                came_back[who] = True
                due[who] = engine.now_s + retry_after(error) + chooser.random() * 0.2
            else:
                answered += 1
                came_back[who] = False
                due[who] = engine.now_s + 1.0 + chooser.random()
        engine.step()
    assert told > 50 and answered > 100
    assert refused_again <= most * told, f"{refused_again} of {told} were refused again"


@pytest.mark.parametrize("flood", [1, 10])
def test_one_who_asks_without_waiting_keeps_no_other_out(flood: int) -> None:
    """Four obey, a fifth asks at every step: none of the four is kept out."""
    chooser = random.Random(1)
    engine = SimulatedEngine(ServeConfig(max_running=4, max_waiting=16))
    due = {f"key {number}": engine.now_s for number in range(4)}
    answered = dict.fromkeys([*due, "flood"], 0)
    for _ in range(4000):
        for who in [*["flood"] * flood, *(who for who in due if engine.now_s >= due[who])]:
            try:
                engine.ask(who, 20)
            except ApiError as error:
                if who in due:
                    due[who] = engine.now_s + retry_after(error) + chooser.random() * 0.2
            else:
                answered[who] += 1
                if who in due:
                    due[who] = engine.now_s + 1.0
        engine.step()
    # 4000 steps of 4 tokens, 20 an answer: 800, of which those who wait to be told get some each
    assert sum(answered.values()) == pytest.approx(800, abs=40)
    assert all(answered[who] >= 20 for who in due), answered


def test_the_count_of_places_is_never_passed_and_comes_back() -> None:
    engine = SimulatedEngine(ServeConfig(max_running=2, max_waiting=3))
    for number in range(5):
        engine.ask(f"{number}", 10)
    with pytest.raises(ApiError, match="5 requests run or wait"):
        engine.ask("late", 10)
    assert (engine.admission.inside, engine.admission.waiting) == (5, 3)
    while engine.requests:
        engine.step()
    assert (engine.admission.inside, engine.admission.waiting) == (0, 0)
    assert engine.admission.left_tokens == 0
    # 10 steps of 50 ms for each pair: places came after 0, 0, 0.5, 0.5 and 1 s
    assert engine.waits_s == pytest.approx([0, 0, 0.5, 0.5, 1.0])


def test_who_would_wait_too_long_is_refused_and_told_when() -> None:
    engine = SimulatedEngine(ServeConfig(max_running=2, max_waiting=100, max_wait=4.0))
    engine.ask("first", 100)
    engine.ask("second", 100)
    for _ in range(40):  # 2 s at 2 tokens per 50 ms
        engine.step()
    assert engine.admission.tokens_per_s == pytest.approx(40 + 4, rel=0.1)  # prompts too
    engine.ask("third", 100)  # 120 tokens are left: about 3 s
    with pytest.raises(ApiError, match="would wait") as caught:
        engine.ask("fourth", 100)
    assert caught.value.code == "queue_too_long"
    after_s = retry_after(caught.value)
    assert 1 <= after_s <= 5
    for _ in range(round(after_s / STEP_S)):
        engine.step()
    engine.ask("fourth", 100)


def busy_engine(config: ServeConfig, tokens: int) -> SimulatedEngine:
    """Full of requests of so many tokens for 4 s: its speed is known."""
    engine = SimulatedEngine(config)
    for number in range(config.max_running + config.max_waiting):
        engine.ask(f"{number}", tokens)
    for _ in range(80):
        engine.step()
    return engine


def test_who_is_told_of_a_long_wait_is_not_refused_after_it() -> None:
    """20 tokens a second: the only place is taken for 200 s."""
    engine = busy_engine(ServeConfig(max_running=1, max_waiting=0), 4000)
    with pytest.raises(ApiError) as caught:
        engine.ask("late", 10)
    after_s = retry_after(caught.value)
    assert 150 < after_s < 250
    for _ in range(round(after_s / STEP_S)):
        engine.step()
    engine.ask("late", 10)


@pytest.mark.parametrize("stalled_s", [60, 3000, 14_000])
def test_of_an_engine_that_stalls_nobody_is_told_of_years(stalled_s: int) -> None:
    engine = busy_engine(ServeConfig(max_running=1, max_waiting=0, max_time=300.0), 4000)
    engine.now_s += stalled_s
    with pytest.raises(ApiError) as caught:
        engine.ask("late", 10)
    assert retry_after(caught.value) == 300  # by then the one inside is given up


def test_who_asks_for_many_answers_is_told_when_there_are_so_many_places() -> None:
    """Two run for 1 s more, and the two that wait for 5 s after them."""
    config = ServeConfig(max_running=2, max_waiting=2)
    with pytest.raises(ApiError) as caught:
        busy_engine(config, 100).admission.enter("one")
    assert retry_after(caught.value) <= 2
    engine = busy_engine(config, 100)
    with pytest.raises(ApiError) as caught:
        engine.admission.enter("many", 4)
    after_s = retry_after(caught.value)
    assert 5 <= after_s <= 7
    with pytest.raises(ApiError) as caught:
        engine.admission.enter("later")
    assert retry_after(caught.value) >= after_s  # after all those places
    for _ in range(round(after_s / STEP_S)):
        engine.step()
    assert len(engine.admission.enter("many", 4)) == 4


def test_a_deadline_that_cannot_be_met_is_refused_at_once() -> None:
    engine = SimulatedEngine(ServeConfig(max_running=1, max_waiting=100, max_wait=60.0))
    engine.ask("first", 100)
    for _ in range(20):
        engine.step()
    engine.ask("patient", 100, deadline_s=60.0)
    with pytest.raises(ApiError, match="would wait"):
        engine.ask("hasty", 100, deadline_s=2.0)


def test_short_answers_make_room_for_more() -> None:
    """Who asks for 512 tokens and takes 8 is counted as 8 by and by."""
    engine = SimulatedEngine(ServeConfig(max_running=4, max_waiting=4))
    for _ in range(60):
        (ticket,) = engine.admission.enter("a")
        engine.admission.price([ticket], [(4, 512)], 60.0)
        engine.admission.progress(ticket, 8)
        engine.admission.leave(ticket)
    assert engine.admission.share == pytest.approx(0.02, abs=0.01)


def test_many_answers_of_one_request_are_counted_each() -> None:
    admission = Admission(ServeConfig(max_running=2, max_waiting=3))
    admission.enter("a", 4)
    with pytest.raises(ApiError):
        admission.enter("b", 2)
    admission.enter("b", 1)
    assert admission.inside == 5


def test_answers_that_a_stop_string_ends_are_counted_as_short(start: Any) -> None:
    """The engine only hears that they are cancelled."""
    with start(step_s=0.005) as running:
        admission = running.gateway.desk.admission
        for _ in range(20):
            answer = running.complete(max_tokens=200, stop="shell").json()
            assert answer["choices"][0]["finish_reason"] == "stop"
        assert running.wait_until(lambda: admission.inside == 0)
        assert admission.share < 0.4
