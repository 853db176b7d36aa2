"""OpenAI's completions, /v1/completions: a text, token ids or parts are gone on from."""

from __future__ import annotations

import base64
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Annotated, Any

from pydantic import Field

from whorl.codecs.contract import TEXT, Tokens
from whorl.codecs.parts import SPECIAL_CODEC, decode_parts
from whorl.core.errors import DataError
from whorl.core.ports import TokenLogprob
from whorl.stages.serve.ask import Ask, PartBody, Prompt, TokenIds
from whorl.stages.serve.dialects.openai_fields import (
    ANSWER_TOKENS,
    ENGINE_NAMES,
    SamplingBody,
    failed,
    usage_of,
)
from whorl.stages.serve.generation import Generation, Piece
from whorl.stages.serve.token_texts import token_text
from whorl.stages.serve.wire import Chunks, Wire, event_of

__all__ = ["WIRE", "CompletionBody"]

MAX_LOGPROBS = 20
MAX_PROMPTS = 1024
Several = Field(min_length=1, max_length=MAX_PROMPTS, fail_fast=True)


class CompletionBody(SamplingBody):
    """Several prompts are answered in one body; what OpenAI's lacks has vLLM's names."""

    prompt: (
        str
        | TokenIds
        | Annotated[list[str], Several]
        | Annotated[list[TokenIds], Several]
        | Annotated[list[PartBody], Field(min_length=1, fail_fast=True)]
    ) = Field(description="a string, a list of token ids, a list of parts, or a list of prompts")
    allowed_token_ids: TokenIds | None = Field(None, description="a list of at least one token id")
    answer_codec: str | None = Field(
        None, description="the name of a codec, whose ids alone are generated"
    )
    max_tokens: int | None = Field(16, ge=1, description=ANSWER_TOKENS)
    logprobs: int | None = Field(
        None, ge=0, le=MAX_LOGPROBS, description=f"a whole number from 0 to {MAX_LOGPROBS}"
    )

    @property
    def prompts(self) -> tuple[Prompt, ...]:
        """At least one."""
        if isinstance(self.prompt, str):
            return (self.prompt,)
        ids = [item for item in self.prompt if isinstance(item, int)]
        parts = [item for item in self.prompt if isinstance(item, PartBody)]
        if ids or parts:
            return (tuple(ids) if ids else tuple(parts),)
        several = [item for item in self.prompt if isinstance(item, str | list)]
        return tuple(item if isinstance(item, str) else tuple(item) for item in several)


def ask(body: CompletionBody) -> Ask:
    """Raises ApiError if an answer must follow two grammars."""
    return Ask(
        prompts=body.prompts,
        logprobs=body.logprobs,
        allowed_ids=None if body.allowed_token_ids is None else tuple(body.allowed_token_ids),
        answer_codec=body.answer_codec,
        **body.sampling(WIRE.engine_names),
    )


async def whole(body: CompletionBody, generation: Generation, tokens: Tokens) -> dict[str, Any]:
    """All answers at once."""
    pieces: list[list[Piece]] = [[] for _ in generation.runs]
    async with aclosing(generation.pieces()) as stream:
        async for number, piece in stream:
            pieces[number].append(piece)
    choices = []
    for number, (run, found) in enumerate(zip(generation.runs, pieces, strict=True)):
        told = [each for piece in found for each in piece.logprobs]
        text = "".join(piece.text for piece in found)
        choice = _choice(number, text, found[-1].finish_reason)
        choice["logprobs"] = None if body.logprobs is None else _logprobs(told, tokens)
        choices.append(choice | _parts(tokens, run.kept_ids))
    return _answer(generation, choices) | {"usage": usage_of(generation)}


async def events(
    body: CompletionBody, generation: Generation, tokens: Tokens
) -> AsyncGenerator[str, None]:
    """A piece of one answer in each, then what it cost, then [DONE]."""
    usage = {"usage": None} if body.with_usage else {}
    chunks = Chunks(_answer(generation, []) | usage)
    async with aclosing(generation.pieces()) as stream:
        async for number, piece in stream:
            if not (piece.text or piece.logprobs or piece.finish_reason is not None):
                continue
            choice = _choice(number, piece.text, piece.finish_reason)
            if body.logprobs is not None:
                choice["logprobs"] = _logprobs(piece.logprobs, tokens)
            if piece.finish_reason is not None:
                choice |= _parts(tokens, generation.runs[number].kept_ids)
            yield chunks.event(choice)
    if body.with_usage:
        yield event_of(_answer(generation, []) | {"usage": usage_of(generation)})
    yield event_of("[DONE]")


def _answer(generation: Generation, choices: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "id": f"cmpl-{generation.id}",
        "object": "text_completion",
        "created": generation.created,
        "model": generation.model,
        "choices": choices,
    }


def _choice(number: int, text: str, finish_reason: str | None) -> dict[str, Any]:
    return {"index": number, "text": text, "logprobs": None, "finish_reason": finish_reason}


def _logprobs(told: Sequence[tuple[int, TokenLogprob]], tokens: Tokens) -> dict[str, Any]:
    """Of each id its text, how probable it was, the best alternatives, and where it begins."""
    return {
        "tokens": [token_text(tokens, found.token_id) for _, found in told],
        "token_logprobs": [found.logprob for _, found in told],
        "top_logprobs": [
            {
                token_text(tokens, number): logprob
                for number, logprob in (*reversed(found.top), (found.token_id, found.logprob))
            }
            for _, found in told
        ],
        "text_offset": [at for at, _ in told],
    }


def _parts(tokens: Tokens, ids: list[int]) -> dict[str, Any]:
    """The answer as parts, where it is not text alone: each a file of its codec's media type."""
    if set(tokens.codecs) == {TEXT} and tokens.own_name(TEXT) == TEXT:
        return {}
    files = []
    try:
        parts = [part for part in decode_parts(tokens, ids) if part.codec != SPECIAL_CODEC]
        if all(part.codec == TEXT for part in parts):
            return {}
        for part in parts:
            codec = tokens.codecs[part.codec]
            data = base64.b64encode(codec.to_bytes(part.value)).decode()
            files.append({"codec": part.codec, "media_type": codec.media_type, "data": data})
    except DataError as error:
        return {"parts": None, "parts_error": str(error)}  # ids that are no value of their codec
    return {"parts": files}


WIRE = Wire(
    path="/v1/completions",
    summary="Go on from a prompt (OpenAI's completions)",
    body=CompletionBody,
    ask=ask,
    whole=whole,
    events=events,
    failed=failed,
    engine_names={
        **ENGINE_NAMES,
        "logprobs": "logprobs",
        "allowed_token_ids": "allowed_ids",
        "answer_codec": "allowed_ids",
    },
    answer_keys=("id", "object", "created", "model", "choices", "usage"),
)
