"""The server under attack, and what came of an attack. Only sockets: any server can be named."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

__all__ = ["Attack", "Outcome", "Reply", "Victim", "status_of"]

TIMEOUT_S = 20.0
MAX_TOLD = 20  # failures of one attack


@dataclass(frozen=True)
class Reply:
    """What one request came to, on the client's clock. status 0: no answer."""

    status: int
    head: str
    body: bytes
    took_s: float

    @property
    def retry_after_s(self) -> float | None:
        for line in self.head.lower().split("\r\n"):
            if line.startswith("retry-after:"):
                return float(line.partition(":")[2])
        return None


@dataclass(frozen=True)
class Victim:
    """Where a server is, and a key that it takes."""

    base_url: str
    api_key: str = field(repr=False)
    model: str
    prompt: str = "a shell"
    pid: int | None = None  # of the server, where its memory and files can be looked at

    @property
    def address(self) -> tuple[str, int]:
        parts = urlsplit(self.base_url)
        return parts.hostname or "127.0.0.1", parts.port or 80

    def body(self, **fields: Any) -> dict[str, Any]:
        return {"model": self.model, "prompt": self.prompt, "max_tokens": 4, **fields}

    def head(self, method: str, path: str, headers: Mapping[str, str] | None = None) -> bytes:
        """A head up to its last header: whoever sends it ends it."""
        given = {"Host": "localhost", "Authorization": f"Bearer {self.api_key}", **(headers or {})}
        lines = [f"{name}: {value}" for name, value in given.items()]
        return "\r\n".join([f"{method} {path} HTTP/1.1", *lines, ""]).encode("utf-8", "replace")

    def request(
        self, path: str, data: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> bytes:
        """A whole request, after which the server closes."""
        end = b"Connection: close\r\n"
        if data is None:
            return self.head("GET", path, headers) + end + b"\r\n"
        end += b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(data)
        return self.head("POST", path, headers) + end + data

    def completion(self, **fields: Any) -> bytes:
        return self.request("/v1/completions", json.dumps(self.body(**fields)).encode())

    @contextmanager
    def connected(self, timeout_s: float = TIMEOUT_S) -> Iterator[socket.socket]:
        with socket.create_connection(self.address, timeout=timeout_s) as connection:
            yield connection

    def exchange(self, data: bytes, leave: bool = False, timeout_s: float = TIMEOUT_S) -> bytes:
        """All that the server says until it closes. leave: say at once that no more will come.

        Raises TimeoutError if it neither answers nor closes.
        """
        answer = b""
        with self.connected(timeout_s) as connection:
            try:
                connection.sendall(data)
                if leave:
                    with suppress(OSError):  # ENOTCONN: the server has closed already
                        connection.shutdown(socket.SHUT_WR)
                while block := connection.recv(65_536):
                    answer += block
            except ConnectionError:
                pass
        return answer

    async def ask(self, data: bytes, timeout_s: float = 60.0) -> Reply:
        """The same among many others."""
        began_s, answer = time.monotonic(), b""
        writer = None
        try:
            async with asyncio.timeout(timeout_s):
                reader, writer = await asyncio.open_connection(*self.address)
                writer.write(data)
                while block := await reader.read(65_536):
                    answer += block
        except (OSError, TimeoutError):
            pass
        finally:
            if writer is not None:
                writer.close()
        head, _, body = answer.partition(b"\r\n\r\n")
        took_s = time.monotonic() - began_s
        return Reply(status_of(answer) or 0, head.decode("latin-1"), body, took_s)

    def is_well(self) -> bool:
        """It is up, its engine makes tokens, and a right request is answered."""
        health = status_of(self.exchange(self.request("/health")))
        return health == 200 and status_of(self.exchange(self.completion())) == 200

    def num_open_files(self) -> int | None:
        """Of the server's process, its sockets among them; None where that cannot be seen."""
        try:
            return None if self.pid is None else len(os.listdir(f"/proc/{self.pid}/fd"))
        except OSError:
            return None

    def memory_bytes(self) -> int | None:
        """Resident, of the server's process; None where that cannot be seen."""
        import psutil

        try:
            return None if self.pid is None else int(psutil.Process(self.pid).memory_info().rss)
        except psutil.Error:
            return None


def status_of(answer: bytes) -> int | None:
    """The status of an answer; None if there is none."""
    digits = answer[9:12]
    return int(digits) if answer.startswith(b"HTTP/1.1 ") and digits.isdigit() else None


@dataclass
class Outcome:
    """What an attack found. Failures are told with what was sent, so that they can be repeated."""

    number: str  # of the fault, C1 …
    name: str
    must: str  # the bar
    trials: int = 0
    num_failed: int = 0
    failures: list[str] = field(default_factory=list)  # the first of them
    figures: dict[str, float | str] = field(default_factory=dict)
    seconds: float = 0.0

    def check(self, is_right: bool, told: object) -> None:
        self.trials += 1
        if not is_right:
            self.num_failed += 1
            if len(self.failures) < MAX_TOLD:
                self.failures.append(str(told)[:500])

    @property
    def most_likely_rate(self) -> float:
        """Upper bound (95%) of the rate of failures, where none was seen: 1 - 0.05^(1/n)."""
        return 1.0 if not self.trials else 1.0 - 0.05 ** (1.0 / self.trials)


@dataclass(frozen=True)
class Attack:
    """One fault: how often it is tried in a short run, and in one whose figures are told."""

    number: str
    name: str
    must: str
    short: int
    report: int
    run: Callable[[Victim, int, int, Outcome], None]  # (target, trials, seed, where it is told)

    def outcome(self, target: Victim, trials: int, seed: int) -> Outcome:
        """Runs it; what it raises is a failure too, and so is a server that is not well after."""
        found = Outcome(self.number, self.name, self.must)
        began_s = time.monotonic()
        try:
            self.run(target, trials, seed, found)
            found.check(target.is_well(), "the server is not well afterwards")
        except Exception as error:  # such as an answer that is no JSON
            found.check(False, f"{type(error).__name__}: {error}")
        found.seconds = time.monotonic() - began_s
        return found
