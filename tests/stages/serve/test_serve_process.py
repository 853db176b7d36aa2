"""The server as a process: the port, signals, addresses; and the exercise over HTTP."""

from __future__ import annotations

import errno
import gc
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import weakref
from pathlib import Path
from typing import Any

import pytest

from whorl.codecs.contract import Tokens
from whorl.core.errors import BusyError, EngineError, SpecError, WhorlError
from whorl.spec.resolved import ServeConfig
from whorl.stages.serve import server as server_module
from whorl.stages.serve.app import create_app
from whorl.stages.serve.card import ModelCard, Sampling
from whorl.stages.serve.exercise import exercise, request_completion
from whorl.stages.serve.server import serve
from whorl.stages.serve.sockets import base_url_of, is_loopback, open_socket
from whorl.testing.engine import FakeEngine

KEY = "test-key-0123456789abcdef"
SCRIPT = """
import sys
from whorl.spec.resolved import ServeConfig
from whorl.stages.serve.app import create_app
from whorl.stages.serve.card import ModelCard
from whorl.stages.serve.server import serve
from whorl.testing.corpus import tiny_tokens
from whorl.testing.engine import FakeEngine
tokens = tiny_tokens()
digest = tokens.contract.digest
engine = FakeEngine(digest, step_s=0.02)
card = ModelCard(name="tiny", contract_digest=digest, context_tokens=64)
config = ServeConfig(port=0, grace_s=3)
serve(create_app(engine, tokens, card, config, sys.argv[1]), config, lambda u: print(u, flush=True))
engine.close()
print("ended", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_running_requests_end_and_the_process_return(number: int) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, KEY],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stderr is not None
    try:
        base_url = process.stdout.readline().strip()
        request = urllib.request.Request(
            f"{base_url}/v1/completions",
            b'{"model": "tiny", "prompt": "shell", "max_tokens": 40, "stream": true}',
            {"Authorization": f"Bearer {KEY}"},
        )
        with urllib.request.urlopen(request, timeout=10) as response:
            first = response.readline()
            process.send_signal(number)
            rest = response.read()
        assert first.startswith(b"data: {") and rest.endswith(b"data: [DONE]\n\n")
        assert process.wait(10) == 0
        assert process.stdout.read() == "ended\n"
        assert process.stderr.read() == ""
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


def test_a_taken_port_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as first:
        port = first.getsockname()[1]
        with pytest.raises(BusyError, match=f"port {port}.*serve.port"):
            open_socket("127.0.0.1", port)


def test_a_port_that_is_not_free_any_more_when_the_model_is_open(tokens: Tokens) -> None:
    digest = tokens.contract.digest
    engine = FakeEngine(digest)
    card = ModelCard(name="tiny", contract_digest=digest, context_tokens=64)
    with open_socket("127.0.0.1", 0) as mine:
        config = ServeConfig(port=mine.getsockname()[1])
        app = create_app(engine, tokens, card, config, KEY)
        with open_socket("127.0.0.1", config.port) as other:
            other.listen()
            with pytest.raises(BusyError, match=f"port {config.port}"):
                serve(app, config, lambda base_url: pytest.fail("it started"), mine)
    engine.close()


@pytest.mark.parametrize("number", [errno.EACCES, errno.EADDRNOTAVAIL, errno.EADDRINUSE])
def test_why_a_port_cannot_be_had(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: socket.socket, address: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(socket.socket, "bind", refuse)
    with pytest.raises(WhorlError) as caught:
        open_socket("127.0.0.1", 80)
    assert isinstance(caught.value, BusyError if number == errno.EADDRINUSE else SpecError)
    assert os.strerror(number) in str(caught.value) and caught.value.do
    assert ("stop the other" in caught.value.do) == (number == errno.EADDRINUSE)


@pytest.mark.parametrize(
    "error",
    [
        socket.gaierror(socket.EAI_NONAME, "Name or service not known"),
        UnicodeError("label empty or too long"),  # of "a..b", or of 70 letters
    ],
)
def test_a_host_that_is_not_ours(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*arguments: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(SpecError, match="no-such-host"):
        open_socket("no-such-host", 0)


def test_what_stays_is_set_aside_without_garbage_while_it_runs(
    tokens: Tokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And looked through again when a server that was run in a program has ended, whose threads
    then change places as they did."""
    garbage = Cycle()
    garbage.itself, gone = garbage, weakref.ref(garbage)
    del garbage
    seen, usual_s = [], sys.getswitchinterval()

    def run(self: Any, sockets: list[socket.socket]) -> None:
        seen.append((gone(), gc.get_freeze_count(), sys.getswitchinterval()))
        sockets[0].close()

    monkeypatch.setattr(server_module._Server, "run", run)
    engine = FakeEngine(tokens.contract.digest)
    card = ModelCard(name="tiny", contract_digest=engine.contract_digest, context_tokens=64)
    config = ServeConfig(port=0)
    gc.disable()
    try:
        serve(create_app(engine, tokens, card, config, KEY), config)
    finally:
        gc.enable()
        engine.close()
    assert seen[0][0] is None and seen[0][1] > 0 and seen[0][2] < 0.001
    assert gc.get_freeze_count() == 0 and sys.getswitchinterval() == usual_s


