"""OpenAI's Responses, /v1/responses, without a memory: a request holds all that is known."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from whorl.codecs.contract import Tokens
from whorl.stages.serve.ask import Ask, Chat, Tools
from whorl.stages.serve.dialects.chat_messages import ends_with_answer
from whorl.stages.serve.dialects.openai_fields import ANSWER_TOKENS
from whorl.stages.serve.dialects.responses_events import response_events, whole_output
from whorl.stages.serve.dialects.responses_input import chat_of_items
from whorl.stages.serve.dialects.responses_items import Told
from whorl.stages.serve.dialects.structured import TextConfig, grammar_of
from whorl.stages.serve.dialects.tools import checked_function, tools_of
from whorl.stages.serve.errors import ApiError
from whorl.stages.serve.generation import Generation
from whorl.stages.serve.neutral import ABOUT_CLIENT, Neutral
from whorl.stages.serve.request import AnswerBody
from whorl.stages.serve.wire import Wire, event_of

__all__ = ["WIRE", "ResponsesBody"]

NO_MEMORY = ("previous_response_id", "conversation", "prompt")
STATELESS = "this server keeps nothing between requests; send the whole conversation as input"
NEUTRAL = Neutral(
    same={
        "background": (False,),
        "include": ([],),
        "truncation": ("disabled",),
        "store": (False,),
        "reasoning": ({},),
        **dict.fromkeys((*NO_MEMORY, "max_tool_calls", "context_management", "moderation"), ()),
    },
    about_client={key: value for key, value in ABOUT_CLIENT.items() if key != "metadata"},
    reasons={**dict.fromkeys(NO_MEMORY, STATELESS), "store": "not supported, only false"},
)


class ResponsesStreamOptions(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    include_obfuscation: Literal[False] = False


class ChosenFunction(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    type: Literal["function"]
    name: str


class ResponsesBody(AnswerBody):
    """Defaults are OpenAI's, but that nothing is stored."""

    neutral: ClassVar[Neutral] = NEUTRAL

    input: str | list[dict[str, Any]] = Field(
        min_length=1, description="a text, or a list of messages, calls and their outputs"
    )
    instructions: str | None = Field(None, description="a text: the first message, of the system")
    max_output_tokens: int | None = Field(None, ge=1, description=ANSWER_TOKENS)
    temperature: float = Field(1.0, ge=0, le=2, description="a number from 0 to 2")
    top_p: float = Field(1.0, gt=0, le=1, description="a number above 0 and at most 1")
    top_logprobs: int | None = Field(
        None, ge=0, le=20, description="a whole number from 0 to 20: told of every token"
    )
    text: TextConfig = Field(
        TextConfig(), description='{"format": {"type": "text", "json_object" or "json_schema"}}'
    )
    tools: list[dict[str, Any]] = Field(
        [], description='a list of {"type": "function", "name": …, "parameters": {…}}'
    )
    tool_choice: Literal["auto", "none", "required"] | ChosenFunction = Field(
        "auto", description='"auto", "none", "required" or {"type": "function", "name": …}'
    )
    parallel_tool_calls: bool = Field(True, description="true or false: one call at most")
    metadata: dict[str, Any] = Field({}, description="an object, which is told again")
    stream_options: ResponsesStreamOptions | None = Field(
        None, description='{"include_obfuscation": false}'
    )

    @field_validator("tools")
    @classmethod
    def _functions(cls, tools: list[dict[str, Any]]) -> list[dict[str, Any]]:
        found = []
        for number, tool in enumerate(tools):
            if tool.get("type") != "function":
                raise ValueError(
                    f"tools[{number}].type: only functions can be called; this server has no tools "
                    "of its own"
                )
            function = {key: value for key, value in tool.items() if key != "type"}
            found.append(checked_function(function, f"tools[{number}]"))
        return found

    @model_validator(mode="after")
    def _hangs_together(self) -> ResponsesBody:
        self.messages()
        self.chosen_tools()
        return self

    def messages(self) -> list[dict[str, Any]]:
        """The chat. Raises ValueError by the item's place."""
        return chat_of_items(self.input, self.instructions)

    def chosen_tools(self) -> Tools | None:
        """What may be called. Raises ValueError by the field."""
        choice = self.tool_choice
        name = choice if isinstance(choice, str) else choice.name
        return tools_of(self.tools, name, self.parallel_tool_calls, "tool_choice")


