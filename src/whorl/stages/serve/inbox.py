"""What an engine's thread tells the server's loop: what comes together wakes it once."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVarTuple

__all__ = ["Inbox"]

Told = TypeVarTuple("Told")


class Inbox(Generic[*Told]):
    """Any thread puts, the loop delivers, in their order. A wake-up costs more than an event."""

    def __init__(self, loop: asyncio.AbstractEventLoop, deliver: Callable[[*Told], None]) -> None:
        self.loop, self._deliver = loop, deliver
        self._told: deque[tuple[*Told]] = deque()
        self._is_woken = False

    def put(self, told: tuple[*Told]) -> None:
        """Raises RuntimeError if the loop cannot be woken any more: it is closed."""
        self._told.append(told)  # before the look: whoever empties it looks after this
        if not self._is_woken:
            self._is_woken = True
            try:
                self.loop.call_soon_threadsafe(self._empty)
            except BaseException:
                self._is_woken = False
                raise

    def _empty(self) -> None:
        self._is_woken = False
        try:
            for _ in range(len(self._told)):  # what comes meanwhile waits for its turn in the loop
                self._deliver(*self._told.popleft())
        finally:
            if self._told and not self._is_woken:  # one raised; the others are delivered as well
                self._is_woken = True
                self.loop.call_soon(self._empty)
