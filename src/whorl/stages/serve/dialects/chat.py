"""OpenAI's chat completions, /v1/chat/completions."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from whorl.codecs.contract import Tokens
from whorl.core.ports import TokenLogprob
from whorl.stages.serve.ask import Ask, Chat, Tools
from whorl.stages.serve.dialects.chat_messages import as_templates_read, ends_with_answer
from whorl.stages.serve.dialects.openai_fields import (
    ANSWER_TOKENS,
    ENGINE_NAMES,
    SamplingBody,
    failed,
    usage_of,
)
from whorl.stages.serve.dialects.tools import NamedChoice, functions_of, tools_of
from whorl.stages.serve.formats.events import CallBegun, CallWritten, Event, Said, Thought
from whorl.stages.serve.generation import Generation
from whorl.stages.serve.token_texts import logprobs_of
from whorl.stages.serve.turns import Spoken, Turn, spoken, turns
from whorl.stages.serve.wire import Chunks, Wire, event_of

__all__ = ["WIRE", "ChatBody"]

MAX_TOP_LOGPROBS = 20


class ChatBody(SamplingBody):
    """Messages and tools as the model's chat template takes them; a template is never taken."""

    messages: list[dict[str, Any]] = Field(
        min_length=1, description='a list of at least one message: {"role": …, "content": …}'
    )
    tools: list[dict[str, Any]] | None = Field(
        None, description='a list of {"type": "function", "function": {"name": …, …}}'
    )
    tool_choice: Literal["auto", "none", "required"] | NamedChoice = Field(
        "auto",
        description='"auto", "none", "required" or {"type": "function", "function": {"name": …}}',
    )
    parallel_tool_calls: bool = Field(True, description="true or false: one call at most")
    max_completion_tokens: int | None = Field(None, ge=1, description=ANSWER_TOKENS)
    logprobs: bool = Field(False, description="true or false")
    top_logprobs: int = Field(
        0,
        ge=0,
        le=MAX_TOP_LOGPROBS,
        description=f"a whole number from 0 to {MAX_TOP_LOGPROBS}, with logprobs",
    )
    continue_final_message: bool | None = Field(
        None, description="true or false; left out: a last message of the assistant is continued"
    )
    chat_template_kwargs: dict[str, bool | int | float | str] = Field(
        {}, description='texts, numbers and truths for the template: {"enable_thinking": false}'
    )

    @field_validator("messages")
    @classmethod
    def _as_templates_read(cls, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [as_templates_read(number, message) for number, message in enumerate(messages)]

    @field_validator("tools")
    @classmethod
    def _functions(cls, tools: list[dict[str, Any]] | None) -> list[dict[str, Any]] | None:
        return tools and functions_of(tools)

    @model_validator(mode="after")
    def _hangs_together(self) -> ChatBody:
        limits = {self.max_tokens, self.max_completion_tokens} - {None}
        if len(limits) > 1:
            raise ValueError("max_completion_tokens and max_tokens differ; give one of them")
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs: only with logprobs")
        if self.continue_final_message and not ends_with_answer(self.messages):
            raise ValueError(
                "continue_final_message: the last message is no text of the assistant's"
            )
        if reserved := {"messages", "tools", "documents", "chat_template"} & set(
            self.chat_template_kwargs
        ):
            raise ValueError(f"chat_template_kwargs: not {', '.join(sorted(reserved))}")
        self.chosen_tools()
        return self

    def chosen_tools(self) -> Tools | None:
        """What may be called. Raises ValueError by the field."""
        choice = self.tool_choice
        name = choice if isinstance(choice, str) else choice.function.name
        return tools_of(self.tools or (), name, self.parallel_tool_calls, "tool_choice")

    @property
    def goes_on(self) -> bool:
        """Whether the last message is continued."""
        return self.continue_final_message is not False and ends_with_answer(self.messages)


def ask(body: ChatBody) -> Ask:
    """Raises ApiError if an answer must follow two grammars."""
    fields = body.sampling(WIRE.engine_names)
    if body.max_completion_tokens is not None:
        fields["max_tokens"] = body.max_completion_tokens
        fields["limit_name"] = "max_completion_tokens"
    tools = body.chosen_tools()
    if tools is not None and tools.must_call and fields["grammar"] is None:
        fields["names"]["grammar"] = "tool_choice"
    chat = Chat(body.messages, tools, body.chat_template_kwargs, body.goes_on)
    logprobs = body.top_logprobs if body.logprobs else None
    return Ask(prompts=(chat,), subject="messages", logprobs=logprobs, **fields)


async def whole(body: ChatBody, generation: Generation, tokens: Tokens) -> dict[str, Any]:
    """All answers at once."""
    choices = []
    for number, answer in enumerate(await spoken(generation)):
        choice = _choice(number, "message", _message(answer), answer.finish_reason)
        if body.logprobs:
            choice["logprobs"] = _logprobs(answer.logprobs, tokens)
        choices.append(choice)
    return _answer(generation, "chat.completion", choices) | {"usage": usage_of(generation)}


async def events(
    body: ChatBody, generation: Generation, tokens: Tokens
) -> AsyncGenerator[str, None]:
    """The role, then a piece of an answer in each, then what it cost, then [DONE]."""
    usage = {"usage": None} if body.with_usage else {}

    empty = _answer(generation, "chat.completion.chunk", []) | usage
    chunks = Chunks(empty)
    num_calls = [0] * len(generation.runs)
    async with aclosing(turns(generation)) as stream:
        for number in range(len(generation.runs)):
            yield chunks.event(_choice(number, "delta", {"role": "assistant", "content": ""}))
        async for number, turn in stream:
            deltas = _deltas(turn, num_calls[number])
            num_calls[number] += len(turn.call_ids)
            logprobs = _logprobs(turn.logprobs, tokens) if body.logprobs else None
            for delta in deltas or ([{}] if logprobs and turn.logprobs else []):
                choice = _choice(number, "delta", delta)
                choice["logprobs"], logprobs = logprobs, None
                yield chunks.event(choice)
            if turn.finish_reason is not None:
                yield chunks.event(_choice(number, "delta", {}, turn.finish_reason))
    if body.with_usage:
        yield event_of(empty | {"usage": usage_of(generation)})
    yield event_of("[DONE]")


def _message(answer: Spoken) -> dict[str, Any]:
    """content is null where only functions were called."""
    content = None if answer.calls and not answer.text else answer.text
    message: dict[str, Any] = {"role": "assistant", "content": content}
    if answer.thoughts:
        message["reasoning_content"] = answer.thoughts
    if answer.calls:
        message["tool_calls"] = [
            {
                "id": call.call_id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in answer.calls
        ]
    return message


def _deltas(turn: Turn, num_calls: int) -> list[dict[str, Any]]:
    """num_calls: of this answer, before."""
    ids, deltas = iter(turn.call_ids), []
    for event in turn.events:
        if isinstance(event, CallBegun):
            num_calls += 1
        if delta := _delta(event, num_calls - 1, ids):
            deltas.append(delta)
    return deltas


def _delta(event: Event, number: int, ids: Any) -> dict[str, Any]:
    if isinstance(event, Said):
        return {"content": event.text}
    if isinstance(event, Thought):
        return {"reasoning_content": event.text}
    if isinstance(event, CallBegun):
        function = {"name": event.name, "arguments": ""}
        call = {"index": number, "id": next(ids), "type": "function", "function": function}
        return {"tool_calls": [call]}
    if isinstance(event, CallWritten):
        return {"tool_calls": [{"index": number, "function": {"arguments": event.text}}]}
    return {}


def _logprobs(told: Sequence[TokenLogprob], tokens: Tokens) -> dict[str, Any]:
    return {"content": logprobs_of(tokens, told), "refusal": None}


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
    engine_names={**ENGINE_NAMES, "logprobs": "logprobs", "top_logprobs": "logprobs"},
    answer_keys=("id", "object", "created", "model", "choices", "usage"),
)
