"""OpenAI's chat completions, /v1/chat/completions."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from whorl.codecs.contract import Tokens
from whorl.stages.serve.ask import Ask, Chat, Tools
from whorl.stages.serve.dialects.chat_messages import with_text
from whorl.stages.serve.dialects.openai_fields import (
    ANSWER_TOKENS,
    ENGINE_NAMES,
    SamplingBody,
    failed,
    usage_of,
)
from whorl.stages.serve.generation import Generation
from whorl.stages.serve.wire import Wire, event_of

__all__ = ["WIRE", "ChatBody"]


class ChatBody(SamplingBody):
    """Messages and tools as the model's chat template takes them; a template is never taken."""

    messages: list[dict[str, Any]] = Field(
        min_length=1, description='a list of at least one message: {"role": …, "content": …}'
    )
    tools: list[dict[str, Any]] | None = Field(None, description="a list of objects")
    tool_choice: Literal["auto", "none"] = Field("auto", description='"auto" or "none"')
    max_completion_tokens: int | None = Field(None, ge=1, description=ANSWER_TOKENS)

    @field_validator("messages")
    @classmethod
    def _as_templates_read(cls, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [with_text(number, message) for number, message in enumerate(messages)]

    @model_validator(mode="after")
    def _one_limit(self) -> ChatBody:
        limits = {self.max_tokens, self.max_completion_tokens} - {None}
        if len(limits) > 1:
            raise ValueError("max_completion_tokens and max_tokens differ; give one of them")
        return self


def ask(body: ChatBody) -> Ask:
    """Raises ApiError if an answer must follow two grammars."""
    fields = body.sampling(WIRE.engine_names)
    if body.max_completion_tokens is not None:
        fields |= {
            "max_tokens": body.max_completion_tokens,
            "limit_name": "max_completion_tokens",
        }
    functions = tuple(tool.get("function", {}) for tool in body.tools or ())
    tools = Tools(functions) if functions and body.tool_choice != "none" else None
    return Ask(prompts=(Chat(body.messages, tools),), subject="messages", **fields)


async def whole(body: ChatBody, generation: Generation, tokens: Tokens) -> dict[str, Any]:
    """All answers at once."""
    texts = [""] * len(generation.runs)
    reasons: list[str | None] = [None] * len(generation.runs)
    async with aclosing(generation.pieces()) as stream:
        async for number, piece in stream:
            texts[number] += piece.text
            reasons[number] = piece.finish_reason
    choices = [
        _choice(number, "message", {"role": "assistant", "content": text}, reason)
        for number, (text, reason) in enumerate(zip(texts, reasons, strict=True))
    ]
    return _answer(generation, "chat.completion", choices) | {"usage": usage_of(generation)}


async def events(
    body: ChatBody, generation: Generation, tokens: Tokens
) -> AsyncGenerator[str, None]:
    """The role, then a piece of an answer in each, then what it cost, then [DONE]."""
    usage = {"usage": None} if body.with_usage else {}

    def chunk(*choices: dict[str, Any]) -> dict[str, Any]:
        return _answer(generation, "chat.completion.chunk", [*choices]) | usage

    async with aclosing(generation.pieces()) as stream:
        for number in range(len(generation.runs)):
            yield event_of(chunk(_choice(number, "delta", {"role": "assistant", "content": ""})))
        async for number, piece in stream:
            if piece.text or piece.finish_reason is not None:
                delta = {"content": piece.text}
                yield event_of(chunk(_choice(number, "delta", delta, piece.finish_reason)))
    if body.with_usage:
        yield event_of(chunk() | {"usage": usage_of(generation)})
    yield event_of("[DONE]")


def _answer(generation: Generation, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{generation.id}",
        "object": kind,
        "created": generation.created,
        "model": generation.model,
        "choices": choices,
    }


def _choice(
    number: int, key: str, message: dict[str, Any], reason: str | None = None
) -> dict[str, Any]:
    """key: "message" for a whole answer, "delta" for a piece of one."""
    return {"index": number, key: message, "logprobs": None, "finish_reason": reason}


WIRE = Wire(
    path="/v1/chat/completions",
    summary="Answer a chat (OpenAI's chat completions)",
    body=ChatBody,
    ask=ask,
    whole=whole,
    events=events,
    failed=failed,
    engine_names=ENGINE_NAMES,
    answer_keys=("id", "object", "created", "model", "choices", "usage"),
)
