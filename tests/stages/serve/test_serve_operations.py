"""Health, deadlines, sizes, sites that may ask, and models that take each other's place."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import struct
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from whorl.codecs.contract import Tokens
from whorl.core.errors import EngineError
from whorl.core.ports import SERVERS_OWN, TokenEvent
from whorl.spec.resolved import ServeConfig
from whorl.stages.serve import exchange, server
from whorl.stages.serve.app import create_app
from whorl.stages.serve.card import ModelCard
from whorl.stages.serve.desk import Desk
from whorl.stages.serve.health import Health
from whorl.stages.serve.promise import Promise
from whorl.stages.serve.served import Served
from whorl.stages.serve.server import running_server
from whorl.stages.serve.swap import swap
from whorl.testing.corpus import tiny_tokens
from whorl.testing.engine import FakeEngine

KEY = "test-key-0123456789abcdef"


# ------------------------------------------------------------------ health


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


# ------------------------------------------------------------------ deadlines and sizes


def test_a_deadline_ends_an_answer_and_frees_its_place(start: Any) -> None:
    with start(step_s=0.02) as running:
        began_s = time.monotonic()
        headers = {"X-Request-Timeout": "0.3"}
        body = running.body(max_tokens=200)
        late = running.client.post("/v1/completions", json=body, headers=headers)
        assert (late.status_code, late.json()["error"]["code"]) == (504, "deadline_exceeded")
        assert 0.25 < time.monotonic() - began_s < 1.5
        assert running.wait_until(lambda: running.engine.stats().running == 0)
        streamed = running.client.post(
            "/v1/completions", json=body | {"stream": True}, headers=headers
        )
        assert streamed.status_code == 200 and "deadline_exceeded" in streamed.text
        for wrong in ("x", "-1", "0", "nan", "inf"):
            refused = running.client.post(
                "/v1/completions", json=running.body(), headers={"X-Request-Timeout": wrong}
            )
            assert refused.status_code == 400 and "X-Request-Timeout" in refused.text


def test_the_servers_own_deadline_is_the_longest(start: Any) -> None:
    with start(step_s=0.02, max_time=0.3) as running:
        headers = {"X-Request-Timeout": "60"}
        late = running.client.post(
            "/v1/completions", json=running.body(max_tokens=200), headers=headers
        )
        assert late.status_code == 504


def test_schemas_and_biases_over_the_limits_are_refused_by_their_names(start: Any) -> None:
    with start(max_grammar_bytes=500) as running:
        wide = {f"k{number}": {"type": "string"} for number in range(100)}
        schema = {"name": "a", "schema": {"type": "object", "properties": wide}}
        for fields, name in (
            (
                {"response_format": {"type": "json_schema", "json_schema": schema}},
                "response_format",
            ),
            ({"logit_bias": {str(number): 1 for number in range(2000)}}, "logit_bias"),
        ):
            refused = running.complete(**fields)
            assert (refused.status_code, refused.json()["error"]["param"]) == (400, name)
        assert running.engine.submitted == []


def test_large_bodies_are_read_beside_the_loop(start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """By another thread, with the same answers and refusals; small ones are not worth it."""
    threads: list[tuple[int, bool]] = []
    parse, size = exchange.parse_body, exchange.MOST_INLINE_BYTES

    def seen(data: bytes, kind: Any) -> Any:
        threads.append((len(data), "whorl-serve" not in threading.current_thread().name))
        return parse(data, kind)

    monkeypatch.setattr(exchange, "parse_body", seen)
    with start() as running:
        assert running.complete().status_code == 200
        user = "u" * size
        assert running.complete(user=user).status_code == 200
        refused = running.complete(user=user, temprature=1)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "temprature")
        many = running.complete(prompt=[[1]] * 40_000)
        assert (many.status_code, many.json()["error"]["param"]) == (400, "prompt")
        body = {"model": "tiny", "prompt": "a", "tools": [], "user": user}
        assert running.client.post("/tokenize", json=body).status_code == 400
    assert len(threads) == 5
    assert all(is_aside == (num_bytes > size) for num_bytes, is_aside in threads)


def test_a_full_server_refuses_without_reading(start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the body is parsed; the connection goes on; it is counted once."""
    read: list[int] = []
    parse = exchange.parse_body
    monkeypatch.setattr(
        exchange, "parse_body", lambda data, kind: (read.append(len(data)), parse(data, kind))[1]
    )
    with start(max_running=1, max_waiting=0) as running:
        running.engine.stalled = True
        with ThreadPoolExecutor(1) as pool:
            inside = pool.submit(running.complete)
            assert running.wait_until(lambda: running.gateway.inside == 1)
            before = len(read)
            for content in (b"no JSON", b"x" * 200_000, b'{"model": "tiny", "prompt": "a"}'):
                for path in ("/v1/completions", "/v1/messages"):
                    running.gateway.desk.admission._promises.clear()  # who comes back is let in
                    refused = running.client.post(path, content=content)
                    assert refused.status_code == 429 and int(refused.headers["Retry-After"]) >= 1
            assert len(read) == before
            assert running.client.post("/tokenize", content=b"no JSON").status_code == 400
            assert running.client.get("/v1/models").status_code == 200
            counted = running.client.get("/metrics").text
            assert re.search(r'whorl_refused_total\{code="server_full"\} 6\.0', counted)
            running.engine.stalled = False
            with running.engine._changed:
                running.engine._changed.notify_all()
            assert inside.result().status_code == 200


