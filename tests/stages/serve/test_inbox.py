"""The inbox of a server's loop: all that is put arrives in order, and few wake-ups are spent."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from whorl.stages.serve.inbox import Inbox


def test_what_threads_put_arrives_in_the_order_of_each() -> None:
    got: list[tuple[int, int]] = []

    async def work() -> None:
        loop = asyncio.get_running_loop()
        inbox = Inbox(loop, lambda thread, number: got.append((thread, number)))

        def put(thread: int) -> None:
            for number in range(2_000):
                inbox.put((thread, number))

        threads = [threading.Thread(target=put, args=(n,)) for n in range(3)]
        for each in threads:
            each.start()
        while len(got) < 6_000:
            await asyncio.sleep(0.001)

    asyncio.run(asyncio.wait_for(work(), 30))
    for thread in range(3):
        assert [number for of, number in got if of == thread] == list(range(2_000))


def test_what_comes_together_wakes_the_loop_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> tuple[int, list[int]]:
        loop, got, wakes = asyncio.get_running_loop(), [], []
        real = loop.call_soon_threadsafe

        def counted(*arguments: Any) -> asyncio.Handle:
            wakes.append(1)
            return real(*arguments)

        monkeypatch.setattr(loop, "call_soon_threadsafe", counted)
        inbox = Inbox(loop, got.append)
        for number in range(16):  # the loop does not run meanwhile
            inbox.put((number,))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        inbox.put((16,))  # and is woken again
        while len(got) < 17:
            await asyncio.sleep(0)
        return len(wakes), got

    assert asyncio.run(work()) == (2, list(range(17)))


def test_one_that_fails_holds_up_no_other() -> None:
    async def work() -> list[int]:
        loop, got = asyncio.get_running_loop(), []
        loop.set_exception_handler(lambda loop, context: None)

        def deliver(number: int) -> None:
            if number == 1:
                raise ValueError(number)
            got.append(number)

        inbox = Inbox(loop, deliver)
        for number in range(4):
            inbox.put((number,))
        await asyncio.sleep(0.05)
        return got

    assert asyncio.run(work()) == [0, 2, 3]


def test_a_loop_that_cannot_be_woken_is_told_each_time() -> None:
    loop = asyncio.new_event_loop()
    inbox: Inbox[int] = Inbox(loop, print)
    loop.close()
    for number in range(2):
        with pytest.raises(RuntimeError, match="closed"):
            inbox.put((number,))


def test_a_thread_that_never_stops_leaves_the_loop_its_turns() -> None:
    """Deliveries that bring the next, as a fast engine does, let others of the loop run between."""

    async def work() -> tuple[int, int]:
        loop = asyncio.get_running_loop()
        got: list[int] = []

        def deliver(number: int) -> None:
            got.append(number)
            if len(got) < 100_000:
                inbox.put((number + 1,))

        inbox = Inbox(loop, deliver)
        inbox.put((0,))
        turns = 0
        while len(got) < 100:
            await asyncio.sleep(0)
            turns += 1
        return turns, len(got)

    turns, count = asyncio.run(work())
    assert turns >= 50 and count < 1_000
