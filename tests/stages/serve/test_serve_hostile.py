"""Raw sockets: slow, broken, oversized and mutated requests beside one that must get through."""

from __future__ import annotations

import json
import os
import random
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

TRIALS = 250 * int(os.environ.get("WHORL_TRIALS", "1"))
KEY = "test-key-0123456789abcdef"
HEAD = (
    b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"
    b"Authorization: Bearer " + KEY.encode() + b"\r\n"
)


@pytest.fixture(scope="module")
def server(start):  # type: ignore[no-untyped-def]
    with start(receive_s=0.5) as running:
        yield running


@contextmanager
def connected(running: Any) -> Iterator[socket.socket]:
    host, port = running.base_url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        yield connection


def exchange(running: Any, data: bytes, leave: bool = True) -> bytes:
    """Everything the server says until it closes; leave: say at once that no more will come."""
    with connected(running) as connection:
        try:
            connection.sendall(data)
            if leave:
                connection.shutdown(socket.SHUT_WR)
            answer = b""
            while block := connection.recv(65_536):
                answer += block
        except ConnectionError:
            pass
        return answer


def status_of(answer: bytes) -> int | None:
    return int(answer[9:12]) if answer.startswith(b"HTTP/1.1 ") else None


def with_body(body: bytes) -> bytes:
    return HEAD + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body


