"""Requests together: joining, leaving, overload, an engine that stalls or fails."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest


class Streamed(threading.Thread):
    """One streamed request that notes when its first text and its end came."""

    def __init__(self, running: Any, **fields: Any) -> None:
        super().__init__(daemon=True)
        self.running, self.fields = running, fields
        self.first_s: float | None = None
        self.ended_s: float | None = None
        self.text = ""
        self.start()

    def run(self) -> None:
        body = self.running.body(stream=True, **self.fields)
        with self.running.client.stream("POST", "/v1/completions", json=body) as response:
            for line in response.iter_lines():
                if line.startswith("data: {"):
                    self.first_s = self.first_s or time.monotonic()
                    self.text += json.loads(line[6:])["choices"][0]["text"]
        self.ended_s = time.monotonic()


def test_a_request_that_joins_gets_its_first_token_before_the_other_ends(start: Any) -> None:
    with start(step_s=0.01) as running:
        first = Streamed(running, max_tokens=60)
        assert running.wait_until(lambda: first.first_s is not None)
        second = Streamed(running, max_tokens=5, prompt="a river")
        first.join(10)
        second.join(10)
        assert second.first_s < second.ended_s < first.ended_s  # type: ignore[operator]
        assert running.engine.max_seen_running == 2


def test_each_answer_belongs_to_its_own_request(start: Any) -> None:
    with start(max_running=8) as running:

        def secret_comes_back(number: int) -> bool:
            secret = f"<{number:04d}>"
            response = running.complete(prompt=secret * 3, max_tokens=40, stream=number % 2 == 0)
            if number % 2 == 0:
                lines = [line for line in response.text.split("\n") if line.startswith("data: {")]
                text = "".join(json.loads(line[6:])["choices"][0]["text"] for line in lines)
            else:
                text = response.json()["choices"][0]["text"]
            return secret in text and set(text) <= set(secret)

        with ThreadPoolExecutor(16) as pool:
            assert all(pool.map(secret_comes_back, range(64)))


def leave_early(running: Any, stream: bool) -> None:
    """Send a request, wait for the engine to have it, and close the connection."""
    before = len(running.engine.submitted)
    client = httpx.Client(base_url=running.base_url, headers=running.client.headers)
    body = running.body(max_tokens=400, stream=stream, prompt=[0, 20, 21])
    if stream:
        with client.stream("POST", "/v1/completions", json=body) as response:
            next(response.iter_lines())
    else:
        with pytest.raises(httpx.ReadTimeout):
            client.post("/v1/completions", json=body, timeout=0.1)
    client.close()
    assert len(running.engine.submitted) == before + 1


@pytest.mark.parametrize("stream", [True, False])
def test_who_leaves_frees_the_place(start: Any, stream: bool) -> None:
    with start(step_s=0.02, max_running=1, max_waiting=0, context_tokens=1024) as running:
        for _ in range(3):
            leave_early(running, stream)
            left_s = time.monotonic()
            assert running.wait_until(lambda: running.engine.stats().running == 0)
            assert time.monotonic() - left_s < 0.5  # of the 8 s that 400 tokens would take
            assert running.wait_until(lambda: running.gateway.inside == 0)
        assert running.complete(max_tokens=2).status_code == 200


def test_a_waiting_request_can_leave_too(start: Any) -> None:
    with start(step_s=0.01, max_running=1, max_waiting=1, context_tokens=1024) as running:
        first = Streamed(running, max_tokens=60)
        assert running.wait_until(lambda: first.first_s is not None)
        leave_early(running, stream=False)
        assert running.wait_until(lambda: running.gateway.inside == 1, 0.3)
        first.join(10)
        assert first.text


def test_beyond_the_limit_429_at_once_with_a_time_to_come_back(start: Any) -> None:
    with start(step_s=0.01, max_running=2, max_waiting=1) as running:
        inside = [Streamed(running, max_tokens=100) for _ in range(3)]
        assert running.wait_until(lambda: running.gateway.inside == 3)
        began_s = time.monotonic()
        response = running.complete()
        assert time.monotonic() - began_s < 0.5
        assert response.status_code == 429
        assert 1 <= int(response.headers["retry-after"]) <= 60
        assert response.json()["error"]["type"] == "rate_limit_error"
        for thread in inside:
            thread.join(10)
        assert all(thread.text for thread in inside)
        assert running.wait_until(lambda: running.gateway.inside == 0)
        assert running.complete().status_code == 200
        assert running.engine.max_seen_running == 2


def test_health_is_red_when_no_token_comes_and_green_again_after(start: Any) -> None:
    with start(step_s=0.005, stall_s=0.3) as running:
        assert running.client.get("/health").json()["status"] == "ok"
        running.engine.stalled = True
        waiting = ThreadPoolExecutor(1)
        stuck = waiting.submit(running.complete, max_tokens=5)
        assert running.wait_until(lambda: running.client.get("/health").status_code == 503)
        response = stuck.result(5)
        assert response.status_code == 503  # told, not left hanging
        assert response.json()["error"]["code"] == "engine_stalled"
        running.engine.stalled = False
        running.engine.cancel("nobody")  # wakes the fake
        assert running.wait_until(lambda: running.client.get("/health").status_code == 200)
        assert running.complete().status_code == 200
        waiting.shutdown()


def test_a_failing_engine_is_told_to_everyone(start: Any) -> None:
    with start(step_s=0.01) as running:
        streamed: list[str] = []

        def stream() -> None:
            body = running.body(stream=True, max_tokens=100)
            streamed.append(running.client.post("/v1/completions", json=body).text)

        threads = [threading.Thread(target=stream)]
        threads[0].start()
        whole = ThreadPoolExecutor(1).submit(running.complete, max_tokens=100)
        assert running.wait_until(lambda: running.engine.stats().running == 2)
        running.engine.fail("out of memory")
        assert whole.result(5).status_code == 500
        threads[0].join(5)
        last = streamed[0].rstrip("\n").split("\n")[-1]
        assert "out of memory" in json.loads(last.removeprefix("data: "))["error"]["message"]
        assert running.complete().status_code == 200
        running.engine.close()
        assert running.complete().status_code == 503
        assert running.gateway.inside == 0


def test_a_stop_waits_for_who_is_inside_and_ends_who_stays(start: Any) -> None:
    with start(step_s=0.01, grace_s=3) as running:
        short = Streamed(running, max_tokens=30)
        assert running.wait_until(lambda: short.first_s is not None)
    short.join(1)
    assert short.text and short.ended_s
    with start(step_s=0.02, grace_s=0, context_tokens=1024) as running:
        long = threading.Thread(
            target=lambda: answers.append(running.complete(max_tokens=400)), daemon=True
        )
        answers: list[httpx.Response] = []
        long.start()
        assert running.wait_until(lambda: running.engine.stats().running == 1)
        began_s = time.monotonic()
    long.join(5)
    assert time.monotonic() - began_s < 4
    assert answers[0].status_code == 503
