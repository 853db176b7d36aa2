"""A promise counts what a server adds to its engine: what clients wait for is in it."""

from __future__ import annotations

import asyncio
import dataclasses
import signal
import threading
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from whorl.core.errors import EngineError
from whorl.spec.resolved import ServeConfig
from whorl.stages.serve.card import ModelCard
from whorl.stages.serve.gateway import Gateway
from whorl.stages.serve.generation import Run
from whorl.stages.serve.promise import Promise
from whorl.testing.corpus import tiny_tokens
from whorl.testing.engine import FakeEngine
from whorl.testing.models import tiny_shape
from whorl.wiring import promise as module
from whorl.wiring.over_http import asked_over_http

TOKENS = tiny_tokens(512)
DIGEST = TOKENS.contract.digest
SHAPE = tiny_shape(vocab_size=512, max_seq_len=256)
CARD = ModelCard(name="tiny", contract_digest=DIGEST, context_tokens=256)
STEP_S, USERS, DELAY_S = 0.02, 4, 0.3


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    made = FakeEngine(DIGEST, step_s=STEP_S, max_running=USERS)
    yield made
    made.close()


def measured(engine: FakeEngine, **config: Any) -> Promise:
    chosen = ServeConfig(**{"max_running": USERS, **config})
    rates = {"ttft_p95_s": 1, "tokens_per_s_per_user": 50, "tokens_per_s": 200}
    sizes = {"users": USERS, "prompt_tokens": 64, "memory_bytes": 1}
    predicted = Promise.model_validate({"basis": "predicted"} | rates | sizes)
    asking = partial(asked_over_http, engine, TOKENS, CARD)
    return module._measure(asking, predicted, SHAPE, chosen)


def test_it_is_asked_over_http_and_no_faster_than_its_engine(engine: FakeEngine) -> None:
    found = measured(engine)
    asked = [each for each in engine.submitted if each.max_tokens > 2]
    assert [len(each.prompt_ids) for each in asked] == [64] * USERS
    assert all(each.max_tokens == 32 and not each.stop_ids for each in asked)
    assert (found.basis, found.users, found.prompt_tokens) == ("measured", USERS, 64)
    assert found.tokens_per_s_per_user <= 1 / STEP_S
    assert found.tokens_per_s <= USERS / STEP_S
    assert engine.max_seen_running == USERS  # all at once


def test_what_the_server_takes_is_in_it(
    engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine that is asked without its server would not know of it."""
    start = Gateway.start

    async def late(self: Gateway, *given: Any) -> Any:
        await asyncio.sleep(DELAY_S)
        return await start(self, *given)

    monkeypatch.setattr(Gateway, "start", late)
    found = measured(engine)
    assert found.ttft_p95_s >= DELAY_S
    assert found.tokens_per_s <= USERS * 32 / (DELAY_S + 31 * STEP_S)


def test_slow_clients_are_in_it(engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Events that are sent late end answers late."""
    deliver = Gateway._deliver

    def late(self: Gateway, *given: Any) -> None:
        time.sleep(0.01)
        deliver(self, *given)

    monkeypatch.setattr(Gateway, "_deliver", late)
    assert measured(engine).tokens_per_s <= 100  # an event each 10 ms, of one token


def test_fewer_users_are_asked_where_a_target_is_missed(engine: FakeEngine) -> None:
    found = measured(engine, tokens_per_s_per_user=1000)
    assert found.users == USERS and found.missed
    asked = [each for each in engine.submitted if each.max_tokens > 2]
    assert len(asked) == 4 + 2 + 1


def test_an_engine_that_fails_is_told(engine: FakeEngine) -> None:
    engine.fail("out of memory")
    with pytest.raises(EngineError, match="out of memory"):
        measured(engine)


@pytest.mark.parametrize(
    "limit",
    [{"max_tokens": 1}, {"max_time": 0.01}, {"max_connections": 1}, {"max_body_bytes": 10}],
)
def test_limits_of_the_server_to_come_are_none_of_the_measured(
    engine: FakeEngine, limit: dict[str, Any]
) -> None:
    assert measured(engine, **limit).basis == "measured"


def test_the_first_event_is_what_a_client_gets(
    engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not what the server knows before it has written it."""
    piece = Run.piece

    def late(self: Run, event: Any) -> Any:
        time.sleep(0.1)
        return piece(self, event)

    monkeypatch.setattr(Run, "piece", late)
    with asked_over_http(engine, TOKENS, CARD, 1) as ask:
        (told,) = ask([[100] * 3], 2)
    assert told.num_tokens == 2
    assert 0 < told.token_s <= told.first_s - 0.1 and told.first_s <= told.end_s - 0.1


def test_what_shows_nothing_before_its_end_has_its_first_token_all_the_same(
    engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    piece = Run.piece

    def whole(self: Run, event: Any) -> Any:
        return dataclasses.replace(piece(self, event), text="")

    monkeypatch.setattr(Run, "piece", whole)
    with asked_over_http(engine, TOKENS, CARD, 1) as ask:
        (told,) = ask([[1, 2, 3]], 8)
    assert told.first_s == told.token_s < told.end_s - 6 * STEP_S


def test_one_failed_answer_ends_the_asking(engine: FakeEngine) -> None:
    """The others, which would never end, are not waited for, nor is the engine left with them."""
    engine.stalled = True

    def too_long() -> None:
        with asked_over_http(engine, TOKENS, CARD, 2) as ask:
            ask([[1] * 10, [1] * 1000], 2)

    begin_s = time.monotonic()
    with pytest.raises(EngineError, match=r"was not measured.*context|was not measured.*tokens"):
        too_long()
    assert time.monotonic() - begin_s < 60
    assert set(engine.cancelled_ids) == {each.request_id for each in engine.submitted}


@pytest.fixture
def interrupts() -> Iterator[None]:
    """Ctrl-C is heard, also where the tests run behind a shell that ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interrupts")
def test_ctrl_c_ends_the_asking(engine: FakeEngine) -> None:
    """While every answer is still waited for."""
    engine.stalled = True
    main = threading.get_ident()

    def interrupt() -> None:
        while not engine.submitted:
            time.sleep(0.01)
        signal.pthread_kill(main, signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    begin_s = time.monotonic()
    with (
        pytest.raises(KeyboardInterrupt),
        asked_over_http(engine, TOKENS, CARD, 2) as ask,
    ):
        ask([[1] * 10] * 2, 2)
    assert time.monotonic() - begin_s < 60
    assert set(engine.cancelled_ids) == {each.request_id for each in engine.submitted}
