"""Bodies of /v1/completions and /v1/chat/completions: read within limits, parsed strictly."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Annotated, Any, NoReturn, TypeVar

from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from starlette.requests import Request

from whorl.stages.serve.errors import ApiError, invalid

__all__ = ["Body", "ChatBody", "CompletionBody", "PartBody", "parse_body", "read_body"]

MAX_STOPS, MAX_STOP_CHARS = 4, 256
TokenId = Annotated[int, Field(ge=0, lt=2**32)]
Stop = Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARS)]

# Fields of OpenAI's API that whorl has no use for: taken at the value that changes nothing.
NEUTRAL: dict[str, tuple[object, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "echo": (False,),
    "logprobs": (),
    "suffix": (),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
}


class StreamOptions(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    include_usage: bool = False


class PartBody(BaseModel):
    """A piece of a prompt: one codec's value, as a text or as a file of its media type."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    codec: str = Field(description='of the model, or "special": then the text names one')
    text: str | None = None
    data: str | None = Field(None, description="base64")

    @model_validator(mode="after")
    def _one_value(self) -> PartBody:
        if (self.text is None) == (self.data is None):
            raise ValueError("a part of a prompt has text or data, one of them")
        return self


class Body(BaseModel):
    """What both have; defaults are OpenAI's."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    model: str
    max_tokens: int | None = Field(None, ge=1, description="None: as many as there is room for")
    temperature: float = Field(1.0, ge=0, le=2)
    top_p: float = Field(1.0, gt=0, le=1)
    seed: int | None = Field(None, ge=0, lt=2**63)
    stop: Stop | Annotated[list[Stop], Field(max_length=MAX_STOPS)] = []
    stream: bool = False
    stream_options: StreamOptions | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)


class ChatBody(Body):
    """Messages and tools as the model's chat template takes them; a template is never taken."""

    messages: list[dict[str, Any]] = Field(min_length=1)
    tools: list[dict[str, Any]] | None = None
    max_tokens: int | None = Field(
        None, ge=1, validation_alias=AliasChoices("max_tokens", "max_completion_tokens")
    )

    @property
    def chat(self) -> dict[str, Any]:
        """What `Tokens.encode_chat` takes."""
        return {"messages": self.messages, "tools": self.tools}


class CompletionBody(Body):
    """A text, token ids or parts to go on from; what OpenAI's lacks has vLLM's names."""

    prompt: str | list[TokenId] | list[str] | list[list[TokenId]] | list[PartBody]
    allowed_token_ids: Annotated[list[TokenId], Field(min_length=1)] | None = None
    answer_codec: str | None = Field(None, description="only this codec's ids are generated")
    max_tokens: int | None = Field(16, ge=1)

    @field_validator("prompt")
    @classmethod
    def _one_prompt(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, list) and not value:
            raise ValueError("a prompt of token ids needs at least one")
        if isinstance(value, list) and not isinstance(value[0], int | PartBody):
            if len(value) != 1:
                raise ValueError(f"one prompt per request, not {len(value)}")
            if value[0] == []:
                raise ValueError("a prompt of token ids needs at least one")
        return value

    @property
    def question(self) -> str | list[int] | list[PartBody]:
        """The one prompt."""
        first = self.prompt[0] if isinstance(self.prompt, list) else None
        return first if isinstance(first, str | list) else self.prompt  # type: ignore[return-value]


AnyBody = TypeVar("AnyBody", bound=Body)


async def read_body(request: Request, max_bytes: int, deadline_s: float) -> bytes:
    """The whole body. Raises ApiError 413 when over max_bytes, 408 when it does not come."""
    data = bytearray()
    if int(request.headers.get("content-length", "0")) > max_bytes:
        raise _too_large(max_bytes)
    try:
        async with asyncio.timeout(deadline_s):
            while True:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise ApiError(400, "the client left", code="client_left")
                data += message.get("body", b"")
                if len(data) > max_bytes:
                    raise _too_large(max_bytes)
                if not message.get("more_body", False):
                    return bytes(data)
    except TimeoutError:
        raise ApiError(
            408,
            f"the body did not arrive within {deadline_s:g} s",
            code="request_timeout",
            headers={"Connection": "close"},
        ) from None


def parse_body(data: bytes, kind: type[AnyBody]) -> AnyBody:
    """Raises ApiError 400 naming the field that is wrong."""
    value = _load_json(data)
    if not isinstance(value, dict):
        raise invalid("the body must be a JSON object", code="invalid_json")
    kept = {key: item for key, item in value.items() if not _is_neutral(key, item, kind)}
    try:
        return kind.model_validate(kept)
    except ValidationError as error:
        raise _refusal(error, kind) from None


def _too_large(max_bytes: int) -> ApiError:
    return ApiError(
        413,
        f"the body is over the limit of {max_bytes:,} bytes",
        code="request_too_large",
        headers={"Connection": "close"},
    )


def _load_json(data: bytes) -> Any:
    try:
        value = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_constant=_refuse_constant,
            parse_float=_finite,
        )
        json.dumps(value, ensure_ascii=False).encode("utf-8")  # lone surrogates
    except UnicodeDecodeError:
        raise invalid("the body is not UTF-8", code="invalid_json") from None
    except UnicodeEncodeError:
        raise invalid("the body holds a lone surrogate", code="invalid_json") from None
    except RecursionError:
        raise invalid("the body is nested too deeply", code="invalid_json") from None
    except ValueError as error:
        raise invalid(f"the body is not valid JSON: {_clip(error)}", code="invalid_json") from None
    return value


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("a number is too large")
    return value


def _is_neutral(key: str, item: Any, kind: type[Body]) -> bool:
    if item is None:
        needed = {"model", "prompt", "messages"}
        return key in NEUTRAL or key in kind.model_fields.keys() - needed
    accepted = NEUTRAL.get(key, ())
    return any(type(item) in (type(a), float) and item == a for a in accepted)


def _refusal(error: ValidationError, kind: type[Body]) -> ApiError:
    """The first thing wrong, by its field."""
    errors = error.errors(include_url=False, include_input=False, include_context=False)
    told = [each for each in errors if each["loc"][:1] == ("prompt",)]  # one for each form of it
    first = next((each for each in told if each["type"] == "value_error"), errors[0])
    name = _clip(first["loc"][0]) if first["loc"] else None
    if first["type"] == "extra_forbidden":
        key = _clip(first["loc"][-1])
        if key in NEUTRAL:
            return invalid(f"{key} is not supported; leave it out", key, "unsupported_parameter")
        near = get_close_matches(key, kind.model_fields, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        return invalid(f"unknown field {key}{hint}", key, "unknown_parameter")
    if first["type"] == "missing":
        return invalid(f"{name} is missing", name, "missing_parameter")
    if name == "prompt" and first["type"] != "value_error":
        message = "expected a string, a list of token ids or a list of parts"
    elif name == "stop":
        message = f"expected up to {MAX_STOPS} strings of 1 to {MAX_STOP_CHARS} characters"
    else:
        message = first["msg"].removeprefix("Value error, ")
    return invalid(f"{name}: {message}", name)


def _clip(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:59] + "…"
