"""The HTTP service: /v1/completions, /v1/chat/completions, /v1/models, /health, the page at /.

Every answer other than 200 has the body that OpenAI's clients read (`whorl.stages.serve.errors`).
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncGenerator, Awaitable, Mapping
from contextlib import aclosing, suppress
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from whorl.codecs.contract import Tokens
from whorl.codecs.parts import SPECIAL_CODEC, decode_parts
from whorl.core.errors import DataError, RecordError
from whorl.core.ports import Engine
from whorl.spec.resolved import ServeConfig
from whorl.stages.serve.access import Access, Guard
from whorl.stages.serve.card import ModelCard
from whorl.stages.serve.errors import ApiError
from whorl.stages.serve.gateway import Gateway, Generation, Piece
from whorl.stages.serve.page import PAGE_FILES, add_page, page_facts
from whorl.stages.serve.request import Body, ChatBody, CompletionBody, parse_body, read_body

__all__ = ["create_app"]

ROUTES = (
    *("POST /v1/completions", "POST /v1/chat/completions"),
    *("GET /v1/models", "GET /v1/models/ID", "GET /health"),
)
Result = TypeVar("Result")


def create_app(
    engine: Engine,
    tokens: Tokens,
    card: ModelCard,
    config: ServeConfig,
    api_key: str | None,
) -> FastAPI:
    """The service; app.state.access holds its secrets. api_key None: a random one.

    Raises RecordError if engine, tokens and card are not of one token contract, SpecError if the
    API key is too weak.
    """
    _check_contract(engine, tokens, card)
    access = Access.of(api_key)
    gateway = Gateway(engine, tokens, card, config)
    app = FastAPI(
        title="whorl", docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False
    )
    app.state.access, app.state.gateway = access, gateway
    app.add_middleware(
        Guard,
        access=access,
        allowed_hosts=(*config.allowed_hosts, config.host),
        open_paths=frozenset(PAGE_FILES),
    )
    _add_errors(app)
    _add_api(app, gateway)
    add_page(app)
    return app


def _check_contract(engine: Engine, tokens: Tokens, card: ModelCard) -> None:
    digest = tokens.contract.digest
    for name, found in (
        (f"engine {engine.name}", engine.contract_digest),
        (f"model {card.name}", card.contract_digest),
    ):
        if found != digest:
            raise RecordError(
                f"{name} was made for another token contract",
                found=f"{found[:16]}…",
                expected=f"{digest[:16]}…, that of the loaded tokens",
                do="serve a model folder as it was written, with its own tokens",
            )


def _add_errors(app: FastAPI) -> None:
    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, ApiError)
        return error.response()

    async def not_routed(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        asked = f"{request.method} {request.scope['path'][:80]}"
        what, code = f"there is no route {asked}; there are {', '.join(ROUTES)}", "not_found"
        if error.status_code == 405:
            what, code = f"{asked}: the method is not allowed", "method_not_allowed"
        headers = dict(error.headers or {})
        return ApiError(error.status_code, what, code=code, headers=headers).response()

    async def failed(request: Request, error: Exception) -> Response:
        return ApiError(500, "the server failed; its log says why", code="internal").response()

    app.add_exception_handler(ApiError, refused)
    app.add_exception_handler(HTTPException, not_routed)
    app.add_exception_handler(Exception, failed)


def _add_api(app: FastAPI, gateway: Gateway) -> None:
    @app.api_route("/health", methods=["GET", "HEAD"])
    async def health() -> Response:
        return _health(gateway)

    @app.get("/v1/models")
    async def models() -> Response:
        return JSONResponse({"object": "list", "data": [_model(gateway)]})

    @app.get("/v1/models/{model_id:path}")
    async def model(model_id: str) -> Response:
        gateway.check_model(model_id)
        return JSONResponse(_model(gateway))

    @app.post("/v1/completions")
    async def completions(request: Request) -> Response:
        return await _complete(gateway, request, CompletionBody)

    @app.post("/v1/chat/completions")
    async def chat_completions(request: Request) -> Response:
        return await _complete(gateway, request, ChatBody)


def _health(gateway: Gateway) -> Response:
    """200 if the engine makes progress or has nothing to do, else 503."""
    stall_s = gateway.stall_s
    state = "stalled" if gateway.is_stalled else "stopping" if gateway.stopping else "ok"
    body = {"status": state, "requests": gateway.inside, "last_progress_s": stall_s}
    return JSONResponse(body, 200 if state == "ok" else 503)


def _model(gateway: Gateway) -> dict[str, Any]:
    card, contract = gateway.card, gateway.tokens.contract
    return {
        "id": card.name,
        "object": "model",
        "created": card.created,
        "owned_by": "whorl",
        "context_length": card.context_tokens,
        "max_tokens": gateway.config.max_tokens,
        "contract_digest": contract.digest,
        "vocab_size": contract.vocab_size,
        "codecs": [
            {
                **entry.model_dump(exclude={"files", "digest"}),
                "media_type": gateway.tokens.codecs[entry.name].media_type,
            }
            for entry in contract.codecs
        ],
        "engine": gateway.engine.name,
        "variant": card.variant,
        "lineage": card.lineage,
        "quality": [figure.model_dump() for figure in card.quality],
        "example_prompt": card.example_prompt,
        "sampling": card.sampling.model_dump(),
        **page_facts(gateway.tokens, card),
    }


# ------------------------------------------------------------------ answers


async def _complete(gateway: Gateway, request: Request, kind: type[Body]) -> Response:
    config = gateway.config
    data = await read_body(request, config.max_body_bytes, config.receive_s)
    body = parse_body(data, kind)
    generation = await gateway.start(body)
    if body.stream:
        return EventStream(gateway, body, generation)
    try:
        return await _or_gone(request.receive, _whole_answer(gateway, body, generation))
    except ClientGone:
        return Response(status_code=499)  # nobody reads it
    finally:
        generation.close()


async def _whole_answer(gateway: Gateway, body: Body, generation: Generation) -> Response:
    pieces: list[Piece] = []
    async with aclosing(generation.pieces()) as stream:
        async for piece in stream:
            pieces.append(piece)
    text = "".join(piece.text for piece in pieces)
    reason = pieces[-1].finish_reason
    if isinstance(body, ChatBody):
        message = {"role": "assistant", "content": text}
        answer = _chat_answer(gateway, generation, "message", message, reason)
    else:
        answer = _answer(gateway, generation, text, reason)
        answer["choices"][0].update(_parts(gateway.tokens, generation.kept_ids))
    answer["usage"] = _usage(generation, sum(piece.num_tokens for piece in pieces))
    return JSONResponse(answer)


def _answer(
    gateway: Gateway, generation: Generation, text: str, finish_reason: str | None
) -> dict[str, Any]:
    return {
        "id": generation.request.request_id,
        "object": "text_completion",
        "created": generation.created,
        "model": gateway.card.name,
        "choices": [{"index": 0, "text": text, "logprobs": None, "finish_reason": finish_reason}],
    }


def _chat_answer(
    gateway: Gateway, generation: Generation, key: str, message: Any, reason: str | None
) -> dict[str, Any]:
    """key: "message" for a whole answer, "delta" for a piece of one."""
    return {
        **_answer(gateway, generation, "", reason),
        "object": "chat.completion" if key == "message" else "chat.completion.chunk",
        "choices": [{"index": 0, key: message, "logprobs": None, "finish_reason": reason}],
    }


def _parts(tokens: Tokens, ids: list[int]) -> dict[str, Any]:
    """The answer as parts, where it is not text alone: each a file of its codec's media type."""
    files = []
    try:
        parts = [part for part in decode_parts(tokens, ids) if part.codec != SPECIAL_CODEC]
        if all(part.codec == "text" for part in parts):
            return {}
        for part in parts:
            codec = tokens.codecs[part.codec]
            data = base64.b64encode(codec.to_bytes(part.value)).decode()
            files.append({"codec": part.codec, "media_type": codec.media_type, "data": data})
    except DataError as error:
        return {"parts": None, "parts_error": str(error)}  # ids that are no value of their codec
    return {"parts": files}


