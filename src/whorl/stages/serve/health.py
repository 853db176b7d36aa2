"""Whether the engine makes tokens: from those of running answers, or one of a probe when idle."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable

from whorl.core.errors import EngineError
from whorl.core.ports import SERVERS_OWN, Engine, GenerateRequest, TokenEvent

__all__ = ["Health", "probe"]

FRESH_S = 5.0


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


class Health:
    """The last token of one engine, how long it has worked since, and a probe where that says
    nothing.

    A token that is at most FRESH_S old is proof enough. An engine at work has stall_s for the next
    one, in all: requests that leave before it came do not begin it anew. Else, where nothing runs
    or the last thing heard was a failure, one token is generated, by one probe however many ask;
    it must come within deadline_s.
    """

    def __init__(
        self, engine: Engine, token_id: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """token_id: what a probe goes on from."""
        self._engine, self._token_id, self._clock = engine, token_id, clock
        self.token_at_s: float | None = None
        self.failure: str | None = None
        self._num_inside = 0
        self._since_s = 0.0  # at work: when it would have begun, had it not paused
        self._worked_s = 0.0  # at rest: how long since the last token
        self._probe: asyncio.Task[None] | None = None

    def began(self) -> None:
        """One more request is inside."""
        if not self._num_inside:
            self._since_s = self._clock() - self._worked_s
        self._num_inside += 1

    def ended(self) -> None:
        """It is no more, whatever became of it."""
        self._num_inside -= 1
        if not self._num_inside:
            self._worked_s = self._clock() - self._since_s

    def saw_token(self) -> None:
        self.token_at_s, self.failure = self._clock(), None
        self._since_s, self._worked_s = self.token_at_s, 0.0

    def saw_failure(self, error: str) -> None:
        """Of the engine, not of a request: only a token says that it works again."""
        self.token_at_s, self.failure = None, error

    @property
    def stall_s(self) -> float | None:
        """Seconds of work since the last token; None at rest."""
        return self._clock() - self._since_s if self._num_inside else None

    def is_stalled(self, most_s: float) -> bool:
        return self.stall_s is not None and self.stall_s > most_s

    async def look(self, deadline_s: float, stall_s: float) -> str | None:
        """None when the engine makes tokens; else what is wrong."""
        if self.is_stalled(stall_s):
            return "stalled"
        if self.token_at_s is not None and self._clock() - self.token_at_s <= FRESH_S:
            return None
        if self._num_inside and self.failure is None:
            return None
        if self._probe is None or self._probe.done():
            self._probe = asyncio.get_running_loop().create_task(self._look())
        await asyncio.wait((self._probe,), timeout=deadline_s)
        if not self._probe.done():  # it goes on: the engine may come back
            return f"no token within {deadline_s:g} s"
        return self.failure

    async def _look(self) -> None:
        try:
            failure = await probe(self._engine, self._token_id)
        except Exception as error:  # whatever it is, it is no token
            failure = repr(error)
        if failure is None:
            self.saw_token()
        else:
            self.saw_failure(failure)

    def close(self) -> None:
        if self._probe is not None:
            self._probe.cancel()
