"""Files in prompts: few are read at once, none after the deadline, none of a hopeless prompt."""

from __future__ import annotations

import asyncio
import base64
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.stages.serve.conftest import Running, Start
from whorl.codecs.contract import Tokens
from whorl.stages.serve.reading import READERS, FileReaders


class Slow:
    """A reader that takes its time, and knows how often and how many at once it was called."""

    def __init__(self, takes_s: float, real: Any = lambda item: item) -> None:
        self.takes_s, self.real = takes_s, real
        self.count = self.now = self.most = 0
        self.lock = threading.Lock()

    def __call__(self, item: Any) -> Any:
        with self.lock:
            self.count += 1
            self.now += 1
            self.most = max(self.most, self.now)
        time.sleep(self.takes_s)
        with self.lock:
            self.now -= 1
        return self.real(item)


def test_items_keep_their_order_and_requests_take_turns() -> None:
    read, ended = Slow(0.01), list[str]()

    async def ask(readers: FileReaders, name: str, count: int) -> None:
        items = [(name, number) for number in range(count)]
        assert await readers.each(items, read, None) == items
        ended.append(name)

    async def all_of_them() -> None:
        readers = FileReaders()
        await asyncio.gather(*(ask(readers, *each) for each in (("a", 30), ("b", 30), ("c", 1))))

    asyncio.run(all_of_them())
    assert read.most == READERS and read.count == 61
    assert ended[0] == "c"  # it waited for one of each, not for all


def test_after_the_deadline_nothing_is_begun() -> None:
    read = Slow(0.05)

    async def late() -> None:
        readers = FileReaders()
        with pytest.raises(TimeoutError):
            await readers.each(range(100), read, 0.12)
        begun = read.count
        await asyncio.sleep(0.15)
        assert read.count == begun
        leaving = asyncio.ensure_future(readers.each(range(100), read, None))
        await asyncio.sleep(0.07)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        begun = read.count
        await asyncio.sleep(0.15)
        assert read.count == begun
        with pytest.raises(TimeoutError):
            await readers.each([1], read, -1.0)

    asyncio.run(late())
    assert read.count <= 6


@pytest.fixture
def server(start: Start, mixed: Tokens) -> Iterator[Running]:
    with start(contract=mixed) as running:
        yield running


@pytest.fixture
def slow(mixed: Tokens, monkeypatch: pytest.MonkeyPatch) -> Slow:
    image: Any = mixed.codecs["image"]
    found = Slow(0.1, image.from_bytes)
    monkeypatch.setattr(image, "from_bytes", found)
    return found


def pictures(mixed: Tokens, count: int) -> list[dict[str, str]]:
    image: Any = mixed.codecs["image"]
    data = base64.b64encode(image.to_bytes(image.decode([3, 1, 4, 1]))).decode()
    return [{"codec": "image", "data": data}] * count


def test_more_files_than_the_context_holds_are_not_read(
    server: Running, mixed: Tokens, slow: Slow
) -> None:
    answer = server.complete(prompt=pictures(mixed, 65))  # of four ids each
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["code"] == "context_length_exceeded" and "65 files have 260" in error["message"]
    assert slow.count == 0 and server.gateway.inside == 0


def test_files_are_read_up_to_the_deadline(server: Running, mixed: Tokens, slow: Slow) -> None:
    body = server.body(prompt=pictures(mixed, 20))
    begin_s = time.monotonic()
    answer = server.client.post("/v1/completions", json=body, headers={"X-Request-Timeout": "0.3"})
    assert answer.status_code == 504 and answer.json()["error"]["code"] == "deadline_exceeded"
    assert time.monotonic() - begin_s < 1.5  # all of them take two seconds
    assert server.wait_until(lambda: server.gateway.inside == 0) and slow.count <= 4
    assert server.complete(prompt=pictures(mixed, 2)).status_code == 200


def test_of_all_requests_few_files_are_read_at_once(
    server: Running, mixed: Tokens, slow: Slow
) -> None:
    with ThreadPoolExecutor(6) as askers:
        asked = [askers.submit(server.complete, prompt=pictures(mixed, 2)) for _ in range(6)]
        assert {each.result().status_code for each in asked} == {200}
    assert slow.count == 12 and slow.most == READERS


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/rank"])
def test_of_a_client_that_left_no_more_files_are_read(
    server: Running, mixed: Tokens, slow: Slow, path: str
) -> None:
    body = {"model": "tiny", "prompt": pictures(mixed, 20)}
    body |= {"codec": "label"} if path == "/v1/rank" else {}
    with pytest.raises(httpx.ReadTimeout):
        server.client.post(path, json=body, timeout=0.3)
    assert 0 < slow.count < 10
    assert server.wait_until(lambda: server.gateway.inside == 0)
    begun = slow.count
    time.sleep(0.3)
    assert slow.count == begun and not server.engine.submitted
    assert server.complete(prompt=pictures(mixed, 2)).status_code == 200
