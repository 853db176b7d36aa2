"""Running the service: the socket, deadlines on connections, a graceful stop."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from whorl.core.errors import BusyError, EngineError, SpecError
from whorl.spec.resolved import ServeConfig

__all__ = ["is_loopback", "open_socket", "running_server", "serve"]

START_DEADLINE_S = 10.0
KEEP_ALIVE_S = 5
MAX_HEAD_BYTES = 16 * 2**10
SEND_BUFFER_BYTES = 128 * 2**10  # what the kernel holds for a client that does not read


def serve(
    app: FastAPI, config: ServeConfig, on_start: Callable[[str], None] = lambda base_url: None
) -> None:
    """Serve until SIGTERM or SIGINT; a second signal ends it at once.

    on_start is given the base URL when the socket listens, before the first request.
    Raises BusyError when the port is taken, SpecError when the host is no address of ours.
    """
    listener = open_socket(config.host, config.port)
    server = _Server(app, config)
    on_start(base_url_of(listener))
    server.run(sockets=[listener])


@contextlib.contextmanager
def running_server(app: FastAPI, config: ServeConfig) -> Iterator[str]:
    """The base URL of the service, run by a thread until the context ends. Raises as `serve`."""
    listener = open_socket(config.host, config.port)
    server = _Server(app, config)
    thread = threading.Thread(
        target=server.run, kwargs={"sockets": [listener]}, name="whorl-serve", daemon=True
    )
    thread.start()
    try:
        if not server.wait_started(START_DEADLINE_S):
            raise EngineError("the server did not start", do="look at its log")
        yield base_url_of(listener)
    finally:
        server.should_exit = True
        thread.join(timeout=config.grace_s + START_DEADLINE_S)


def is_loopback(host: str) -> bool:
    """True if only this machine can reach a server bound to host."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def open_socket(host: str, port: int) -> socket.socket:
    """A bound socket. Raises BusyError naming the port, SpecError for a host that is not ours."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise SpecError(f"serve.host {host} is not an address", found=error.strerror) from error
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        listener.bind(address)
        listener.listen(min(1024, socket.SOMAXCONN))
    except OSError as error:
        listener.close()
        raise BusyError(
            f"cannot listen on port {port} of {host}",
            found=error.strerror,
            do="stop the other server, or set serve.port to another port (0: any free one)",
        ) from error
    return listener


def base_url_of(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    if ipaddress.ip_address(host).is_unspecified:
        host = "127.0.0.1" if listener.family == socket.AF_INET else "::1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class _Server(uvicorn.Server):
    """Stops in order: no new requests, grace_s for the running ones, then they are cancelled."""

    def __init__(self, app: FastAPI, config: ServeConfig) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=_protocol(config),
                ws="none",
                loop="asyncio",
                lifespan="off",
                log_level="error",  # a malformed request is no event to log
                access_log=False,  # the page's address holds a secret
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=int(config.grace_s) + 5,
                h11_max_incomplete_event_size=MAX_HEAD_BYTES,
            )
        )
        self._app, self._grace_s = app, config.grace_s
        self._running = threading.Event()

    def wait_started(self, deadline_s: float) -> bool:
        return self._running.wait(deadline_s)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._running.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        gateway = self._app.state.gateway
        gateway.refuse()
        timer = asyncio.get_running_loop().call_later(self._grace_s, gateway.stop)
        await super().shutdown(sockets)
        timer.cancel()
        gateway.stop()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn's, but a stop that was asked for is no error: nothing is raised again."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        signals = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self.handle_exit) for number in signals}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.force_exit = self.should_exit
        self.should_exit = True


def _protocol(config: ServeConfig) -> type[H11Protocol]:
    """uvicorn's HTTP/1.1 with what it lacks: deadlines on heads and on readers, a connection cap.

    `idle` holds the connections without a request in progress, oldest first: beyond the cap these
    are closed, so that slow ones cannot keep others out.
    """
    idle: dict[Any, None] = {}

    class DeadlineProtocol(H11Protocol):
        timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if len(self.connections) > config.max_connections:
                oldest = next(iter(idle), self)
                idle.pop(oldest, None)
                oldest.transport.abort()
            self._wait_for_head()

        def connection_lost(self, exc: Exception | None) -> None:
            self._set_timer(None)
            idle.pop(self, None)
            super().connection_lost(exc)

        def handle_events(self) -> None:
            super().handle_events()
            if self.cycle is None or self.cycle.response_complete:
                return
            if self in idle:
                del idle[self]
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
            self._set_timer(config.send_s)

        def resume_writing(self) -> None:
            super().resume_writing()
            if self not in idle:
                self._set_timer(None)

        def _wait_for_head(self) -> None:
            idle[self] = None
            unsent = self.transport.get_write_buffer_size() > 0
            self._set_timer(config.send_s if unsent else config.receive_s)

        def _set_timer(self, delay_s: float | None) -> None:
            if self.timer is not None:
                self.timer.cancel()
            abort = self.transport.abort
            self.timer = None if delay_s is None else self.loop.call_later(delay_s, abort)

    return DeadlineProtocol
