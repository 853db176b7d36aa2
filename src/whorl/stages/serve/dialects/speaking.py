"""OpenAI's speech, /v1/audio/speech: a text is answered by its sound, as it is made."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any, ClassVar, Literal

import numpy as np
from fastapi import FastAPI
from fastapi.responses import Response
from pydantic import Field
from starlette.requests import Request

from whorl.codecs.audio import AudioCodec
from whorl.codecs.audio_files import Sound, sound_bytes
from whorl.codecs.contract import TEXT, Tokens
from whorl.codecs.parts import SPECIAL_CODEC, token_space
from whorl.core.errors import MissingExtra
from whorl.stages.serve.access import caller_of
from whorl.stages.serve.ask import Ask, PartBody
from whorl.stages.serve.errors import ApiError, invalid
from whorl.stages.serve.exchange import ByteStream, read_parsed
from whorl.stages.serve.gateway import Gateway
from whorl.stages.serve.generation import Generation
from whorl.stages.serve.limits import max_time_of
from whorl.stages.serve.neutral import Neutral
from whorl.stages.serve.request import Body

__all__ = ["PATH", "SpeechBody", "add_speaking"]

PATH = "/v1/audio/speech"
AUDIO, MARK = "audio", "<|answer|>"
MAX_INPUT = 4_096  # signs
TEMPERATURE, TOP_P = 0.7, 0.9  # the likeliest id each time is a hum
FILES = {"wav": "WAV", "flac": "FLAC", "mp3": "MP3"}
MEDIA = {"wav": "audio/wav", "flac": "audio/flac", "mp3": "audio/mpeg", "pcm": "audio/pcm"}
MP3_RATES = (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)  # Hz
PIECE_FRAMES, OVERLAP_FRAMES = 25, 5  # of sound that is sent together, and read with the next


class SpeechBody(Body):
    """The voice is what the model learned: there are no others to choose from."""

    neutral: ClassVar[Neutral] = Neutral(
        same={
            **{"speed": (1,), "instructions": ("",), "stream_format": ("audio",)},
            "voice": ("default",),
        },
        reasons={"voice": 'this model has one voice, "default"'},
    )

    input: str = Field(
        min_length=1, max_length=MAX_INPUT, description=f"a text of 1 to {MAX_INPUT:,} characters"
    )
    response_format: Literal["mp3", "wav", "flac", "pcm"] = Field(
        "mp3", description='"mp3", "wav", "flac" or "pcm" (16 bits, as it is made)'
    )


def ask(body: SpeechBody) -> Ask:
    parts = (PartBody(codec=TEXT, text=body.input), PartBody(codec=SPECIAL_CODEC, text=MARK))
    return Ask(body.model, (parts,), "input", temperature=TEMPERATURE, top_p=TOP_P, seed=0)


def add_speaking(app: FastAPI, gateway: Gateway) -> None:
    """One route."""

    @app.post(PATH, summary="The sound of a text (OpenAI's speech)")
    async def speak(request: Request) -> Response:
        body = await read_parsed(gateway, request, SpeechBody)
        max_time = max_time_of(request.headers.get("x-request-timeout"))
        served = gateway.check_model(body.model, caller_of(request))
        _check_format(served.tokens, body.response_format)
        generation = await gateway.start(ask(body), caller_of(request), max_time)
        headers = {"X-Request-Id": generation.id}
        is_pcm = body.response_format == "pcm"
        made = _pieces(generation) if is_pcm else _file(generation, FILES[body.response_format])
        return ByteStream(made, generation, headers, MEDIA[body.response_format])


def _check_format(tokens: Tokens, kind: str) -> None:
    """Before anything is generated. Raises ApiError 400, or 501 without the library."""
    codec = tokens.codecs.get(AUDIO)
    if not isinstance(codec, AudioCodec):
        raise invalid("model: this model makes no sound", "model")
    if kind == "mp3" and codec.rate not in MP3_RATES:
        told = f"response_format: an MP3 has no rate of {codec.rate} Hz; ask for wav, flac or pcm"
        raise invalid(told, "response_format")
    try:
        MissingExtra.check("soundfile", "audio", "a sound file")
    except MissingExtra as error:
        raise ApiError(501, str(error), code="no_audio") from error


def _check_end(generation: Generation) -> None:
    """Raises ApiError 400 where the sound ends before its text does, or never began."""
    if generation.runs[0].finish_reason == "length":
        told = "input: its sound is longer than this model's answers; send the text in pieces"
        raise invalid(told, "input", "context_length_exceeded")
    if not _heard(generation):
        raise ApiError(500, "the model answered with no sound", code="no_sound")


async def _file(generation: Generation, kind: str) -> AsyncGenerator[bytes, None]:
    """The whole sound as a file: what it is long stands at its beginning."""
    codec = _codec(generation.tokens)
    async with aclosing(generation.pieces()) as stream:
        async for _ in stream:
            pass
    _check_end(generation)
    ids = _heard(generation)
    yield await asyncio.to_thread(lambda: sound_bytes(codec.decode(ids), codec.rate, kind))


async def _pieces(generation: Generation) -> AsyncGenerator[bytes, None]:
    """Samples of 16 bits, a second at a time; pieces overlap, and fade into each other."""
    codec = _codec(generation.tokens)
    decode: Callable[[list[int]], Sound] = codec.decode
    done, tail = 0, np.zeros(0)  # ids that were sent; what fades out of them
    overlap = OVERLAP_FRAMES * codec.num_books
    async with aclosing(generation.pieces()) as stream:
        async for _ in stream:
            ids = _heard(generation)
            if len(ids) - done >= PIECE_FRAMES * codec.num_books + overlap:
                end = len(ids) - len(ids) % codec.num_books
                sound = await asyncio.to_thread(decode, ids[done:end])
                sent, tail = _faded(tail, sound, OVERLAP_FRAMES * codec.shape.frame_samples)
                done = end - overlap
                yield sent
    _check_end(generation)  # the answer is cut short, without its end
    ids = _heard(generation)[done:]
    sound = await asyncio.to_thread(decode, ids) if ids else np.zeros(0, np.int16)
    yield _faded(tail, sound, 0)[0]


def _faded(tail: Any, sound: Sound, overlap: int) -> tuple[bytes, Any]:
    """(what can be sent, what fades out): the sound fades in where the tail fades out."""
    found = sound.astype(np.float64)
    shared = min(len(tail), len(found))
    share = np.arange(1, shared + 1) / (shared + 1)
    found[:shared] = share * found[:shared] + (1 - share) * tail[:shared]
    end = len(found) - min(overlap, len(found))
    return np.round(found[:end]).astype("<i2").tobytes(), found[end:]


def _codec(tokens: Tokens) -> AudioCodec:
    codec = tokens.codecs[AUDIO]
    assert isinstance(codec, AudioCodec)
    return codec


def _heard(generation: Generation) -> list[int]:
    """The ids of sound so far, as the codec counts them."""
    ids = token_space(generation.tokens).ranges[AUDIO]
    return [number - ids.start for number in generation.runs[0].kept_ids if number in ids]
