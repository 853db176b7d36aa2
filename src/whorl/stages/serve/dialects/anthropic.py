"""Anthropic's Messages, /v1/messages, and the count of a request's tokens."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from whorl.codecs.contract import Tokens
from whorl.stages.serve.ask import Ask, Chat, Tools
from whorl.stages.serve.dialects.anthropic_input import chat_of_messages
from whorl.stages.serve.dialects.chat_messages import ends_with_answer
from whorl.stages.serve.dialects.openai_fields import ANSWER_TOKENS
from whorl.stages.serve.dialects.structured import OutputConfig, grammar_of
from whorl.stages.serve.dialects.tools import checked_function, tools_of
from whorl.stages.serve.errors import ApiError
from whorl.stages.serve.formats.events import (
    CallBegun,
    CallEnded,
    CallWritten,
    Event,
    Said,
    Thought,
)
from whorl.stages.serve.generation import Generation
from whorl.stages.serve.neutral import Neutral
from whorl.stages.serve.request import AnswerBody, Body
from whorl.stages.serve.turns import Spoken, spoken, turns
from whorl.stages.serve.wire import Wire, event_of

__all__ = ["WIRE", "CountBody", "MessagesBody"]

MAX_STOPS, MAX_STOP_CHARS = 16, 256
Stop = Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARS)]
STOP_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}
NEUTRAL = Neutral(
    same=dict.fromkeys(("container", "context_management", "mcp_servers", "speed"), ()),
    about_client={
        "metadata": (dict, "an object"),
        "service_tier": (str, "a string"),
        "cache_control": (dict, "an object"),
        "inference_geo": (str, "a string"),
    },
)


class ToolChoiceBody(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool = False


class ThinkingBody(BaseModel):
    """A budget of thoughts cannot be kept."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    type: Literal["disabled", "adaptive"]


