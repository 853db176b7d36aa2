"""/tokenize and /detokenize in vLLM's form, and the count of a request in Anthropic's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI
from fastapi.responses import JSONResponse, Response
from pydantic import Field, field_validator, model_validator
from starlette.requests import Request

from whorl.codecs.contract import TEXT
from whorl.core.errors import DataError
from whorl.core.ports import Part
from whorl.stages.serve.access import caller_of
from whorl.stages.serve.ask import Ask, Chat, TokenId
from whorl.stages.serve.dialects.anthropic import CountBody
from whorl.stages.serve.dialects.chat_messages import as_templates_read, ends_with_answer
from whorl.stages.serve.dialects.tools import functions_of, tools_of
from whorl.stages.serve.errors import invalid
from whorl.stages.serve.exchange import read_parsed
from whorl.stages.serve.gateway import Gateway
from whorl.stages.serve.request import Body
from whorl.stages.serve.served import Served
from whorl.stages.serve.token_texts import token_text

__all__ = ["TOKENIZING", "add_tokenizing"]


class TokenizeBody(Body):
    """A text, or a chat."""

    model: str | None = Field(None, description="the id of the model, a string")  # type: ignore[assignment]
    prompt: str | None = Field(None, description="a text")
    messages: list[dict[str, Any]] | None = Field(
        None, min_length=1, description='a list of at least one {"role": …, "content": …}'
    )
    tools: list[dict[str, Any]] = Field(
        [], description='a list of {"type": "function", "function": {"name": …, …}}'
    )
    add_special_tokens: bool = Field(True, description="true or false, with prompt")
    continue_final_message: bool = Field(False, description="true or false, with messages")
    return_token_strs: bool = Field(False, description="true or false")

    @field_validator("messages")
    @classmethod
    def _as_templates_read(cls, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [as_templates_read(number, message) for number, message in enumerate(messages)]

    @model_validator(mode="after")
    def _one_text(self) -> TokenizeBody:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("prompt or messages: one of them")
        if self.continue_final_message and not ends_with_answer(self.messages or ()):
            raise ValueError(
                "continue_final_message: the last message is no text of the assistant's"
            )
        if self.tools and self.messages is None:
            raise ValueError("tools: only with messages")
        self.chat()  # what it refuses is told by its place
        return self

    def chat(self) -> Chat:
        """Raises ValueError by the place."""
        tools = tools_of(functions_of(self.tools), "auto", True, "tools")
        return Chat(self.messages or (), tools, goes_on=self.continue_final_message)


class DetokenizeBody(Body):
    model: str | None = Field(None, description="the id of the model, a string")  # type: ignore[assignment]
    tokens: list[TokenId] = Field(fail_fast=True, description="a list of token ids")


# route -> what it takes
TOKENIZING: dict[str, type[Body]] = {
    "/tokenize": TokenizeBody,
    "/detokenize": DetokenizeBody,
    "/v1/messages/count_tokens": CountBody,
}


def add_tokenizing(app: FastAPI, gateway: Gateway) -> None:
    """Nothing is generated: no place is taken, and nothing of what a key may cost."""

    @app.post("/tokenize", summary="The ids of a text or a chat (vLLM's form)")
    async def tokenize(request: Request) -> Response:
        body = await read_parsed(gateway, request, TokenizeBody)
        served, count = _checked(gateway, request, body.model or gateway.card.name)
        return await _tokenize(served, body, count)

    @app.post("/detokenize", summary="The text of ids (vLLM's form)")
    async def detokenize(request: Request) -> Response:
        body = await read_parsed(gateway, request, DetokenizeBody)
        served, count = _checked(gateway, request, body.model or gateway.card.name)
        served.prompts.check_ids(body.tokens, "tokens")
        count(len(body.tokens))
        text = served.tokens.decode_stream(skip_special=False, continues=True)
        return JSONResponse({"prompt": text.push(body.tokens) + text.finish()})

    @app.post("/v1/messages/count_tokens", summary="How long a request is (Anthropic's form)")
    async def count_tokens(request: Request) -> Response:
        body = await read_parsed(gateway, request, CountBody)
        served, count = _checked(gateway, request, body.model)
        asked = Ask(model=body.model, prompts=(body.chat(),), subject="messages")
        ids = await served.prompts.encode(asked.prompts[0], asked)
        count(len(ids))
        return JSONResponse({"input_tokens": len(ids)})


def _checked(
    gateway: Gateway, request: Request, model: str
) -> tuple[Served, Callable[[int], None]]:
    """The model, and what counts the tokens against the key's limits. Raises ApiError as
    `check_model`, 429."""
    caller = caller_of(request)
    served = gateway.check_model(model, caller)
    return served, gateway.desk.ledger.begin_reading(caller)


async def _tokenize(served: Served, body: TokenizeBody, count: Callable[[int], None]) -> Response:
    tokens = served.tokens
    if body.prompt is None:
        chat = body.chat()
        asked = Ask(model="", prompts=(chat,), subject="messages")
        ids = await served.prompts.encode(chat, asked)
    elif body.add_special_tokens:
        asked = Ask(model="", prompts=(body.prompt,), subject="prompt")
        ids = await served.prompts.encode(body.prompt, asked)
    else:
        try:
            ids = tuple(await asyncio.to_thread(tokens.encode_parts, [Part(TEXT, body.prompt)]))
        except DataError as error:
            raise invalid(f"prompt: {error}", "prompt") from None
    count(len(ids))
    answer: dict[str, Any] = {
        "count": len(ids),
        "max_model_len": served.card.context_tokens,
        "tokens": list(ids),
        "token_strs": None,
    }
    if body.return_token_strs:
        answer["token_strs"] = [token_text(tokens, number) for number in ids]
    return JSONResponse(answer)
