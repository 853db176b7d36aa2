"""Bodies of /v1/completions and /v1/chat/completions: read within limits, parsed strictly.

A field is used, or taken because it cannot change the answer (`whorl.stages.serve.neutral`), or
refused by its name: nothing that was asked for is left undone in silence. What a field expects is
its description here, which is what the refusal says.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from typing import Annotated, Any, ClassVar, Literal, NoReturn, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from starlette.requests import Request

from whorl.stages.serve.errors import ApiError, invalid
from whorl.stages.serve.neutral import is_neutral, refusal_of

__all__ = ["Body", "ChatBody", "CompletionBody", "PartBody", "parse_body", "read_body"]

MAX_STOPS, MAX_STOP_CHARS = 4, 256
MAX_DEPTH = 64  # of a body: objects and lists inside each other
TokenId = Annotated[int, Field(ge=0, lt=2**32)]
Stop = Annotated[str, Field(max_length=MAX_STOP_CHARS)]
ANSWER_TOKENS = "a whole number of tokens, at least 1"


class StreamOptions(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    include_usage: bool = False
    include_obfuscation: Literal[False] = False  # padding of the events


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
    subject: ClassVar[str] = "prompt"  # the field that holds what is asked

    model: str = Field(description="the id of the model, a string")
    max_tokens: int | None = Field(None, ge=1, description=ANSWER_TOKENS)  # None: all there is room
    temperature: float = Field(1.0, ge=0, le=2, description="a number from 0 to 2")
    top_p: float = Field(1.0, gt=0, le=1, description="a number above 0 and at most 1")
    seed: int | None = Field(None, ge=0, lt=2**63, description="a whole number from 0 to 2^63 - 1")
    stop: Stop | Annotated[list[Stop], Field(max_length=MAX_STOPS)] = Field(
        [], description=f"up to {MAX_STOPS} strings of up to {MAX_STOP_CHARS} characters"
    )
    stream: bool = Field(False, description="true or false")
    stream_options: StreamOptions | None = Field(
        None, description='an object such as {"include_usage": true}'
    )

    @property
    def stops(self) -> tuple[str, ...]:
        """An empty string stops nothing."""
        given = [self.stop] if isinstance(self.stop, str) else self.stop
        return tuple(text for text in given if text)

    @property
    def limit(self) -> tuple[str, int | None]:
        """(field, most tokens of the answer; None: as many as there is room for)."""
        return "max_tokens", self.max_tokens


class ChatBody(Body):
    """Messages and tools as the model's chat template takes them; a template is never taken."""

    subject: ClassVar[str] = "messages"

    messages: list[dict[str, Any]] = Field(
        min_length=1, description='a list of at least one message: {"role": …, "content": …}'
    )
    tools: list[dict[str, Any]] | None = Field(None, description="a list of objects")
    tool_choice: Literal["auto", "none"] = Field("auto", description='"auto" or "none"')
    max_completion_tokens: int | None = Field(None, ge=1, description=ANSWER_TOKENS)

    @field_validator("messages")
    @classmethod
    def _as_templates_read(cls, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [_with_text(number, message) for number, message in enumerate(messages)]

    @property
    def limit(self) -> tuple[str, int | None]:
        if self.max_completion_tokens is not None:
            return "max_completion_tokens", self.max_completion_tokens
        return "max_tokens", self.max_tokens

    @model_validator(mode="after")
    def _one_limit(self) -> ChatBody:
        limits = {self.max_tokens, self.max_completion_tokens} - {None}
        if len(limits) > 1:
            raise ValueError("max_tokens and max_completion_tokens differ; give one of them")
        return self

    @property
    def chat(self) -> dict[str, Any]:
        """What `Tokens.encode_chat` takes."""
        return {
            "messages": self.messages,
            "tools": None if self.tool_choice == "none" else self.tools,
        }


class CompletionBody(Body):
    """A text, token ids or parts to go on from; what OpenAI's lacks has vLLM's names."""

    prompt: str | list[TokenId] | list[str] | list[list[TokenId]] | list[PartBody] = Field(
        description="a string, a list of token ids or a list of parts"
    )
    allowed_token_ids: Annotated[list[TokenId], Field(min_length=1)] | None = Field(
        None, description="a list of at least one token id"
    )
    answer_codec: str | None = Field(
        None, description="the name of a codec, whose ids alone are generated"
    )
    max_tokens: int | None = Field(16, ge=1, description=ANSWER_TOKENS)

    @field_validator("prompt")
    @classmethod
    def _one_prompt(cls, value: Any) -> Any:
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


def _with_text(number: int, message: dict[str, Any]) -> dict[str, Any]:
    """A message whose parts are one text, as templates read it. Raises ValueError by its place."""
    where, role = f"messages[{number}]", message.get("role")
    if not isinstance(role, str):
        raise ValueError(f"{where}.role must be a string, such as user; found: {_shown(role)}")
    content = message.get("content")
    if isinstance(content, str) or (content is None and role == "assistant"):
        return message
    if isinstance(content, list):
        return {**message, "content": "".join(_texts_of(content, f"{where}.content"))}
    raise ValueError(
        f"{where}.content must be a string or a list of text parts; found: {_shown(content)}"
    )


def _texts_of(parts: Sequence[Any], where: str) -> Iterator[str]:
    for place, part in enumerate(parts):
        kind, text = (part.get("type"), part.get("text")) if isinstance(part, dict) else (None,) * 2
        if kind != "text" or not isinstance(text, str):
            found = f"type {_shown(kind)}" if isinstance(kind, str) else _shown(part)
            raise ValueError(
                f'{where}[{place}] must be a text part, {{"type": "text", "text": "…"}}; '
                f"found: {found}"
            )
        yield text


AnyBody = TypeVar("AnyBody", bound=Body)


async def read_body(request: Request, max_bytes: int, deadline_s: float) -> bytes:
    """The whole body. Raises ApiError 413 when over max_bytes, 408 when it does not come."""
    data = bytearray()
    length = request.headers.get("content-length", "0")
    if not (length.isascii() and length.isdigit()):
        raise invalid("the header Content-Length is no number", code="invalid_length")
    if len(length) > 18 or int(length) > max_bytes:
        raise _too_large(max_bytes)
    if (coding := request.headers.get("content-encoding", "identity")).lower() != "identity":
        raise ApiError(
            415, f"send the body uncompressed, not as {_clip(coding)}", code="unsupported_encoding"
        )
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
    optional = {name for name, info in kind.model_fields.items() if not info.is_required()}
    kept = {key: item for key, item in value.items() if not is_neutral(key, item, optional)}
    try:
        return kind.model_validate(kept)
    except ValidationError as error:
        raise _refusal(error, kind, kept) from None


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
            data.decode("utf-8-sig"),
            object_pairs_hook=_unique,
            parse_constant=_refuse_constant,
            parse_float=_finite,
        )
        _check_depth(value)
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


