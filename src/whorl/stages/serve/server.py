"""Running the service: the socket, deadlines on connections, a graceful stop."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

import uvicorn
from fastapi import FastAPI

from whorl.core.children import SWITCH_S
from whorl.core.errors import EngineError
from whorl.spec.resolved import ServeConfig
from whorl.stages.serve.connections import MAX_HEAD_BYTES, protocol_for
from whorl.stages.serve.gateway import Gateway
from whorl.stages.serve.limits import Ledger
from whorl.stages.serve.sockets import base_url_of, listen, open_socket
from whorl.stages.serve.swap import NextModel, follow

__all__ = ["running_server", "serve"]

START_DEADLINE_S = 10.0
KEEP_ALIVE_S = 5
SAVE_EVERY_S = 5.0
LOOK_EVERY_S = 1.0  # whether the engine was given up


def serve(
    app: FastAPI,
    config: ServeConfig,
    on_start: Callable[[str], None] = lambda base_url: None,
    listener: socket.socket | None = None,
    next_model: NextModel | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT; a second signal ends it at once.

    on_start is given the base URL when the socket listens, before the first request. listener: of
    `open_socket`, for one who wants the port before there is an application. next_model: asked from
    time to time for a model that takes the place of the one before. Raises as `open_socket`,
    and EngineError when the engine was given up: a supervisor starts it anew.
    """
    if listener is None:
        listener = open_socket(config.host, config.port)
    listen(listener, config.host)
    server = _Server(app, config, next_model)
    with server.capture_signals():  # from here on, also before the loop runs
        on_start(base_url_of(listener))
        gc.collect()  # so that no garbage stays, too
        usual_s = sys.getswitchinterval()
        sys.setswitchinterval(SWITCH_S)
        gc.freeze()  # what stays is not looked through again: that takes tens of ms
        try:
            server.run(sockets=[listener])
        finally:
            gc.unfreeze()
            sys.setswitchinterval(usual_s)
    if server.engine_failure is not None:
        raise EngineError(
            "the server ended: its engine failed, and starting it again did not help",
            found=server.engine_failure,
            do="its log says more; start the server again, or serve another variant or engine",
        )


@contextlib.contextmanager
def running_server(
    app: FastAPI, config: ServeConfig, next_model: NextModel | None = None
) -> Iterator[str]:
    """The base URL of the service, run by a thread until the context ends. Raises as `serve`."""
    listener = open_socket(config.host, config.port)
    listen(listener, config.host)
    server = _Server(app, config, next_model)
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


async def _keep_books(ledger: Ledger) -> None:
    while True:
        await asyncio.sleep(SAVE_EVERY_S)
        await asyncio.to_thread(ledger.save)


class _Server(uvicorn.Server):
    """Stops in order: no new requests, grace_s for the running ones, then they are cancelled."""

    def __init__(
        self, app: FastAPI, config: ServeConfig, next_model: NextModel | None = None
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=protocol_for(config),
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
        self._next_model = next_model
        self.engine_failure: str | None = None
        self._chores: list[asyncio.Task[None]] = []

    def wait_started(self, deadline_s: float) -> bool:
        return self._running.wait(deadline_s)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        gateway = self._app.state.gateway
        chores = [_keep_books(gateway.desk.ledger), self._end_with(gateway)]
        if self._next_model is not None:
            chores.append(follow(gateway, self._next_model))
        self._chores = [asyncio.get_running_loop().create_task(each) for each in chores]
        self._running.set()

    async def _end_with(self, gateway: Gateway) -> None:
        """A server whose engine will never answer again ends."""
        while (failure := gateway.engine_failure) is None:
            await asyncio.sleep(LOOK_EVERY_S)
        self.engine_failure, self.should_exit = failure, True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        gateway = self._app.state.gateway
        gateway.refuse()
        for chore in self._chores:
            chore.cancel()
        await asyncio.gather(*self._chores, return_exceptions=True)
        timer = asyncio.get_running_loop().call_later(self._grace_s, gateway.stop)
        await super().shutdown(sockets)
        timer.cancel()
        gateway.stop()
        if gateway.retiring:
            await asyncio.wait(gateway.retiring, timeout=START_DEADLINE_S)
        gateway.desk.ledger.save()

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
