"""The HTTP service: the wire formats (`dialects`), /health, the page at /.

Every answer other than 200 has the body that OpenAI's clients read (`whorl.stages.serve.errors`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from whorl.codecs.contract import Tokens
from whorl.core.environments import PlayTask
from whorl.core.ports import Engine
from whorl.spec.resolved import ServeConfig
from whorl.stages.serve.access import SECURITY_HEADERS, Access, Guard
from whorl.stages.serve.card import ModelCard
from whorl.stages.serve.desk import Desk
from whorl.stages.serve.dialects.routes import PLACED, ROUTES, add_dialects
from whorl.stages.serve.errors import ApiError
from whorl.stages.serve.exchange import ClientGone
from whorl.stages.serve.gateway import Gateway
from whorl.stages.serve.metrics import CONTENT_TYPE
from whorl.stages.serve.page import PAGE_FILES, add_page
from whorl.stages.serve.served import Served

__all__ = ["create_app"]


def create_app(
    engine: Engine,
    tokens: Tokens,
    card: ModelCard,
    config: ServeConfig,
    api_key: str | None,
    desk: Desk | None = None,
    plays: Mapping[str, PlayTask] | None = None,
    beside: Sequence[Served] = (),
) -> FastAPI:
    """The service; app.state.access holds its secrets. api_key None: the desk's keys, where it has
    some, else a random one. desk None: one without a home. plays: see Served; beside: see Gateway.

    Raises RecordError if engine, tokens and card are not of one token contract, SpecError if the
    API key is too weak.
    """
    served, desk = Served(engine, tokens, card, engine.close, plays), desk or Desk.of(config)
    access = Access.of(api_key, desk.keys, desk.ledger)
    gateway = Gateway(served, config, desk, PLACED, beside)
    app = FastAPI(
        title="whorl", docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False
    )
    app.state.access, app.state.gateway = access, gateway
    app.add_middleware(
        Guard,
        access=access,
        allowed_hosts=(*config.allowed_hosts, config.host),
        open_paths=frozenset(PAGE_FILES),
        allowed_origins=config.allowed_origins,
        on_refused=desk.refused,
        check_room=gateway.check_room,
    )
    _add_errors(app, desk)
    _add_health(app, gateway)
    add_dialects(app, gateway)
    add_page(app)
    return app


def _add_errors(app: FastAPI, desk: Desk) -> None:
    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, ApiError)
        desk.refused(error.code)
        return error.response(request.scope["path"])

    async def gone(request: Request, error: Exception) -> Response:
        return Response(status_code=499)  # nobody reads it

    async def not_routed(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        asked = f"{request.method} {request.scope['path'][:80]}"
        known = ", ".join((*ROUTES, "GET /health", "GET /metrics"))
        what, code = f"there is no route {asked}; there are {known}", "not_found"
        if error.status_code == 405:
            what, code = f"{asked}: the method is not allowed", "method_not_allowed"
        headers = dict(error.headers or {})
        told = ApiError(error.status_code, what, code=code, headers=headers)
        return told.response(request.scope["path"])

    async def failed(request: Request, error: Exception) -> Response:
        # outside of the guard; the connection is closed, which clients that keep it must be told
        headers = {**SECURITY_HEADERS, "Connection": "close"}
        what = "the server failed; its log says why"
        told = ApiError(500, what, code="internal", headers=headers)
        return told.response(request.scope["path"])

    app.add_exception_handler(ApiError, refused)
    app.add_exception_handler(ClientGone, gone)
    app.add_exception_handler(HTTPException, not_routed)
    app.add_exception_handler(Exception, failed)


def _add_health(app: FastAPI, gateway: Gateway) -> None:
    @app.api_route("/health", methods=["GET", "HEAD"])
    async def health() -> Response:
        return await _health(gateway)

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(gateway.desk.meters.text(), media_type=CONTENT_TYPE)


async def _health(gateway: Gateway) -> Response:
    """200 if the engine makes tokens, of answers or, where there are none, of a probe; else 503."""
    fault = await gateway.fault()
    state = "ok" if fault is None else fault if fault in ("stalled", "stopping") else "failed"
    body = {"status": state, "requests": gateway.inside, "last_progress_s": gateway.stall_s}
    return JSONResponse(body, 200 if fault is None else 503)
