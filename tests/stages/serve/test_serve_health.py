"""Health: green by tokens alone; and a server that ends with an engine that was given up."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from whorl.codecs.contract import Tokens
from whorl.core.errors import EngineError
from whorl.core.ports import SERVERS_OWN, TokenEvent
from whorl.spec.resolved import ServeConfig
from whorl.stages.serve import server
from whorl.stages.serve.app import create_app
from whorl.stages.serve.card import ModelCard
from whorl.stages.serve.health import Health
from whorl.stages.serve.server import running_server
from whorl.testing.engine import FakeEngine

KEY = "test-key-0123456789abcdef"


def test_a_stalled_engine_is_red_also_when_idle_and_green_when_it_is_back(start: Any) -> None:
    with start(stall_s=0.3) as running:
        health = running.gateway.served.health
        assert running.client.get("/health").status_code == 200
        assert len(running.engine.submitted) == 1  # a probe of one token
        (probe,) = running.engine.submitted
        assert probe.max_tokens == 1
        assert running.client.get("/health").status_code == 200
        assert len(running.engine.submitted) == 1  # the token is fresh
        running.engine.stalled, health.token_at_s = True, None
        for _ in range(2):
            began_s = time.monotonic()
            red = running.client.get("/health")
            assert (red.status_code, red.json()["status"]) == (503, "failed")
            assert time.monotonic() - began_s < 1
        assert len(running.engine.submitted) == 2  # however often it is asked
        running.engine.stalled = False
        with running.engine._changed:
            running.engine._changed.notify_all()
        assert running.wait_until(lambda: running.client.get("/health").status_code == 200)


def test_an_engine_that_is_dead_is_red(start: Any) -> None:
    with start() as running:
        running.engine.close()
        assert running.complete().status_code == 503
        assert running.client.get("/health").status_code == 503


def test_an_engine_that_failed_is_looked_at_again(start: Any) -> None:
    with start(step_s=0.02) as running:
        assert running.client.get("/health").status_code == 200
        failing = threading.Timer(0.1, running.engine.fail, ["out of memory"])
        failing.start()
        assert running.complete(max_tokens=100).status_code == 500
        failing.join()
        before = len(running.engine.submitted)
        assert running.client.get("/health").status_code == 200
        assert len(running.engine.submitted) == before + 1


class BrokenEngine(FakeEngine):
    """Every request ends with an error, or waits for ever until it is cancelled."""

    waits = False

    def _advance(self, place: Any, runs: bool) -> TokenEvent | None:
        if place.cancelled or self._closed:
            return TokenEvent(place.request.request_id, (), "cancelled")
        if self.waits:
            return None
        return TokenEvent(place.request.request_id, (), "error", "out of memory")


@contextlib.contextmanager
def broken(tokens: Tokens, **config: Any) -> Iterator[tuple[BrokenEngine, httpx.Client]]:
    settings = ServeConfig(port=0, grace_s=1, **config)
    engine = BrokenEngine(tokens.contract.digest, step_s=0.01)
    card = ModelCard(name="tiny", contract_digest=engine.contract_digest, context_tokens=256)
    app = create_app(engine, tokens, card, settings, KEY)
    headers = {"Authorization": f"Bearer {KEY}"}
    try:
        with (
            running_server(app, settings) as base_url,
            httpx.Client(base_url=base_url, headers=headers, trust_env=False) as client,
        ):
            yield engine, client
    finally:
        engine.close()


def test_an_engine_that_fails_every_request_is_red_however_busy_it_is(tokens: Tokens) -> None:
    body = {"model": "tiny", "prompt": "a shell", "max_tokens": 8}
    ended = threading.Event()
    with broken(tokens) as (_, client):

        def load() -> None:
            while not ended.is_set():
                assert client.post("/v1/completions", json=body).status_code == 500

        assert client.post("/v1/completions", json=body).status_code == 500
        threads = [threading.Thread(target=load) for _ in range(4)]
        for thread in threads:
            thread.start()
        statuses = {client.get("/health").status_code for _ in range(30)}
        ended.set()
        for thread in threads:
            thread.join()
        assert statuses == {503}


def test_clients_that_leave_before_a_token_do_not_make_a_dead_engine_green(tokens: Tokens) -> None:
    """Each is inside for less than the deadline; together they are not."""
    body = {"model": "tiny", "prompt": "a shell", "max_tokens": 8}
    with broken(tokens, stall_s=0.5) as (engine, client):
        engine.waits = True
        for _ in range(4):
            with pytest.raises(httpx.ReadTimeout):
                client.post("/v1/completions", json=body, timeout=0.2)
            time.sleep(0.1)
        with ThreadPoolExecutor(1) as pool:
            late = pool.submit(client.post, "/v1/completions", json=body)
            while not engine.stats().running:
                time.sleep(0.005)
            red = client.get("/health")
            assert (red.status_code, red.json()["status"]) == (503, "stalled")
            assert red.json()["last_progress_s"] > 0.5
            assert late.result().status_code == 503


def test_a_probe_that_raises_is_no_token(tokens: Tokens) -> None:
    engine = FakeEngine(tokens.contract.digest)

    def raises(request: Any) -> Any:
        raise RuntimeError("not of our errors")

    engine.reply = raises
    found = asyncio.run(Health(engine, 5).look(5.0, 30.0))
    engine.close()
    assert found is not None and "not of our errors" in found


def test_one_probe_serves_all_who_ask(tokens: Tokens) -> None:
    engine = FakeEngine(tokens.contract.digest, step_s=0.05)

    async def look() -> list[str | None]:
        health = Health(engine, 5)
        return await asyncio.gather(*(health.look(5.0, 30.0) for _ in range(20)))

    try:
        assert asyncio.run(look()) == [None] * 20
        (probe,) = engine.submitted
        assert probe.cache_key == SERVERS_OWN  # else it would be a key that shares with nobody
    finally:
        engine.close()


def test_a_server_whose_engine_was_given_up_ends_with_what_was_wrong(
    tokens: Tokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a supervisor starts it anew; one whose engine may come back goes on."""
    monkeypatch.setattr(server, "LOOK_EVERY_S", 0.02)
    settings = ServeConfig(port=0)
    engine = FakeEngine(tokens.contract.digest)
    engine.failure = None  # type: ignore[attr-defined]
    card = ModelCard(name="tiny", contract_digest=engine.contract_digest, context_tokens=256)
    app = create_app(engine, tokens, card, settings, KEY)
    seen: list[int] = []

    def started(base_url: str) -> None:
        def give_up() -> None:
            time.sleep(0.2)
            seen.append(httpx.get(f"{base_url}/health", trust_env=False).status_code)
            engine.failure = "it died 4 times"  # type: ignore[attr-defined]

        threading.Thread(target=give_up).start()

    with pytest.raises(EngineError, match=r"its engine failed.*it died 4 times"):
        server.serve(app, settings, started)
    engine.close()
    assert seen == [200]
