"""The routes of every wire format, and those beside them."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.responses import Response
from starlette.requests import Request

from whorl.stages.serve.dialects import anthropic, chat, completions, responses
from whorl.stages.serve.dialects.classifying import CLASSIFY, ClassifyBody, add_classifying
from whorl.stages.serve.dialects.models import add_models
from whorl.stages.serve.dialects.playing import PLAY, PlayBody, add_playing
from whorl.stages.serve.dialects.ranking import PATH, RankBody, add_ranking
from whorl.stages.serve.dialects.speaking import PATH as SPEECH
from whorl.stages.serve.dialects.speaking import SpeechBody, add_speaking
from whorl.stages.serve.dialects.tokenizing import TOKENIZING, add_tokenizing
from whorl.stages.serve.dialects.transcribing import PATH as TRANSCRIPTIONS
from whorl.stages.serve.dialects.transcribing import TranscriptionBody, add_transcribing
from whorl.stages.serve.errors import ApiError
from whorl.stages.serve.exchange import answer
from whorl.stages.serve.feedback import ROUTE, FeedbackBody, add_feedback
from whorl.stages.serve.gateway import Gateway
from whorl.stages.serve.request import Body
from whorl.stages.serve.wire import Wire

__all__ = ["BODIES", "FORMS", "PLACED", "ROUTES", "WIRES", "add_dialects"]

WIRES: tuple[Wire[Any], ...] = (completions.WIRE, chat.WIRE, responses.WIRE, anthropic.WIRE)
# routes whose requests take a place
PLACED = (*(wire.path for wire in WIRES), PATH, CLASSIFY, PLAY, TRANSCRIPTIONS, SPEECH)
# route -> what it takes
BODIES: dict[str, type[Body]] = {
    **{wire.path: wire.body for wire in WIRES},
    PATH: RankBody,
    CLASSIFY: ClassifyBody,
    PLAY: PlayBody,
    TRANSCRIPTIONS: TranscriptionBody,
    SPEECH: SpeechBody,
    **TOKENIZING,
    ROUTE: FeedbackBody,
}
FORMS = (TRANSCRIPTIONS,)  # of them those that take a form, no JSON
ROUTES = (*(f"POST {path}" for path in BODIES), "GET /v1/models", "GET /v1/models/ID")


def add_dialects(app: FastAPI, gateway: Gateway) -> None:
    """A new wire format is a file of this folder, and a line of WIRES."""
    for wire in WIRES:
        _add(app, gateway, wire)
    add_models(app, gateway)
    add_ranking(app, gateway)
    add_classifying(app, gateway)
    add_playing(app, gateway)
    add_transcribing(app, gateway)
    add_speaking(app, gateway)
    add_tokenizing(app, gateway)
    add_feedback(app, gateway)

    @app.post("/v1/embeddings", summary="Refused: no model here makes embeddings")
    async def embeddings(request: Request) -> Response:
        name, there = gateway.card.name, ", ".join(ROUTES)
        told = f"the model {name!r} generates, it makes no embeddings; there are {there}"
        raise ApiError(400, told, code="no_embeddings", param="model")


def _add(app: FastAPI, gateway: Gateway, wire: Wire[Any]) -> None:
    @app.post(wire.path, name=wire.path, summary=wire.summary)
    async def route(request: Request) -> Response:
        return await answer(gateway, request, wire)
