"""Whether the engine makes tokens: from those of running answers, or one of a probe when idle."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from whorl.core.errors import EngineError
from whorl.core.ports import SERVERS_OWN, Engine, GenerateRequest, TokenEvent

__all__ = ["Health", "probe"]


async def probe(engine: Engine, token_id: int) -> str | None:
    """None when the engine made a token; else what it said instead. Waits as long as it takes."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[TokenEvent] = loop.create_future()

    def settle(event: TokenEvent) -> None:
        if not done.done() and (event.token_ids or event.finish_reason is not None):
            done.set_result(event)

    def on_event(event: TokenEvent) -> None:  # on the engine's thread
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, event)

    name = f"probe-{uuid.uuid4().hex}"
    request = GenerateRequest(name, (token_id,), max_tokens=1, cache_key=SERVERS_OWN)
    try:
        engine.submit(request, on_event)
    except EngineError as error:
        return str(error)
    try:
        event = await done
    except asyncio.CancelledError:
        engine.cancel(request.request_id)
        raise
    failed = event.finish_reason in ("error", "cancelled")
    return (event.error or "cancelled") if failed else None


@dataclass
class Health:
    """The last token of an engine, and the probe that looks for a new one.

    A token that is at most `fresh_s` old is proof enough. Else, where nothing runs, one token is
    generated, by one probe however many ask; it must come within `deadline_s`.
    """

    deadline_s: float
    fresh_s: float = 5.0
    clock: Callable[[], float] = time.monotonic
    token_at_s: float | None = None
    failure: str | None = None
    _probe: asyncio.Task[None] | None = None
    _engine: Engine | None = None

    def saw_token(self) -> None:
        self.token_at_s, self.failure = self.clock(), None

    def saw_failure(self, error: str) -> None:
        """Of the engine, not of a request: the next look is a probe."""
        self.token_at_s, self.failure = None, error

    @property
    def is_fresh(self) -> bool:
        return self.token_at_s is not None and self.clock() - self.token_at_s <= self.fresh_s

    async def look(self, engine: Engine, token_id: int) -> str | None:
        """None when the engine makes tokens; else what is wrong."""
        if self.is_fresh and engine is self._engine:
            return None
        if self._probe is None or self._probe.done() or engine is not self._engine:
            if self._probe is not None:
                self._probe.cancel()
            self._engine = engine
            self._probe = asyncio.get_running_loop().create_task(self._look(engine, token_id))
        await asyncio.wait((self._probe,), timeout=self.deadline_s)
        if not self._probe.done():  # it goes on: the engine may come back
            return f"no token within {self.deadline_s:g} s"
        return self.failure

    async def _look(self, engine: Engine, token_id: int) -> None:
        self.failure = await probe(engine, token_id)
        if self.failure is None:
            self.saw_token()

    def close(self) -> None:
        if self._probe is not None:
            self._probe.cancel()