def ask(body: ResponsesBody) -> Ask:
    """An answer of text, or of what `text.format` asks for."""
    tools, messages = body.chosen_tools(), body.messages()
    grammar, field = grammar_of({"text.format": ("json", body.text.wanted())})
    names = {"temperature": "temperature", "top_p": "top_p", "logprobs": "top_logprobs"}
    names["grammar"] = field or "tool_choice"
    return Ask(
        model=body.model,
        prompts=(Chat(messages, tools, goes_on=ends_with_answer(messages)),),
        subject="input",
        max_tokens=body.max_output_tokens,
        limit_name="max_output_tokens",
        temperature=body.temperature,
        top_p=body.top_p,
        logprobs=body.top_logprobs,
        grammar=grammar,
        names=names,
    )


async def whole(body: ResponsesBody, generation: Generation, tokens: Tokens) -> dict[str, Any]:
    """The response with all its output."""
    told = Told(generation, tokens, body.top_logprobs is not None)
    status, output = await whole_output(generation, told)
    return response_of(body, generation, status, output)


def events(
    body: ResponsesBody, generation: Generation, tokens: Tokens
) -> AsyncGenerator[str, None]:
    """What becomes of the response, step by step."""
    told = Told(generation, tokens, body.top_logprobs is not None)
    return response_events(
        generation,
        told,
        lambda status, output: response_of(body, generation, status, output),
    )


def response_of(
    body: ResponsesBody, generation: Generation, status: str, output: list[dict[str, Any]]
) -> dict[str, Any]:
    """The object that is told of again and again. usage is null until it is known."""
    is_over = status in ("completed", "incomplete")
    reason = {"reason": "max_output_tokens"} if status == "incomplete" else None
    tools = [{"type": "function", "strict": False, **function} for function in body.tools]
    choice = body.tool_choice
    return {
        "id": f"resp_{generation.id}",
        "object": "response",
        "created_at": generation.created,
        "completed_at": int(time.time()) if status == "completed" else None,
        "status": status,
        "background": False,
        "error": None,
        "incomplete_details": reason,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "metadata": body.metadata,
        "model": generation.model,
        "output": output,
        "parallel_tool_calls": body.parallel_tool_calls,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None},
        "store": False,
        "temperature": body.temperature,
        "text": body.text.model_dump(by_alias=True, exclude_none=True),
        "tool_choice": choice if isinstance(choice, str) else choice.model_dump(),
        "tools": tools,
        "top_logprobs": body.top_logprobs,
        "top_p": body.top_p,
        "truncation": "disabled",
        "usage": _usage(generation) if is_over else None,
    }


def _usage(generation: Generation) -> dict[str, Any]:
    read, written = generation.prompt_tokens, generation.completion_tokens
    return {
        "input_tokens": read,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": written,
        "output_tokens_details": {"reasoning_tokens": generation.thought_tokens},
        "total_tokens": read + written,
    }


def failed(error: ApiError, num_events: int) -> str:
    """The event that ends a stream which failed, numbered as those before it."""
    told = {"type": "error", "code": error.code, "message": error.message, "param": error.param}
    return event_of({**told, "sequence_number": num_events}, "error")


WIRE = Wire(
    path="/v1/responses",
    summary="Answer a chat (OpenAI's Responses, nothing is stored)",
    body=ResponsesBody,
    ask=ask,
    whole=whole,
    events=events,
    failed=failed,
    engine_names={
        "temperature": "temperature",
        "top_p": "top_p",
        "top_logprobs": "logprobs",
        "text": "grammar",
    },
    answer_keys=("id", "object", "created_at", "status", "model", "output", "usage"),
)
