"""One request over HTTP: read, parsed, started, and answered whole or as a stream of events.

The generation ends when the client leaves, at whatever point that is.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, suppress
from typing import Any, TypeVar

from fastapi.responses import JSONResponse, PlainTextResponse, Response
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from whorl.stages.serve.access import caller_of
from whorl.stages.serve.ask import Ask
from whorl.stages.serve.errors import ApiError
from whorl.stages.serve.gateway import Gateway
from whorl.stages.serve.generation import Generation
from whorl.stages.serve.limits import max_time_of
from whorl.stages.serve.request import AnswerBody, AnyBody, parse_body, read_body
from whorl.stages.serve.wire import Wire

__all__ = ["ByteStream", "ClientGone", "answer", "answered", "or_gone", "read_parsed"]

Result = TypeVar("Result")
MOST_INLINE_BYTES = 16 * 2**10  # of a body that is parsed at once: 1 to 2 ms


async def read_parsed(gateway: Gateway, request: Request, kind: type[AnyBody]) -> AnyBody:
    """The body, within the server's limits. Raises ApiError as `read_body` and `parse_body`."""
    config = gateway.config
    data = await read_body(request, gateway.max_body_bytes, config.receive_s)
    return await _aside(len(data), lambda: parse_body(data, kind))


async def _aside(num_bytes: int, work: Callable[[], Result]) -> Result:
    """By a thread where it takes long: the others go on meanwhile."""
    return work() if num_bytes <= MOST_INLINE_BYTES else await asyncio.to_thread(work)


async def answer(gateway: Gateway, request: Request, wire: Wire[Any]) -> Response:
    """Answer a request in its wire format. Raises ApiError before anything is sent."""
    config = gateway.config
    data = await read_body(request, gateway.max_body_bytes, config.receive_s)

    def parse() -> tuple[Any, Ask]:
        body = parse_body(data, wire.body)
        return body, wire.ask(body)

    body, asked = await _aside(len(data), parse)
    return await answered(gateway, request, wire, body, asked)


async def answered(
    gateway: Gateway, request: Request, wire: Wire[Any], body: AnswerBody, asked: Ask
) -> Response:
    """The same, once the body has been read."""
    max_time = max_time_of(request.headers.get("x-request-timeout"))
    starting = gateway.start(asked, caller_of(request), max_time)
    generation = await or_gone(request.receive, starting)  # its files may take long to read
    headers = {"X-Request-Id": generation.id, "Request-Id": generation.id}
    if body.stream:
        return _EventStream(body, generation, wire, headers)
    try:
        whole = wire.whole(body, generation, generation.tokens)
        told = await or_gone(request.receive, whole)
        kind = PlainTextResponse if isinstance(told, str) else JSONResponse
        return kind(told, headers=headers)
    finally:
        generation.close()


class _EventStream(Response):
    """Server-sent events."""

    def __init__(
        self,
        body: AnswerBody,
        generation: Generation,
        wire: Wire[Any],
        headers: dict[str, str],
    ) -> None:
        super().__init__(media_type="text/event-stream", headers=headers)
        del self.headers["content-length"]
        self._body, self._generation = body, generation
        self._wire = wire

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            with suppress(ClientGone):
                await or_gone(receive, self._send_all(send))
        finally:
            self._generation.close()  # the client may leave before the first piece is asked for

    async def _send_all(self, send: Send) -> None:
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(start)

        num_sent = 0

        async def send_event(event: str) -> None:
            nonlocal num_sent
            num_sent += 1
            message = {"type": "http.response.body", "body": event.encode(), "more_body": True}
            await send(message)

        made = self._wire.events(self._body, self._generation, self._generation.tokens)
        try:
            async with aclosing(made) as events:
                async for event in events:
                    await send_event(event)
        except ApiError as error:
            await send_event(self._wire.failed(error, num_sent))
        await send({"type": "http.response.body", "body": b""})


class ByteStream(Response):
    """Bytes as they are made; where making them fails, the answer is cut short."""

    def __init__(
        self,
        made: AsyncGenerator[bytes, None],
        generation: Generation,
        headers: dict[str, str],
        media_type: str,
    ) -> None:
        super().__init__(media_type=media_type, headers=headers)
        del self.headers["content-length"]
        self._made, self._generation = made, generation

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            with suppress(ClientGone):
                await or_gone(receive, self._send_all(send))
        finally:
            self._generation.close()

    async def _send_all(self, send: Send) -> None:
        async with aclosing(self._made) as pieces:
            first = await anext(pieces, b"")  # a refusal before it is still one
            start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
            await send(start)
            await send({"type": "http.response.body", "body": first, "more_body": True})
            async for piece in pieces:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


class ClientGone(Exception):
    """The client closed its connection before the answer was complete."""


async def or_gone(receive: Receive, work: Awaitable[Result]) -> Result:
    """The result of work, which is cancelled at once when the client leaves: ClientGone."""
    worker = asyncio.ensure_future(work)
    watcher = asyncio.ensure_future(_disconnect(receive))
    try:
        await asyncio.wait((worker, watcher), return_when=asyncio.FIRST_COMPLETED)
        if worker.done():
            return worker.result()
        raise ClientGone
    finally:
        for task in (worker, watcher):
            task.cancel()
        await asyncio.gather(worker, watcher, return_exceptions=True)


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