# ------------------------------------------------------------------ other sites


def test_a_site_that_is_listed_may_ask_and_no_other(start: Any) -> None:
    site = "https://chat.example"
    with start(allowed_origins=(site,)) as running:
        asked = {"Origin": site, "Access-Control-Request-Method": "POST"}
        with httpx.Client(base_url=running.base_url, trust_env=False) as browser:
            before = browser.options("/v1/completions", headers=asked)
            assert before.status_code == 204
            assert before.headers["access-control-allow-origin"] == site
            assert "Authorization" in before.headers["access-control-allow-headers"]
            assert "access-control-allow-credentials" not in before.headers
            other = asked | {"Origin": "https://evil.example"}
            refused = browser.options("/v1/completions", headers=other)
            assert refused.status_code == 403
            assert "access-control-allow-origin" not in refused.headers
            access = running.app.state.access
            cookie = {"Origin": site, "Cookie": f"{access.cookie}={access.session}"}
            stolen = browser.post("/v1/completions", json=running.body(), headers=cookie)
            assert stolen.status_code == 401  # the page's cookie is for the page
            assert browser.get("/v1/models", headers=cookie).status_code == 401
        answer = running.client.post(
            "/v1/completions", json=running.body(), headers={"Origin": site}
        )
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == site
        assert "access-control-allow-origin" not in running.complete().headers


# ------------------------------------------------------------------ leaving