class CountBody(Body):
    """What is read of a request."""

    neutral: ClassVar[Neutral] = NEUTRAL

    messages: list[dict[str, Any]] = Field(
        min_length=1, description='a list of at least one {"role": …, "content": …}'
    )
    system: str | list[dict[str, Any]] | None = Field(
        None, description="a text, or a list of text blocks"
    )
    tools: list[dict[str, Any]] = Field([], description='a list of {"name": …, "input_schema": …}')
    tool_choice: ToolChoiceBody = Field(
        ToolChoiceBody(type="auto"),
        description='{"type": "auto"}, {"type": "any"}, {"type": "none"} or '
        '{"type": "tool", "name": …}',
    )
    thinking: ThinkingBody = Field(
        ThinkingBody(type="adaptive"),
        description='{"type": "disabled"} or {"type": "adaptive"}; a budget cannot be kept',
    )
    output_config: OutputConfig = Field(
        OutputConfig(), description='{"format": {"type": "json_schema", "schema": {…}}}'
    )

    @field_validator("tools")
    @classmethod
    def _functions(cls, tools: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [_function(tool, f"tools[{number}]") for number, tool in enumerate(tools)]

    @model_validator(mode="after")
    def _hangs_together(self) -> CountBody:
        self.chat()
        return self

    def chat(self) -> Chat:
        """Raises ValueError by the place."""
        messages = chat_of_messages(self.messages, self.system)
        variables = {"enable_thinking": False} if self.thinking.type == "disabled" else {}
        return Chat(messages, self._chosen_tools(), variables, ends_with_answer(messages))

    def _chosen_tools(self) -> Tools | None:
        choice = self.tool_choice
        if (choice.type == "tool") != (choice.name is not None):
            raise ValueError("tool_choice: a name, with the type tool and only there")
        name = {"any": "required", "tool": choice.name or ""}.get(choice.type, choice.type)
        parallel = not choice.disable_parallel_tool_use
        return tools_of(self.tools, name, parallel, "tool_choice")


class MessagesBody(CountBody, AnswerBody):
    """Defaults are Anthropic's."""

    max_tokens: int = Field(ge=1, description=ANSWER_TOKENS)
    temperature: float = Field(1.0, ge=0, le=1, description="a number from 0 to 1")
    top_p: float = Field(1.0, gt=0, le=1, description="a number above 0 and at most 1")
    top_k: int = Field(0, ge=0, lt=2**31, description="a whole number; 0: all tokens")
    stop_sequences: list[Stop] = Field(
        [],
        max_length=MAX_STOPS,
        description=f"up to {MAX_STOPS} strings of 1 to {MAX_STOP_CHARS} characters",
    )


def ask(body: MessagesBody) -> Ask:
    """An answer of text, or of what `output_config` asks for."""
    grammar, field = grammar_of({"output_config": ("json", body.output_config.wanted())})
    names = {name: name for name in ("temperature", "top_p", "top_k")}
    return Ask(
        model=body.model,
        prompts=(body.chat(),),
        subject="messages",
        max_tokens=body.max_tokens,
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=body.top_k,
        stops=tuple(body.stop_sequences),
        grammar=grammar,
        names=names | {"grammar": field or "tool_choice"},
    )


async def whole(body: MessagesBody, generation: Generation, tokens: Tokens) -> dict[str, Any]:
    """The message with all its blocks."""
    (answer,) = await spoken(generation)
    message = _message(generation) | _ending(body, generation, answer.finish_reason)
    usage = {**message["usage"], "output_tokens": generation.completion_tokens}
    return message | {"content": _blocks(answer), "usage": usage}


async def events(
    body: MessagesBody, generation: Generation, tokens: Tokens
) -> AsyncGenerator[str, None]:
    """The message, each block's start, pieces and stop, then how it ended."""

    def event(kind: str, **fields: Any) -> str:
        return event_of({"type": kind, **fields}, kind)

    blocks, reason = _OpenBlock(), None
    async with aclosing(turns(generation)) as stream:
        yield event("message_start", message=_message(generation))
        async for _, turn in stream:
            ids = iter(turn.call_ids)
            for each in turn.events:
                for kind, fields in blocks.add(each, ids):
                    yield event(kind, index=blocks.number, **fields)
            reason = turn.finish_reason or reason
    for kind, fields in blocks.close():
        yield event(kind, index=blocks.number, **fields)
    usage = {"output_tokens": generation.completion_tokens}
    yield event("message_delta", delta=_ending(body, generation, reason), usage=usage)
    yield event("message_stop")


class _OpenBlock:
    """At most one block is open: the last."""

    def __init__(self) -> None:
        self.number = -1
        self._kind: type[Event] | None = None

    def add(self, event: Event, ids: Iterator[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        """(type of an event, its fields) of what is to be told."""
        if isinstance(event, CallEnded):
            yield from self.close()
            return
        if isinstance(event, CallBegun) or (
            isinstance(event, Said | Thought) and self._kind is not type(event)
        ):
            yield from self.close()
            self._kind = type(event)
            self.number += 1
            yield "content_block_start", {"content_block": _empty_block(event, ids)}
        if isinstance(event, Said):
            delta = {"type": "text_delta", "text": event.text}
        elif isinstance(event, Thought):
            delta = {"type": "thinking_delta", "thinking": event.text}
        elif isinstance(event, CallWritten):
            delta = {"type": "input_json_delta", "partial_json": event.text}
        else:
            return
        yield "content_block_delta", {"delta": delta}

    def close(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """What is to be told when the open block ends."""
        if self._kind is not None:
            self._kind = None
            yield "content_block_stop", {}


def _empty_block(event: Event, ids: Iterator[str]) -> dict[str, Any]:
    if isinstance(event, CallBegun):
        return {"type": "tool_use", "id": next(ids), "name": event.name, "input": {}}
    if isinstance(event, Thought):
        return {"type": "thinking", "thinking": "", "signature": ""}
    return {"type": "text", "text": ""}


def _blocks(answer: Spoken) -> list[dict[str, Any]]:
    blocks: list[dict[str, Any]] = []
    for part in answer.parts:
        if isinstance(part, Said):
            blocks.append({"type": "text", "text": part.text})
        elif isinstance(part, Thought):
            blocks.append({"type": "thinking", "thinking": part.text, "signature": ""})
        else:
            value = {"id": part.call_id, "name": part.name, "input": _object(part.arguments)}
            blocks.append({"type": "tool_use", **value})
    return blocks


def _object(arguments: str) -> dict[str, Any]:
    """The arguments; what is no JSON object, as when it was cut short, stands under one key."""
    try:
        value = json.loads(arguments)
    except ValueError:
        value = None
    return value if isinstance(value, dict) else {"invalid_json": arguments}


def _message(generation: Generation) -> dict[str, Any]:
    return {
        "id": f"msg_{generation.id}",
        "type": "message",
        "role": "assistant",
        "model": generation.model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": generation.prompt_tokens, "output_tokens": 0},
    }


def _ending(body: MessagesBody, generation: Generation, reason: str | None) -> dict[str, Any]:
    """Why it ended; a stop sequence is the asker's, not one of the model's own."""
    found = generation.runs[0].stop_text
    if reason == "stop" and found in body.stop_sequences:
        return {"stop_reason": "stop_sequence", "stop_sequence": found}
    return {"stop_reason": STOP_REASONS[reason or "stop"], "stop_sequence": None}


def _function(tool: dict[str, Any], where: str) -> dict[str, Any]:
    """A tool as templates read it."""
    if tool.get("type") not in (None, "custom"):
        raise ValueError(f"{where}.type: only tools of your own; this server has none itself")
    if not isinstance(tool.get("input_schema"), dict):
        raise ValueError(f"{where}.input_schema must be an object")
    kept = {key: value for key, value in tool.items() if key != "type"}
    renamed = {("parameters" if key == "input_schema" else key): kept[key] for key in kept}
    return checked_function(renamed, where)


def failed(error: ApiError, num_events: int) -> str:
    """The event that ends a stream which failed."""
    return event_of(error.anthropic_body, "error")


WIRE = Wire(
    path="/v1/messages",
    summary="Answer a chat (Anthropic's Messages)",
    body=MessagesBody,
    ask=ask,
    whole=whole,
    events=events,
    failed=failed,
    engine_names={
        **{name: name for name in ("temperature", "top_p", "top_k")},
        "output_config": "grammar",
    },
    answer_keys=("id", "type", "role", "model", "content", "stop_reason", "usage"),
)