def _check_depth(value: Any) -> None:
    """Raises RecursionError beyond MAX_DEPTH: what reads the value next may recurse."""
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(MAX_DEPTH):
        if not level:
            return
        inner = [item.values() if isinstance(item, dict) else item for item in level]
        level = [item for items in inner for item in items if isinstance(item, dict | list)]
    if level:
        raise RecursionError


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for name, item in pairs:
        if name in value:
            raise ValueError(f"{_clip(name)} stands twice in one object")
        value[name] = item
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("a number is too large")
    return value


def _refusal(error: ValidationError, kind: type[Body], kept: dict[str, Any]) -> ApiError:
    """The first thing wrong, by its field."""
    errors = error.errors(include_url=False, include_input=False, include_context=False)
    of_first = [each for each in errors if each["loc"][:1] == errors[0]["loc"][:1]]
    # of a union there is an error for each form: one of our own checks says most
    first = next((each for each in of_first if each["type"] == "value_error"), of_first[0])
    if first["type"] == "extra_forbidden":
        return _unknown(str(first["loc"][-1]), kept, kind)
    name = str(first["loc"][0]) if first["loc"] else None
    message = str(first["msg"]).removeprefix("Value error, ")
    if name is None:
        return invalid(message, "max_completion_tokens")
    if first["type"] == "missing" and len(first["loc"]) == 1:
        return invalid(f"{name} is missing", name, "missing_parameter")
    if first["type"] == "value_error":
        return invalid(message if message.startswith(name) else f"{name}: {message}", name)
    expected = kind.model_fields[name].description
    return invalid(f"{name}: expected {expected}; found: {_shown(kept.get(name))}", name)


def _unknown(key: str, kept: dict[str, Any], kind: type[Body]) -> ApiError:
    name = _clip(key)
    if (told := refusal_of(key)) is not None:
        return invalid(
            f"{name}: {told}; found: {_shown(kept.get(key))}", name, "unsupported_parameter"
        )
    near = get_close_matches(name, kind.model_fields, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return invalid(f"unknown field {name}{hint}", name, "unknown_parameter")


def _shown(value: object) -> str:
    return _clip(json.dumps(value, ensure_ascii=False))


def _clip(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:59] + "…"
