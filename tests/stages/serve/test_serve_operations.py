"""Deadlines, sizes, sites that may ask, and clients that leave."""

from __future__ import annotations

import json
import re
import socket
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from whorl.stages.serve import exchange
from whorl.stages.serve.generation import Generation

KEY = "test-key-0123456789abcdef"


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


def test_an_answer_that_fails_before_its_first_wait_frees_its_place(
    start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(self: Generation) -> None:
        raise RuntimeError("no timer")

    with start(step_s=0.02) as running:
        monkeypatch.setattr(Generation, "_look", failing)
        body = running.body(max_tokens=200)
        assert running.client.post("/v1/completions", json=body).status_code == 500
        assert running.wait_until(lambda: running.engine.stats().running == 0, within_s=2)


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


def test_metrics_tell_what_fills_the_cache(start: Any) -> None:
    """Prompts and answers of those that run, not of those that wait."""

    def held(running: Any) -> float:
        text = running.client.get("/metrics").text
        return float(re.search(r"^whorl_cache_tokens (\S+)$", text, re.MULTILINE)[1])  # type: ignore[index]

    with start(max_running=1, max_waiting=2) as running:
        assert held(running) == 0
        running.engine.stalled = True
        with ThreadPoolExecutor(2) as pool:
            inside = [pool.submit(running.complete, prompt=[5] * 7, max_tokens=3) for _ in range(2)]
            assert running.wait_until(lambda: running.gateway.inside == 2 and held(running) == 7)
            running.engine.stalled = False
            with running.engine._changed:
                running.engine._changed.notify_all()
            assert [each.result().status_code for each in inside] == [200, 200]
        assert held(running) == 0


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
