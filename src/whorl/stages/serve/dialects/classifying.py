"""/v1/classify: of which class is it? Each input with the probability of every class.

Request and answer have the fields of vLLM's route of this name; an input may also be an image, a
row of a table or a part of any codec. An input is read once, as by /v1/rank; all inputs of a
request are checked before the first of them is read by the model.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from fastapi import FastAPI
from fastapi.responses import JSONResponse, Response
from pydantic import Field, ValidationError
from starlette.requests import Request

from whorl.codecs.contract import TEXT, Tokens
from whorl.core.validation import first_problem
from whorl.stages.serve.access import caller_of
from whorl.stages.serve.ask import PartBody
from whorl.stages.serve.dialects.ranking import (
    Questions,
    RankBody,
    Ranked,
    Vocabularies,
    rank_all,
)
from whorl.stages.serve.errors import invalid
from whorl.stages.serve.exchange import read_parsed
from whorl.stages.serve.gateway import Gateway
from whorl.stages.serve.limits import max_time_of
from whorl.stages.serve.pictures import (
    ANSWER,
    IMAGE_PART,
    base64_of,
    closed_codecs,
    codec_of_kind,
    picture_of,
)
from whorl.stages.serve.request import Body

__all__ = ["CLASSIFY", "ClassifyBody", "add_classifying"]

CLASSIFY = "/v1/classify"
MAX_INPUTS = 64
MAX_PROBS = 2**20  # of all inputs together
ID = "classify-"  # how the ids of answers begin
DATA, IMAGE_DATA = "data:", "data:image/"
PART_KEYS = {"codec", "text", "data"}
ROW_TYPE = "application/json"
Input = str | dict[str, Any]


class ClassifyBody(Body):
    """What is to be classified: one, or a list of it."""

    stream: Literal[False] = Field(False, description="false: the answer comes whole")
    input: Input | Annotated[list[Input], Field(min_length=1, max_length=MAX_INPUTS)] = Field(
        description="a text, a data URL of an image, a row of a table as an object, a part of the "
        f"model's codecs, or a list of 1 to {MAX_INPUTS} of them"
    )
    codec: str | None = Field(
        None, description="the name of the classes' codec; left out: the model's only one"
    )
    top: int | None = Field(
        None, ge=1, lt=2**31, description="a whole number: so many of the likeliest are named"
    )


def add_classifying(app: FastAPI, gateway: Gateway) -> None:
    """One route."""
    vocabularies = Vocabularies()

    @app.post(CLASSIFY, summary="The classes of images, rows or texts, with probabilities")
    async def classify(request: Request) -> Response:
        body = await read_parsed(gateway, request, ClassifyBody)
        max_time = max_time_of(request.headers.get("x-request-timeout"))
        gateway.check_model(body.model, caller_of(request))

        def asking(tokens: Tokens) -> Questions:
            return _questions(vocabularies, body, tokens)

        ranked = await rank_all(gateway, vocabularies, body.model, asking, request, max_time)
        answer = await asyncio.to_thread(_answer, body, ranked)
        headers = {"X-Request-Id": ranked.request_id}
        return await asyncio.to_thread(JSONResponse, answer, headers=headers)


def _questions(vocabularies: Vocabularies, body: ClassifyBody, tokens: Tokens) -> Questions:
    """One of each input, of all classes. Raises ApiError 400."""
    inputs = body.input if isinstance(body.input, list) else [body.input]
    codec = _classes_of(tokens, body.codec)
    num_classes = len(vocabularies.of(tokens, codec))
    if len(inputs) * num_classes > MAX_PROBS:
        most = max(1, MAX_PROBS // num_classes)
        raise invalid(f"input: {num_classes:,} classes; send at most {most} at once", "input")
    places = [_where(body, number) for number in range(len(inputs))]
    prompts = [_prompt(tokens, *each) for each in zip(inputs, places, strict=True)]
    asked = RankBody(model=body.model, prompt=prompts[0], codec=codec)
    return Questions(asked, [(each, tuple(p)) for each, p in zip(places, prompts, strict=True)])


def _answer(body: ClassifyBody, ranked: Ranked) -> dict[str, Any]:
    rankings = ranked.answers(None)
    return {
        "id": f"{ID}{ranked.request_id}",
        "object": "list",
        "created": int(time.time()),
        "model": body.model,
        "data": [_told(n, each, ranked.names, body.top) for n, each in enumerate(rankings)],
        "usage": ranked.usage,
    }


def _where(body: ClassifyBody, number: int) -> str:
    return f"input[{number}]" if isinstance(body.input, list) else "input"


def _classes_of(tokens: Tokens, wanted: str | None) -> str:
    """Raises ApiError 400 where the model has no classes, or several kinds of them."""
    closed = closed_codecs(tokens)
    if wanted in closed or (wanted is None and len(closed) == 1):
        return wanted or closed[0]
    if not closed:
        raise invalid("model: it has no classes to choose from; /v1/rank ranks texts", "model")
    raise invalid(f"codec: say which of {', '.join(closed)} the classes are of", "codec")


def _prompt(tokens: Tokens, given: Input, where: str) -> list[PartBody]:
    """The input and the mark behind which models of classes answer. Raises ApiError 400."""
    try:
        return [_part(tokens, given, where), PartBody(codec="special", text=ANSWER)]
    except ValidationError as error:
        raise invalid(f"{where}: {first_problem(error)}", "input") from None
    except ValueError as error:
        raise invalid(str(error), "input") from None


def _part(tokens: Tokens, given: Input, where: str) -> PartBody:
    """Raises ValueError where the model cannot read such an input."""
    if isinstance(given, dict) and "codec" in given and given.keys() <= PART_KEYS:
        return PartBody.model_validate(given)
    start = IMAGE_DATA if TEXT in tokens.codecs else DATA  # else a text may begin like that
    image = given if isinstance(given, str) and given.startswith(start) else None
    if image is not None or (isinstance(given, dict) and given.get("type") == IMAGE_PART):
        codec = _codec(tokens, "image/", where, "images")
        data = base64_of(image, where) if isinstance(given, str) else picture_of(given, where)
        return PartBody(codec=codec, data=data)
    if isinstance(given, str):
        if TEXT not in tokens.codecs:
            kinds = ", ".join(f"{name} ({c.media_type})" for name, c in tokens.codecs.items())
            raise ValueError(f"{where}: this model reads no text; its codecs: {kinds}")
        return PartBody(codec=TEXT, text=given)
    codec = _codec(tokens, ROW_TYPE, where, "rows of a table")
    return PartBody(codec=codec, text=json.dumps(given))


def _codec(tokens: Tokens, media_type: str, where: str, what: str) -> str:
    codec = codec_of_kind(tokens, media_type)
    if codec is None:
        kinds = ", ".join(f"{name} ({each.media_type})" for name, each in tokens.codecs.items())
        raise ValueError(f"{where}: this model reads no {what}; its codecs: {kinds}")
    return codec


def _told(
    number: int, ranked: Sequence[dict[str, Any]], values: Sequence[str], top: int | None
) -> dict[str, Any]:
    """vLLM's fields, and the classes by their names, the likeliest first."""
    shares = {each["candidate"]: each["probability"] for each in ranked}
    return {
        "index": number,
        "label": ranked[0]["candidate"],
        "probs": [shares[value] for value in values],
        "num_classes": len(values),
        "classes": [
            {"label": each["candidate"], "probability": each["probability"]}
            for each in ranked[:top]
        ],
    }
