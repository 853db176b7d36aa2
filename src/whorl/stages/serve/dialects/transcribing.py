"""OpenAI's transcriptions, /v1/audio/transcriptions: a sound file is answered by its words."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, ClassVar, Literal

from fastapi import FastAPI
from fastapi.responses import Response
from pydantic import Field
from starlette.requests import Request

from whorl.codecs.contract import Tokens
from whorl.codecs.parts import SPECIAL_CODEC
from whorl.stages.serve.ask import Ask, PartBody
from whorl.stages.serve.dialects.openai_fields import failed, usage_of
from whorl.stages.serve.errors import invalid
from whorl.stages.serve.exchange import answered
from whorl.stages.serve.forms import boundary_of, parse_form
from whorl.stages.serve.gateway import Gateway
from whorl.stages.serve.generation import Generation
from whorl.stages.serve.neutral import Neutral
from whorl.stages.serve.request import AnswerBody, read_body
from whorl.stages.serve.wire import Wire, event_of

__all__ = ["PATH", "TranscriptionBody", "add_transcribing"]

PATH = "/v1/audio/transcriptions"
AUDIO, MARK = "audio", "<|answer|>"  # what a model of speech reads, and what ends its question
MAX_BASE64 = 2**27


class TranscriptionBody(AnswerBody):
    """A form; the sound is any file that the audio codec reads."""

    neutral: ClassVar[Neutral] = Neutral(
        same={
            "prompt": ("",),
            "chunking_strategy": ("auto",),
            **dict.fromkeys(("include", "timestamp_granularities", "keywords", "languages"), ([],)),
            **dict.fromkeys(("known_speaker_names", "known_speaker_references"), ([],)),
        },
        # which language is heard is a matter of what the model learned
        about_client={"language": (str, "a string"), "user": (str, "a string")},
    )

    file: str = Field(
        min_length=1,
        max_length=MAX_BASE64,
        description="a sound file: WAV, FLAC, Ogg or MP3, of at least one byte",
    )
    temperature: float = Field(0.0, ge=0, le=1, description="a number from 0 to 1")
    response_format: Literal["json", "text"] = Field("json", description='"json" or "text"')


def ask(body: TranscriptionBody) -> Ask:
    parts = (PartBody(codec=AUDIO, data=body.file), PartBody(codec=SPECIAL_CODEC, text=MARK))
    names = {"temperature": "temperature"} if body.temperature else {}
    return Ask(body.model, (parts,), "file", temperature=body.temperature, seed=0, names=names)


async def whole(
    body: TranscriptionBody, generation: Generation, tokens: Tokens
) -> dict[str, Any] | str:
    text = ""
    async with aclosing(generation.pieces()) as stream:
        async for _, piece in stream:
            text += piece.text
    _check_end(generation)
    text = text.strip()
    return f"{text}\n" if body.response_format == "text" else {"text": text, **_usage(generation)}


async def events(
    body: TranscriptionBody, generation: Generation, tokens: Tokens
) -> AsyncGenerator[str, None]:
    """Words as they are recognised, then all of them."""
    text = ""
    async with aclosing(generation.pieces()) as stream:
        async for _, piece in stream:
            if piece.text:
                text += piece.text
                yield event_of({"type": "transcript.text.delta", "delta": piece.text})
    _check_end(generation)
    done = {"type": "transcript.text.done", "text": text.strip(), **_usage(generation)}
    yield event_of(done)
    yield event_of("[DONE]")


def _check_end(generation: Generation) -> None:
    """Raises ApiError 400 where the words did not fit: half a transcript looks like a whole one."""
    if generation.runs[0].finish_reason == "length":
        told = "file: its words are longer than this model's answers; send the sound in pieces"
        raise invalid(told, "file", "context_length_exceeded")


def _usage(generation: Generation) -> dict[str, Any]:
    found = usage_of(generation)
    read, written = found["prompt_tokens"], found["completion_tokens"]
    total = found["total_tokens"]
    tokens = {"input_tokens": read, "output_tokens": written, "total_tokens": total}
    return {"usage": {"type": "tokens", **tokens}}


WIRE = Wire(
    path=PATH,
    summary="What is said in a sound file (OpenAI's transcriptions)",
    body=TranscriptionBody,
    ask=ask,
    whole=whole,
    events=events,
    failed=failed,
    engine_names={"temperature": "temperature"},
    answer_keys=("text", "usage"),
)


def add_transcribing(app: FastAPI, gateway: Gateway) -> None:
    """One route."""

    @app.post(PATH, summary=WIRE.summary)
    async def transcribe(request: Request) -> Response:
        config, boundary = gateway.config, boundary_of(request)
        data = await read_body(request, config.max_upload_bytes, config.receive_s)
        body = await asyncio.to_thread(parse_form, data, boundary, TranscriptionBody, ("file",))
        return await answered(gateway, request, WIRE, body, ask(body))
