"""POST /v1/feedback: what people think of answers, one line each, only ever added to.

    <home>/.serving/feedback.jsonl

A line names the answer by the id that its client was given (`chatcmpl-…`), whose end is the id in
the log of answers, and holds what was asked and answered as the person saw it: a correction without
its question teaches nothing. Which version answered stands in it too, while the server knows.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from whorl.core.disk import make_folder
from whorl.core.errors import WhorlError
from whorl.core.validation import first_problem
from whorl.stages.serve.access import caller_of
from whorl.stages.serve.errors import ApiError, invalid
from whorl.stages.serve.gateway import Gateway
from whorl.stages.serve.keys import FOLDER
from whorl.stages.serve.request import load_json, read_body

__all__ = ["FeedbackBody", "add_feedback"]

FILE = "feedback.jsonl"
MAX_FILE_BYTES = 2**30  # then no more is taken: whoever has a key could fill the disk
MAX_ID_CHARS = 200
ID_CHARS = 32  # of a request, at the end of what its clients are told


class FeedbackBody(BaseModel):
    """One opinion of one answer: a rating, a correction, or that it is better than another."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    id: str = Field(min_length=1, max_length=MAX_ID_CHARS, description="of the answer")
    model: str = Field(description="the id of the model that answered")
    rating: Literal["up", "down"] | None = None
    correction: str | None = Field(None, description="how the answer should have been")
    over: str | None = Field(
        None, min_length=1, max_length=MAX_ID_CHARS, description="the answer that it is better than"
    )
    comment: str | None = None
    messages: list[dict[str, Any]] | None = Field(None, description="what was asked, of a chat")
    prompt: str | list[Any] | None = Field(None, description="what was asked, of a completion")
    answer: str | None = Field(None, description="as it was shown")


def add_feedback(app: FastAPI, gateway: Gateway, home: Path) -> None:
    """The route of one server, whose lines go into a home."""
    path, config = home / FOLDER / FILE, gateway.config

    @app.post("/v1/feedback")
    async def feedback(request: Request) -> Response:
        data = await read_body(request, config.max_body_bytes, config.receive_s)
        body = _parsed(data)
        caller = caller_of(request)
        gateway.check_model(body.model, caller)
        version = gateway.desk.versions.get(body.id[-ID_CHARS:], {})
        line = body.model_dump(exclude_none=True) | version | {"caller": caller.who}
        await asyncio.to_thread(_append, path, line)  # until it is on the disk
        return JSONResponse({"object": "feedback", "id": body.id, "stored": True})


def _parsed(data: bytes) -> FeedbackBody:
    """Raises ApiError 400 naming the field that is wrong."""
    value = load_json(data)
    try:
        body = FeedbackBody.model_validate(value)
    except ValidationError as error:
        place = error.errors(include_url=False, include_input=False)[0]["loc"]
        field = str(place[0])[:80] if place else None
        raise invalid(f"the feedback cannot be read: {first_problem(error)}", field) from None
    if body.rating is None and body.correction is None and body.over is None:
        raise invalid(
            "feedback holds a rating, a correction, or the answer it is better than: over"
        )
    return body


def _append(path: Path, line: Mapping[str, Any]) -> None:
    """One whole line, on the disk when this returns. Raises ApiError 507 if it cannot be kept."""
    when = datetime.now(UTC).isoformat(timespec="milliseconds")
    data = json.dumps({"time": when, **line}, ensure_ascii=False).encode() + b"\n"
    try:
        make_folder(path.parent)
        # opened for each line: whoever moves the file away needs to tell nobody
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            if os.fstat(descriptor).st_size > MAX_FILE_BYTES:
                raise _not_kept(f"{FILE} holds {MAX_FILE_BYTES:,} bytes already")
            if os.write(descriptor, data) < len(data):
                raise _not_kept("the disk is full")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except (OSError, WhorlError) as error:
        raise _not_kept(getattr(error, "strerror", None) or "the home cannot be written") from error


def _not_kept(why: str) -> ApiError:
    return ApiError(507, f"the feedback could not be kept: {why}", code="not_stored")