class Cycle:
    itself: Cycle


def test_base_urls() -> None:
    with open_socket("0.0.0.0", 0) as listener:
        assert base_url_of(listener) == f"http://127.0.0.1:{listener.getsockname()[1]}"
    if socket.has_ipv6 and Path("/proc/net/if_inet6").exists():
        try:
            listener = open_socket("::1", 0)
        except BusyError:
            return  # no IPv6 on this machine
        with listener:
            assert base_url_of(listener) == f"http://[::1]:{listener.getsockname()[1]}"


def test_loopback_is_told_from_the_rest() -> None:
    assert all(map(is_loopback, ("localhost", "127.0.0.1", "127.9.9.9", "::1")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "192.168.1.1", "example.org", "")))


def test_no_thread_or_descriptor_stays_behind(start: Any) -> None:
    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    with start() as running:
        running.complete()
    before = descriptors()
    for _ in range(3):
        with start() as running:
            running.complete()
    assert descriptors() <= before


def test_the_exercise_measures_what_was_served(start: Any) -> None:
    sampling = Sampling(temperature=1.5, top_p=0.5, seed=7)
    with start(step_s=0.005, max_running=4) as running:
        report = exercise(
            running.base_url, KEY, "tiny", ["The shell", [0, 20, 21]],
            max_tokens=10, concurrency=(1, 4), sampling=sampling,
        )  # fmt: skip
        drawn, fast = running.engine.submitted[:2], running.engine.submitted[2:]
        assert [(r.temperature, r.top_p, r.seed) for r in drawn] == [(1.5, 0.5, 7), (1.5, 0.5, 8)]
        assert len(fast) == 10 and {request.temperature for request in fast} == {0}
        assert [c["prompt"] for c in report["completions"]] == ["The shell", [0, 20, 21]]
        assert all(c["text"] and c["finish_reason"] == "length" for c in report["completions"])
        one, four = report["throughput"]
        assert (one["requests"], one["tokens"]) == (2, 20)
        assert (four["requests"], four["tokens"]) == (8, 80)
        assert 0 < one["tokens_per_s"] < 1 / 0.005  # a step gives one request one token
        assert 0 < four["tokens_per_s"] < 4 / 0.005  # and each of four that run together
        assert running.engine.max_seen_running > 1
        assert 0 < one["ttft_s"] <= one["ttft_p95_s"] < 5
        with pytest.raises(EngineError, match="no model"):
            request_completion(running.base_url, KEY, "x", model="other")
        with pytest.raises(EngineError, match="API key"):
            request_completion(running.base_url, "wrong", "x", model="tiny")
    began_s = time.monotonic()
    with pytest.raises(EngineError, match="broke off"):
        request_completion(running.base_url, KEY, "x", model="tiny")
    assert time.monotonic() - began_s < 5
