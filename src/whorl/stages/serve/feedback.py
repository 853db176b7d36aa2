"""POST /v1/feedback: what people think of answers, one line each, only ever added to.

    <home>/.serving/feedback.jsonl

A line names the answer by the id that its client was given (`chatcmpl-…`), whose end is the id in
the log of answers, and holds what was asked and answered as the person saw it: a correction without
its question teaches nothing. Which version answered stands in it too. A key may judge what it was
answered; the server's own key and its page, which are its owner's, may judge any answer.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from pydantic import Field, model_validator

from whorl.core.errors import WhorlError
from whorl.stages.serve.access import caller_of
from whorl.stages.serve.desk import Desk
from whorl.stages.serve.errors import ApiError
from whorl.stages.serve.exchange import read_parsed
from whorl.stages.serve.gateway import Gateway
from whorl.stages.serve.limits import Caller
from whorl.stages.serve.lines import append_line, own_folder
from whorl.stages.serve.request import Body

__all__ = ["ROUTE", "FeedbackBody", "add_feedback"]

ROUTE = "/v1/feedback"
FILE = "feedback.jsonl"
MAX_FILE_BYTES = 2**30  # then no more is taken: whoever has a key could fill the disk
MAX_ID_CHARS = 200
ID_CHARS = 32  # of a request, at the end of what its clients are told
REQUEST_ID = re.compile(r"[0-9a-f]{32}")
VERSION_KEYS = ("version", "variant", "contract", "records")


class FeedbackBody(Body):
    """One opinion of one answer: a rating, a correction, or that it is better than another."""

    id: str = Field(
        min_length=1, max_length=MAX_ID_CHARS, description="the id that an answer came with"
    )
    rating: Literal["up", "down"] | None = Field(None, description='"up" or "down"')
    correction: str | None = Field(None, description="a text: how the answer should have been")
    over: str | None = Field(
        None,
        min_length=1,
        max_length=MAX_ID_CHARS,
        description="the id of an answer that it is better than",
    )
    comment: str | None = Field(None, description="a text")
    messages: list[dict[str, Any]] | None = Field(
        None, description="a list of messages: what was asked, of a chat"
    )
    prompt: str | list[Any] | None = Field(
        None, description="a text or a list: what was asked, of a completion"
    )
    answer: str | None = Field(None, description="a text: as it was shown")

    @model_validator(mode="after")
    def _says_something(self) -> FeedbackBody:
        if self.rating is None and self.correction is None and self.over is None:
            raise ValueError("rating, correction or over: feedback has one of them")
        return self


def add_feedback(app: FastAPI, gateway: Gateway) -> None:
    """Opinions of answers, from those who were given them, into the server's home."""
    desk = gateway.desk

    @app.post(ROUTE, summary="An opinion of an answer, kept to improve the model")
    async def feedback(request: Request) -> Response:
        body = await read_parsed(gateway, request, FeedbackBody)
        caller = caller_of(request)
        gateway.check_model(body.model, caller)
        if desk.answers is None:
            raise _not_kept("this server has no home")
        version = await _version_of(desk, body.id, caller, "id")
        if body.over is not None:
            await _version_of(desk, body.over, caller, "over")
        line = body.model_dump(exclude_none=True) | version | {"caller": caller.who}
        path = desk.answers.path.with_name(FILE)
        await asyncio.to_thread(_append, path, line)  # until it is on the disk
        return JSONResponse({"object": "feedback", "id": body.id, "stored": True})


async def _version_of(desk: Desk, answer_id: str, caller: Caller, field: str) -> dict[str, Any]:
    """Which version gave the answer. Whose key is not the server's own may judge its own alone.

    Raises ApiError 404 for an answer that nobody was given here, or another: who asks need not
    learn which of both.
    """
    request_id = answer_id[-ID_CHARS:]
    told = desk.versions.get(request_id)
    if told is None and desk.answers is not None and REQUEST_ID.fullmatch(request_id):
        told = await asyncio.to_thread(desk.answers.find, request_id)
    if told is None or (caller.entry is not None and told["caller"] != caller.who):
        raise ApiError(
            404,
            f"{field}: there is no answer {answer_id[:80]!r} of this server to whoever has this "
            "key; expected: the id that an answer came with",
            code="answer_not_found",
            param=field,
        )
    return {key: told[key] for key in VERSION_KEYS if key in told}


def _append(path: Path, line: Mapping[str, Any]) -> None:
    """One whole line, on the disk when this returns. Raises ApiError 507 if it cannot be kept."""
    when = datetime.now(UTC).isoformat(timespec="milliseconds")
    data = json.dumps({"time": when, **line}, ensure_ascii=False).encode()
    try:
        own_folder(path.parent)
        append_line(path, data, MAX_FILE_BYTES, sync=True)
    except (OSError, WhorlError) as error:
        raise _not_kept(getattr(error, "strerror", None) or "the home cannot be written") from error


def _not_kept(why: str) -> ApiError:
    return ApiError(507, f"the feedback could not be kept: {why}", code="not_stored")
