"""The routes of every wire format."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.responses import Response
from starlette.requests import Request

from whorl.stages.serve.dialects import chat, completions
from whorl.stages.serve.dialects.models import add_models
from whorl.stages.serve.exchange import answer
from whorl.stages.serve.gateway import Gateway
from whorl.stages.serve.wire import Wire

__all__ = ["ROUTES", "WIRES", "add_dialects"]

WIRES: tuple[Wire[Any], ...] = (completions.WIRE, chat.WIRE)
ROUTES = (*(f"POST {wire.path}" for wire in WIRES), "GET /v1/models", "GET /v1/models/ID")


def add_dialects(app: FastAPI, gateway: Gateway) -> None:
    """A new wire format is a file of this folder, and a line of WIRES."""
    for wire in WIRES:
        _add(app, gateway, wire)
    add_models(app, gateway)


def _add(app: FastAPI, gateway: Gateway, wire: Wire[Any]) -> None:
    @app.post(wire.path, name=wire.path, summary=wire.summary)
    async def route(request: Request) -> Response:
        return await answer(gateway, request, wire)