def _usage(generation: Generation, completion_tokens: int) -> dict[str, int]:
    prompt_tokens = len(generation.request.prompt_ids)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


class EventStream(Response):
    """Server-sent events; ends the generation when the client leaves."""

    def __init__(self, gateway: Gateway, body: Body, generation: Generation) -> None:
        super().__init__(media_type="text/event-stream")
        del self.headers["content-length"]
        self._gateway, self._request, self._generation = gateway, body, generation

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            with suppress(ClientGone):
                await _or_gone(receive, self._send_all(send))
        finally:
            self._generation.close()  # the client may leave before the first piece is asked for

    async def _send_all(self, send: Send) -> None:
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(start)
        async with aclosing(self._events()) as events:
            async for data in events:
                line = data if isinstance(data, str) else json.dumps(data)
                chunk = f"data: {line}\n\n".encode()
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def _events(self) -> AsyncGenerator[dict[str, Any] | str, None]:
        generation, num_tokens = self._generation, 0
        options = self._request.stream_options
        with_usage = options is not None and options.include_usage
        usage = {"usage": None} if with_usage else {}
        try:
            async with aclosing(generation.pieces()) as stream:
                if isinstance(self._request, ChatBody):
                    yield self._piece("", None, {"role": "assistant"}) | usage
                async for piece in stream:
                    num_tokens += piece.num_tokens
                    if piece.text or piece.finish_reason is not None:
                        yield self._piece(piece.text, piece.finish_reason) | usage
        except ApiError as error:
            yield error.body
            return
        if with_usage:
            answer = self._piece("", None) | {"choices": []}
            yield answer | {"usage": _usage(generation, num_tokens)}
        yield "[DONE]"

    def _piece(
        self, text: str, reason: str | None, more: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        if not isinstance(self._request, ChatBody):
            answer = _answer(self._gateway, self._generation, text, reason)
            if reason is not None:
                found = _parts(self._gateway.tokens, self._generation.kept_ids)
                answer["choices"][0].update(found)
            return answer
        delta = {**(more or {}), "content": text}
        return _chat_answer(self._gateway, self._generation, "delta", delta, reason)


class ClientGone(Exception):
    """The client closed its connection before the answer was complete."""


async def _or_gone(receive: Receive, work: Awaitable[Result]) -> Result:
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
