"""Bodies of requests: read within limits, parsed strictly.

A field is used, or taken because it cannot change the answer (`whorl.stages.serve.neutral`), or
refused by its name: nothing that was asked for is left undone in silence. What a field expects is
its description here, which is what the refusal says.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, ClassVar, NoReturn, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
)
from starlette.requests import Request

from whorl.stages.serve.errors import ApiError, invalid
from whorl.stages.serve.neutral import Neutral

__all__ = ["AnswerBody", "AnyBody", "Body", "clip", "load_json", "parse_body", "read_body", "shown"]

MAX_EXACT = 2**53  # beyond, floats are not exact
MAX_DEPTH = 64  # of a body: objects and lists inside each other


class Body(BaseModel):
    """What every route that takes one has."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    neutral: ClassVar[Neutral] = Neutral()

    model: str = Field(description="the id of the model, a string")


class AnswerBody(Body):
    """What every wire format has."""

    stream: bool = Field(False, description="true or false")


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
            415, f"send the body uncompressed, not as {clip(coding)}", code="unsupported_encoding"
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
    value = load_json(data)
    if not isinstance(value, dict):
        raise invalid("the body must be a JSON object", code="invalid_json")
    optional = {name for name, info in kind.model_fields.items() if not info.is_required()}
    kept = {key: item for key, item in value.items() if not kind.neutral.takes(key, item, optional)}
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


def load_json(data: bytes) -> Any:
    """A value that JSON can say again. Raises ApiError 400 on anything else."""
    try:
        value = json.loads(
            data.decode("utf-8-sig"),
            object_pairs_hook=_unique,
            parse_constant=_refuse_constant,
            parse_float=_number,
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
        raise invalid(f"the body is not valid JSON: {clip(error)}", code="invalid_json") from None
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
            raise ValueError(f"{clip(name)} stands twice in one object")
        value[name] = item
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _number(text: str) -> float:
    """A whole number is one however it is written: JSON knows no difference of 1 and 1.0."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("a number is too large")
    return int(value) if value.is_integer() and abs(value) <= MAX_EXACT else value


def _refusal(error: ValidationError, kind: type[Body], kept: dict[str, Any]) -> ApiError:
    """The first thing wrong, by its field."""
    errors = error.errors(include_url=False, include_input=False, include_context=False)
    of_first = [each for each in errors if each["loc"][:1] == errors[0]["loc"][:1]]
    # of a union there is an error for each form: one of our own checks says most
    first = next((each for each in of_first if each["type"] == "value_error"), of_first[0])
    if first["type"] == "extra_forbidden" and len(first["loc"]) == 1:
        return _unknown(str(first["loc"][0]), kept, kind)
    if first["type"] == "extra_forbidden":
        place = f"{clip(first['loc'][0])}.{clip(first['loc'][-1])}"
        return invalid(f"unknown field {place}", place, "unknown_parameter")
    message = str(first["msg"]).removeprefix("Value error, ")
    if not first["loc"]:  # of the whole body: the message begins with the field
        return invalid(message, message.split(maxsplit=1)[0].rstrip(":"))
    name = str(first["loc"][0])
    if first["type"] == "missing" and len(first["loc"]) == 1:
        return invalid(f"{name} is missing", name, "missing_parameter")
    if first["type"] == "value_error":
        return invalid(message if message.startswith(name) else f"{name}: {message}", name)
    expected = kind.model_fields[name].description
    return invalid(f"{name}: expected {expected}; found: {shown(kept.get(name))}", name)


def _unknown(key: str, kept: dict[str, Any], kind: type[Body]) -> ApiError:
    name = clip(key)
    if (told := kind.neutral.refusal(key)) is not None:
        return invalid(
            f"{name}: {told}; found: {shown(kept.get(key))}", name, "unsupported_parameter"
        )
    near = get_close_matches(name, kind.model_fields, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return invalid(f"unknown field {name}{hint}", name, "unknown_parameter")


def shown(value: object) -> str:
    return clip(json.dumps(value, ensure_ascii=False))


def clip(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:59] + "…"
