"""uvicorn's HTTP/1.1 with what it lacks: deadlines on heads and on readers, a connection cap."""

from __future__ import annotations

import asyncio
from typing import ClassVar

from uvicorn.protocols.http.h11_impl import H11Protocol

from whorl.spec.resolved import ServeConfig

__all__ = ["MAX_HEAD_BYTES", "protocol_for"]

MAX_HEAD_BYTES = 16 * 2**10


def protocol_for(config: ServeConfig) -> type[H11Protocol]:
    """The protocol of one server, within its limits."""
    return type("ServerProtocol", (_DeadlineProtocol,), {"limits": config, "idle": {}})


class _DeadlineProtocol(H11Protocol):
    """One connection. Timers end in transport.abort, which tells the application it is gone."""

    limits: ClassVar[ServeConfig]
    # Connections without a request in progress, oldest first: beyond the cap these are closed,
    # so that slow ones cannot keep others out.
    idle: ClassVar[dict[_DeadlineProtocol, None]]
    timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.limits.max_connections:
            oldest = next(iter(self.idle), self)
            self.idle.pop(oldest, None)
            oldest.transport.abort()
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._set_timer(None)
        self.idle.pop(self, None)
        super().connection_lost(exc)

    def handle_events(self) -> None:
        super().handle_events()
        if self.cycle is None or self.cycle.response_complete:
            return
        if self in self.idle:
            del self.idle[self]
            self._set_timer(None)
        if waiting_bytes := len(self.conn.trailing_data[0]):  # the client's next request
            if waiting_bytes > MAX_HEAD_BYTES:
                self.transport.abort()
            else:
                self.flow.resume_reading()  # else nobody would notice that it leaves

    def on_response_complete(self) -> None:
        self._wait_for_head()
        super().on_response_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._set_timer(self.limits.send_s)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self not in self.idle:
            self._set_timer(None)

    def _wait_for_head(self) -> None:
        self.idle[self] = None
        unsent = self.transport.get_write_buffer_size() > 0
        self._set_timer(self.limits.send_s if unsent else self.limits.receive_s)

    def _set_timer(self, delay_s: float | None) -> None:
        if self.timer is not None:
            self.timer.cancel()
        abort = self.transport.abort
        self.timer = None if delay_s is None else self.loop.call_later(delay_s, abort)