def test_a_client_that_leaves_is_gone_within_a_step(start: Any) -> None:
    """By a reset, with a slow engine: what it gives back comes with its next step."""
    step_s = 0.15
    with start(step_s=step_s, context_tokens=1024) as running:
        head = (
            b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer "
            + KEY.encode()
        )
        body = json.dumps(running.body(max_tokens=500, stream=True)).encode()
        host, port = running.base_url.removeprefix("http://").split(":")
        for _ in range(3):
            connection = socket.create_connection((host, int(port)), timeout=5)
            connection.sendall(head + b"\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            connection.recv(4096)
            linger = struct.pack("ii", 1, 0)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            left_s = time.monotonic()
            connection.close()
            assert running.wait_until(lambda: running.engine.stats().running == 0)
            assert time.monotonic() - left_s < 2.5 * step_s
        log = running.client.get("/metrics").text
        assert re.search(r'whorl_answers_total\{finish_reason="left"\} 3\.0', log)


# ------------------------------------------------------------------ swaps


def opened(version: int, vocab_size: int = 512, **engine: Any) -> Served:
    """A model whose every answer is its number; each version has other tokens."""
    tokens = tiny_tokens(vocab_size)
    digest = tokens.contract.digest
    ids = tokens.encode_prompt(f"v{version} ")[len(tokens.contract.start_ids) :]
    card = ModelCard(name="tiny", contract_digest=digest, context_tokens=256, version=version)
    fake = FakeEngine(
        digest, lambda request: [ids[n % len(ids)] for n in range(request.max_tokens)], **engine
    )
    return Served(fake, tokens, card, fake.close)


def closed(models: list[Served]) -> list[bool]:
    return [model.engine._closed for model in models]  # type: ignore[attr-defined]


def test_models_are_swapped_under_load_and_each_answer_is_of_one(tmp_path: Path) -> None:
    """Of contracts that differ: ids of one mean other words in the other."""
    settings = ServeConfig(port=0, grace_s=2, max_waiting=200, watch_s=0.02)
    first = opened(1, step_s=0.002)
    app = create_app(
        first.engine, first.tokens, first.card, settings, KEY, Desk.of(settings, tmp_path)
    )
    models = [first]
    texts: list[tuple[int, str]] = []
    ended = threading.Event()

    def client(base_url: str) -> None:
        headers = {"Authorization": f"Bearer {KEY}"}
        with httpx.Client(trust_env=False, timeout=20, headers=headers) as session:
            while not ended.is_set():
                body = {"model": "tiny", "prompt": "a", "max_tokens": 40}
                answer = session.post(f"{base_url}/v1/completions", json=body)
                text = answer.json()["choices"][0]["text"] if answer.status_code == 200 else ""
                texts.append((answer.status_code, text))

    def newer() -> Served | None:
        if len(models) > 12 or time.monotonic() < last_s[0] + 0.1:
            return None
        last_s[0] = time.monotonic()
        models.append(opened(len(models) + 1, 512 + 16 * (len(models) % 3), step_s=0.002))
        return models[-1]

    last_s = [time.monotonic()]
    with running_server(app, settings, newer) as base_url:
        threads = [threading.Thread(target=client, args=(base_url,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        while len(models) <= 12:
            time.sleep(0.02)
        ended.set()
        for thread in threads:
            thread.join()
        deadline_s = time.monotonic() + 5
        while (
            time.monotonic() < deadline_s
            and any(
                not model.engine._closed  # type: ignore[attr-defined]
                for model in models[:-1]
            )
        ):
            time.sleep(0.02)
        closed = [model.engine._closed for model in models]  # type: ignore[attr-defined]
        assert closed == [True] * 12 + [False]
    models[-1].close()
    assert len(texts) > 12 and {status for status, _ in texts} == {200}
    seen: set[str] = set()
    for _, text in texts:
        words = set(text.split()[:-1])  # the last one may be cut
        assert len(words) == 1, text
        seen |= words
    assert len(seen) >= 8
    told = (tmp_path / ".serving/answers.jsonl").read_text().splitlines()
    versions = {json.loads(line)["version"] for line in told}
    assert {f"v{version}" for version in versions} >= seen


def test_a_model_that_makes_no_token_is_not_swapped_in() -> None:
    settings = ServeConfig(port=0)
    first, stuck, dead = opened(1), opened(2), opened(3)
    stuck.engine.stalled = True  # type: ignore[attr-defined]
    dead.engine.close()
    app = create_app(first.engine, first.tokens, first.card, settings, KEY, Desk.of(settings))

    async def swap_both() -> list[str | None]:
        return [await swap(app.state.gateway, model, 0.3) for model in (stuck, dead)]

    told = asyncio.run(swap_both())
    assert "no token within 0.3 s" in str(told[0]) and "closed" in str(told[1])
    assert app.state.gateway.engine is first.engine
    first.close()


def test_a_new_model_is_closed_whatever_its_probe_raises() -> None:
    settings = ServeConfig(port=0)
    first, odd, slow = opened(1), opened(2), opened(3)
    slow.engine.stalled = True  # type: ignore[attr-defined]
    app = create_app(first.engine, first.tokens, first.card, settings, KEY, Desk.of(settings))

    def raises(*_: Any) -> None:
        raise RuntimeError("not of our errors")

    odd.engine.submit = raises  # type: ignore[method-assign]

    async def swap_both() -> None:
        with pytest.raises(RuntimeError, match="not of our errors"):
            await swap(app.state.gateway, odd, 5.0)
        swapping = asyncio.ensure_future(swap(app.state.gateway, slow, 5.0))
        await asyncio.sleep(0.05)
        swapping.cancel()  # the server stops meanwhile
        with pytest.raises(asyncio.CancelledError):
            await swapping

    asyncio.run(swap_both())
    assert closed([first, odd, slow]) == [False, True, True]
    first.close()


def test_a_model_that_is_opened_when_the_server_has_stopped_is_closed() -> None:
    settings = ServeConfig(port=0, watch_s=0.01)
    first, late = opened(1), opened(2)
    app = create_app(first.engine, first.tokens, first.card, settings, KEY, Desk.of(settings))
    asked, stopped = threading.Event(), threading.Event()

    def slow() -> Served:
        asked.set()
        assert stopped.wait(10)
        return late

    with running_server(app, settings, slow):
        assert asked.wait(5)
        threading.Timer(0.3, stopped.set).start()
    deadline_s = time.monotonic() + 5
    while not closed([late])[0] and time.monotonic() < deadline_s:
        time.sleep(0.01)
    assert closed([first, late]) == [False, True]
    first.close()


def promised(version: int, users: int, basis: str = "measured") -> Served:
    model = opened(version)
    promise = Promise(
        basis=basis,  # type: ignore[arg-type]
        users=users,
        ttft_p95_s=0.1,
        tokens_per_s_per_user=20,
        tokens_per_s=60,
        prompt_tokens=32,
        memory_bytes=10**9,
    )
    card = model.card.model_copy(update={"promise": promise})
    return Served(model.engine, model.tokens, card, model.close)


def test_places_that_are_not_those_of_the_recipe_are_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """And they are one model's: the next one is not held to what the one before could do."""
    settings = ServeConfig(port=0, max_running=8, max_waiting=2)
    models = [promised(1, 3), promised(2, 8), promised(3, 20), opened(4), promised(5, 5)]
    first = models[0]
    app = create_app(first.engine, first.tokens, first.card, settings, KEY, Desk.of(settings))
    gateway = app.state.gateway
    told, places = [caplog.text], [gateway.desk.admission.places]
    for model in models[1:]:
        caplog.clear()
        gateway.take_over(model)
        told.append(caplog.text)
        places.append(gateway.desk.admission.places)
    assert places == [5, 10, 22, 10, 7]
    assert gateway.config.max_running == 8
    assert [bool(text) for text in told] == [True, False, True, False, True]
    assert "3 requests run together, not serve.max_running 8: with more" in told[0]
    assert "20 requests run together, not serve.max_running 8: so many are asked for" in told[2]
    for model in models:
        model.close()


def test_a_model_that_cannot_be_opened_leaves_the_one_before(
    start: Any, caplog: pytest.LogCaptureFixture
) -> None:
    settings = ServeConfig(port=0, watch_s=0.02)
    first = opened(1)
    app = create_app(first.engine, first.tokens, first.card, settings, KEY, Desk.of(settings))
    asked = 0

    def broken() -> Served | None:
        nonlocal asked
        asked += 1
        if asked == 1:
            raise EngineError("the model is damaged")
        return None

    with running_server(app, settings, broken) as base_url:
        while asked < 3:
            time.sleep(0.01)
        answer = httpx.get(f"{base_url}/health", trust_env=False)
        assert answer.status_code == 200
    first.close()
    assert "the model is damaged" in caplog.text and app.state.gateway.engine is first.engine