@pytest.mark.parametrize(
    ("data", "statuses"),
    [
        (b"", {None}),
        (b"\r\n\r\n", {400, None}),
        (b"GET / HTTP/1.1\r\n\r\n", {400}),  # no Host
        (b"GET /health HTTP/1.0\r\n\r\n", {403}),  # no Host, allowed by HTTP/1.0
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", {400}),
        (b"GET /%ff%00 HTTP/1.1\r\nHost: localhost\r\n\r\n", {401}),
        (b"GET /health/../v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n", {401}),
        (b"GET http://localhost/health HTTP/1.1\r\nHost: localhost\r\n\r\n", {401}),
        (b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer \r\n\r\n", {401}),
        (HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef", {400}),
        (HEAD + b"Content-Length: -1\r\n\r\n", {400}),
        (HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", {400}),
        (HEAD + b"Transfer-Encoding: gzip\r\n\r\n", {400, 501, None}),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", {400, None}),
        (HEAD + b"X: " + b"y" * 100_000 + b"\r\n\r\n", {400, 431, None}),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", {400, None}),  # a TLS greeting
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", {400, 403}),
        (HEAD + b"Upgrade: websocket\r\nConnection: upgrade\r\nContent-Length: 2\r\n\r\n{}", {400}),
    ],
)
def test_broken_requests(server: Any, data: bytes, statuses: set[int | None]) -> None:
    assert status_of(exchange(server, data)) in statuses
    assert server.client.get("/health").status_code == 200


@pytest.mark.parametrize("length", [b"1000000000", b"99999999999999999999"])
def test_a_long_body_is_refused_before_it_comes(server: Any, length: bytes) -> None:
    with connected(server) as connection:
        connection.sendall(HEAD + b"Content-Length: " + length + b"\r\n\r\n")
        began_s = time.monotonic()
        answer = connection.recv(4096)
    assert status_of(answer) == 413
    assert time.monotonic() - began_s < 0.4


def test_a_long_chunked_body_is_cut_at_the_limit(server: Any) -> None:
    with connected(server) as connection:
        connection.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        sent_bytes = 0
        try:
            while sent_bytes < 50_000_000:
                connection.sendall(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")
                sent_bytes += 0x10000
        except OSError:
            pass
    assert sent_bytes < 20_000_000  # what socket buffers hold, not what was offered


def test_a_slow_head_and_a_slow_body_are_closed_at_the_deadline(server: Any) -> None:
    for data, status in (
        (b"", None),
        (b"POST /v1/comp", None),
        (HEAD + b"Content-Length: 50\r\n\r\n{", 408),
    ):
        began_s = time.monotonic()
        with connected(server) as connection:
            connection.sendall(data)
            answer = b""
            try:
                while block := connection.recv(4096):
                    answer += block
            except ConnectionError:
                pass
        assert 0.4 < time.monotonic() - began_s < 3
        assert status_of(answer) == status


def test_bytes_trickled_into_the_head_do_not_move_the_deadline(server: Any) -> None:
    began_s = time.monotonic()
    with connected(server) as connection, pytest.raises(ConnectionError):
        for byte in HEAD * 10:
            connection.sendall(bytes([byte]))
            time.sleep(0.05)
    assert time.monotonic() - began_s < 3


def test_idle_connections_beyond_the_cap_do_not_keep_others_out(start: Any) -> None:
    with start(receive_s=20, max_connections=20) as running:
        host, port = running.base_url.removeprefix("http://").split(":")
        idle = [socket.create_connection((host, int(port)), timeout=5) for _ in range(60)]
        for connection in idle:
            connection.settimeout(5)
        waits_s = []
        for _ in range(5):
            began_s = time.monotonic()
            assert running.complete().status_code == 200
            waits_s.append(time.monotonic() - began_s)
        assert max(waits_s) < 1
        closed = 0
        for connection in idle[:30]:  # the oldest were closed
            try:
                closed += connection.recv(1) == b""
            except ConnectionError:
                closed += 1
        assert closed == 30
        for connection in idle:
            connection.close()


def test_a_client_that_does_not_read_is_dropped_and_frees_its_place(start: Any) -> None:
    with start(
        lambda request: [300] * request.max_tokens,
        send_s=0.3,
        max_tokens=100_000,
        context_tokens=200_000,
    ) as running:
        body = json.dumps(running.body(stream=True, max_tokens=100_000)).encode()
        with connected(running) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.sendall(with_body(body))
            assert running.wait_until(lambda: running.gateway.inside == 1)
            assert running.wait_until(lambda: running.gateway.inside == 0, 10)
        assert running.complete().status_code == 200


def test_who_leaves_after_sending_the_next_request_too_frees_the_place(start: Any) -> None:
    with start(step_s=0.02, context_tokens=1024) as running:
        body = json.dumps(running.body(max_tokens=400)).encode()
        request = HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body
        with connected(running) as connection:
            connection.sendall(request + request[:100])
            assert running.wait_until(lambda: running.gateway.inside == 1)
        assert running.wait_until(lambda: running.gateway.inside == 0, 0.5)
        with connected(running) as connection:  # both are answered to one who stays
            short = running.body(max_tokens=3)
            body = json.dumps(short).encode()
            connection.sendall((HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body) * 2)
            answer = b""
            while answer.count(b"finish_reason") < 2:
                answer += connection.recv(4096)
        with connected(running) as connection, pytest.raises(ConnectionError):
            connection.sendall(request + b"x" * 1_000_000)
            while connection.recv(4096):
                pass
            raise ConnectionError  # closed without a reset


SCRAPS = (
    b"\r\n",
    b"\r",
    b"\n",
    b":",
    b" ",
    b"\x00",
    b"\xff",
    b"HTTP/1.1",
    b"chunked",
    b"%00",
    b"9" * 30,
)


def mutate(data: bytes, chooser: random.Random) -> bytes:
    for _ in range(chooser.randrange(1, 5)):
        at = chooser.randrange(len(data) + 1)
        insert = chooser.choice([b"", chooser.choice(SCRAPS), bytes([chooser.randrange(256)])])
        data = data[:at] + insert + data[at + chooser.randrange(6) :]
    return data


def test_mutated_requests_never_make_a_500(start: Any) -> None:
    with start(receive_s=0.1) as running:
        body = json.dumps(running.body(max_tokens=2, stop=["x"], temperature=0.5)).encode()
        statuses = set()
        for number in range(TRIALS):
            data = mutate(with_body(body), random.Random(number))
            status = status_of(exchange(running, data, leave=number % 2 == 0))
            assert status is None or 200 <= status < 500, (status, data)
            statuses.add(status)
        assert {200, 400, 401} <= statuses
        assert running.wait_until(lambda: running.gateway.inside == 0)
        assert running.complete().status_code == 200


@pytest.mark.parametrize(
    "prompt", ["a" * 200_000, " " * 200_000, "🎉" * 40_000, "\x00" * 1000, "é\u0301" * 9000]
)
def test_odd_prompts_are_answered_or_refused(server: Any, prompt: str) -> None:
    began_s = time.monotonic()
    assert server.complete(prompt=prompt).status_code == 400  # all over the context
    assert server.complete(prompt=prompt[:10]).status_code == 200
    assert time.monotonic() - began_s < 8
