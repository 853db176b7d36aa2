"""Several engines as one: beginnings stay together, work is shared, a death is survived."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from zlib import crc32

import pytest

from whorl.core.collect import run_requests
from whorl.core.errors import EngineError
from whorl.core.ports import Engine, GenerateRequest, TokenEvent
from whorl.engines.replicas import Replicas
from whorl.testing.engine import FakeEngine


class Mortal(FakeEngine):
    """A fake that can die, as a process does."""

    is_up = True

    def die(self) -> None:
        self.is_up = False
        self.fail("the process ended")

    def submit(self, request: GenerateRequest, on_event: Callable[[TokenEvent], None]) -> None:
        if not self.is_up:
            raise EngineError("the engine is being started again")
        super().submit(request, on_event)


@pytest.fixture
def engines() -> Iterator[list[Mortal]]:
    made = [Mortal("digest", step_s=0.002) for _ in range(3)]
    yield made
    for engine in made:
        engine.close()


def of(name: str, first: int, tokens: int = 2, key: str = "") -> GenerateRequest:
    """A prompt of 96 ids whose first 64 follow from `first`, its last from the name."""
    shared = tuple((first * 31 + i) % 400 for i in range(64))
    own = tuple((crc32(name.encode()) + i) % 400 for i in range(32))
    return GenerateRequest(name, shared + own, tokens, cache_key=key)


def places(engines: list[Mortal], prefix: str) -> set[int]:
    return {
        number
        for number, engine in enumerate(engines)
        for request in engine.submitted
        if request.request_id.startswith(prefix)
    }


def test_one_beginning_goes_to_one_engine(engines: list[Mortal]) -> None:
    together = Replicas(engines)
    assert isinstance(together, Engine) and together.contract_digest == "digest"
    for turn in range(6):
        for first in range(6):
            run_requests(together, [of(f"p{first}-{turn}", first)])
    assert all(len(places(engines, f"p{first}-")) == 1 for first in range(6))
    assert together.stats().generated_tokens == 72


def test_keys_do_not_share_beginnings(engines: list[Mortal]) -> None:
    together = Replicas(engines)
    engines[0].stalled = True
    together.submit(of("a", 1, key="a"), lambda event: None)  # holds the first engine busy
    run_requests(together, [of("b", 1, key="b")])
    assert places(engines, "b") != places(engines, "a")
    engines[0].stalled = False


def test_much_work_is_shared_whatever_it_begins_with(engines: list[Mortal]) -> None:
    together = Replicas(engines)
    run_requests(together, [of(f"same-{i}", 1, tokens=20) for i in range(30)])
    counts = [len(engine.submitted) for engine in engines]
    assert min(counts) >= 5 and sum(counts) == 30


def test_what_had_not_begun_survives_a_death(engines: list[Mortal]) -> None:
    together = Replicas(engines)
    for engine in engines:
        engine.stalled = True
    ended: dict[str, TokenEvent] = {}
    done = threading.Semaphore(0)

    def on_event(event: TokenEvent) -> None:
        if event.finish_reason is not None:
            ended[event.request_id] = event
            done.release()

    for i in range(9):
        together.submit(of(f"r{i}", i), on_event)
    lost = [request.request_id for request in engines[0].submitted]
    together.cancel(lost[0])
    engines[0].die()
    for engine in engines:
        engine.stalled = False
    assert all(done.acquire(timeout=10) for _ in range(9))
    assert ended.pop(lost[0]).finish_reason == "cancelled"
    assert {event.finish_reason for event in ended.values()} == {"length"} and len(lost) > 1
    run_requests(together, [of(f"later{i}", i) for i in range(6)])
    assert 0 not in places(engines, "later")


def test_what_had_begun_is_told_once(engines: list[Mortal]) -> None:
    together = Replicas(engines[:2])
    events: list[TokenEvent] = []
    ended = threading.Event()

    def on_event(event: TokenEvent) -> None:
        events.append(event)
        if event.finish_reason is not None:
            ended.set()

    together.submit(of("x", 1, tokens=10_000), on_event)
    while not events:
        time.sleep(0.001)
    engines[places(engines, "x").pop()].die()
    assert ended.wait(10) and events[-1].finish_reason == "error"
    assert sum(event.finish_reason is not None for event in events) == 1
    assert run_requests(together, [of("y", 1)])[0].finish_reason == "length"


def test_no_engine_left(engines: list[Mortal]) -> None:
    together = Replicas(engines)
    for engine in engines:
        engine.is_up = False
    with pytest.raises(EngineError, match="no engine takes requests"):
        together.submit(of("x", 1), lambda event: None)


def test_a_refused_request_is_refused_by_the_first(engines: list[Mortal]) -> None:
    for engine in engines:
        engine.submit = _refuse  # type: ignore[method-assign]
    with pytest.raises(EngineError, match="too long"):
        Replicas(engines).submit(of("x", 1), lambda event: None)


def _refuse(request: GenerateRequest, on_event: Callable[[TokenEvent], None]) -> None:
    raise EngineError("the prompt is too long")
