"""A client that leaves at any moment of an answer takes its generation with it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from whorl.codecs.contract import Tokens
from whorl.core.errors import EngineError
from whorl.core.ports import GenerateRequest, TokenEvent
from whorl.spec.resolved import ServeConfig
from whorl.stages.serve.app import create_app
from whorl.stages.serve.card import ModelCard
from whorl.testing.engine import FakeEngine

KEY = "test-key-0123456789abcdef"
HEADERS = [(b"host", b"localhost"), (b"authorization", f"Bearer {KEY}".encode())]


async def leave(
    app: Any,
    body: dict[str, Any],
    sends_before: int,
    may_leave: Callable[[], bool] | None = None,
) -> list[str]:
    """Ask, take so many messages, and leave while the next one is being sent, or once one may."""
    data = [{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}]
    gone, sent = asyncio.Event(), []
    stuck = asyncio.Event()

    async def receive() -> dict[str, Any]:
        if data:
            return data.pop()
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        if len(sent) == sends_before:
            gone.set()
            await stuck.wait()  # the client does not read; only cancelling ends this
        sent.append(message["type"])

    async def leave_early() -> None:
        while may_leave is not None and not may_leave():
            await asyncio.sleep(0.001)
        if may_leave is not None:
            gone.set()

    leaving = asyncio.ensure_future(leave_early())
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/completions",
        "raw_path": b"/v1/completions",
        "root_path": "",
        "scheme": "http",
        "query_string": b"",
        "headers": HEADERS,
        "http_version": "1.1",
    }
    await asyncio.wait_for(app(scope, receive, send), 10)
    await asyncio.wait_for(leaving, 10)
    for _ in range(500):
        if not app.state.gateway.inside:
            break
        await asyncio.sleep(0.01)
    return sent


@pytest.mark.parametrize(("stream", "sends_before"), [(True, 0), (True, 1), (True, 3), (False, 9)])
def test_a_client_that_leaves_cancels_its_generation(
    tokens: Tokens, stream: bool, sends_before: int
) -> None:
    digest = tokens.contract.digest
    engine = FakeEngine(digest, step_s=0.01)
    card = ModelCard(name="tiny", contract_digest=digest, context_tokens=4096)
    app = create_app(engine, tokens, card, ServeConfig(max_tokens=4000), KEY)
    body = {"model": "tiny", "prompt": "a shell", "max_tokens": 4000, "stream": stream}
    try:
        runs = None if stream else lambda: bool(engine.submitted)
        sent = asyncio.run(leave(app, body, sends_before, runs))
        assert len(sent) == sends_before if stream else "http.response.start" in sent
        (request,) = engine.submitted
        assert engine.cancelled_ids == [request.request_id]
        assert app.state.gateway.inside == 0
        assert engine.stats().running == 0
    finally:
        engine.close()


class Reading(FakeEngine):
    """Takes its time over grammars, and may refuse them then."""

    begun = 0
    refuses = False

    def submit(self, request: GenerateRequest, on_event: Callable[[TokenEvent], None]) -> None:
        self.begun += 1
        time.sleep(0.2)
        if self.refuses:
            raise EngineError("this regex cannot be used")
        super().submit(request, on_event)


@pytest.mark.parametrize("refuses", [False, True])
def test_a_client_that_leaves_while_its_grammar_is_read_is_not_answered(
    tokens: Tokens, refuses: bool
) -> None:
    digest = tokens.contract.digest
    engine = Reading(digest, step_s=0.01)
    engine.refuses = refuses
    card = ModelCard(name="tiny", contract_digest=digest, context_tokens=4096)
    app = create_app(engine, tokens, card, ServeConfig(max_tokens=4000), KEY)
    body = {"model": "tiny", "prompt": "a shell", "max_tokens": 4000, "guided_regex": "[a-c]+"}
    body["stream"] = True
    try:
        asyncio.run(leave(app, body, 9, lambda: engine.begun == 1))
        assert [request.request_id for request in engine.submitted] == engine.cancelled_ids
        assert len(engine.submitted) == (0 if refuses else 1)
        assert app.state.gateway.inside == 0 and not app.state.gateway._submitted
        assert engine.stats().running == 0
    finally:
        engine.close()


class KeepingEngine(FakeEngine):
    """Keeps whom it tells of the last request."""

    on_event: Callable[[TokenEvent], None]

    def submit(self, request: GenerateRequest, on_event: Callable[[TokenEvent], None]) -> None:
        self.on_event = on_event
        super().submit(request, on_event)


def test_a_loop_that_ended_with_something_to_deliver_keeps_nobody_waiting(tokens: Tokens) -> None:
    """One app, asked from two loops one after the other, as clients for tests do."""
    digest = tokens.contract.digest
    engine = KeepingEngine(digest)
    card = ModelCard(name="tiny", contract_digest=digest, context_tokens=4096)
    app = create_app(engine, tokens, card, ServeConfig(), KEY)
    body = {"model": "tiny", "prompt": "a shell", "max_tokens": 3}

    async def ask() -> int:
        headers = {"Authorization": f"Bearer {KEY}"}
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, headers=headers) as client:
            asked = client.post("http://localhost/v1/completions", json=body)
            return (await asyncio.wait_for(asked, 10)).status_code

    try:
        for _ in range(2):
            loop = asyncio.new_event_loop()
            assert loop.run_until_complete(ask()) == 200
            engine.on_event(TokenEvent("late", (), "cancelled"))  # the loop runs no more
            loop.close()
    finally:
        engine.close()
