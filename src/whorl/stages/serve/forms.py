"""Bodies that come as a form with files (multipart/form-data), parsed as strictly as JSON."""

from __future__ import annotations

import base64
import json
from email.message import Message
from typing import Any

from starlette.requests import Request

from whorl.core.errors import MissingExtra
from whorl.stages.serve.errors import ApiError, invalid
from whorl.stages.serve.request import AnyBody, clip, parse_body

__all__ = ["FORM", "boundary_of", "parse_form"]

FORM = "multipart/form-data"
MAX_FIELDS = 32
MAX_TYPE_CHARS = 200  # of the header that names the boundary
MAX_FIELD_BYTES = 2**16  # of one that is no file
OTHERS = ("true", "false", "null")


def boundary_of(request: Request) -> bytes:
    """What stands between the fields. Raises ApiError 415 if the body is said to be no form."""
    said = Message()
    said["content-type"] = request.headers.get("content-type", "")[:MAX_TYPE_CHARS]
    kind, boundary = said.get_content_type(), said.get_boundary() or ""
    if kind != FORM or not boundary:
        told = f"this route takes {FORM} with a boundary, not {clip(kind) or 'nothing'}"
        raise ApiError(415, told, code="unsupported_media_type")
    if len(boundary) > 70 or not boundary.isascii():
        raise invalid("the boundary of the form is none", code="invalid_form")
    return boundary.encode()


def parse_form(
    data: bytes, boundary: bytes, kind: type[AnyBody], files: tuple[str, ...]
) -> AnyBody:
    """A form as a body. Fields of `files` are handed on in base64, `name[]` is a list.

    Raises ApiError 400 naming the field that is wrong, 501 without the parser.
    """
    value: dict[str, Any] = {}
    for name, content in _fields(data, boundary):
        key = name.removesuffix("[]")
        item: Any
        if key in files:
            item = base64.b64encode(content).decode()
        elif len(content) > MAX_FIELD_BYTES:
            raise invalid(f"{clip(key)}: over {MAX_FIELD_BYTES:,} bytes", clip(key))
        else:
            item = _value(content, key, kind)
        if name.endswith("[]") and isinstance(value.setdefault(key, []), list):
            value[key].append(item)
        elif key in value:
            raise invalid(f"{clip(key)} stands twice in the form", clip(key), "invalid_form")
        else:
            value[key] = item
    return parse_body(json.dumps(value).encode(), kind)


def _value(content: bytes, key: str, kind: type[AnyBody]) -> Any:
    """A text, or what it says where the field is none of texts."""
    try:
        text = content.decode()
    except UnicodeDecodeError:
        raise invalid(f"{clip(key)}: not UTF-8", clip(key), "invalid_form") from None
    info = kind.model_fields.get(key)
    if info is None or info.annotation is str:
        return text
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return found if text in OTHERS or isinstance(found, int | float) else text


def _fields(data: bytes, boundary: bytes) -> list[tuple[str, bytes]]:
    """(name, content) of each part of the form, in order."""
    try:
        from python_multipart.exceptions import FormParserError
        from python_multipart.multipart import MultipartParser, parse_options_header
    except ImportError as error:
        told = str(MissingExtra.of("python-multipart", "audio", "a form"))
        raise ApiError(501, told, code="no_forms") from error
    found: list[tuple[str, bytearray]] = []
    header = [bytearray(), bytearray()]
    ended: list[bool] = []

    def begin() -> None:
        if len(found) == MAX_FIELDS:
            raise invalid(f"the form has more than {MAX_FIELDS} fields", code="invalid_form")
        found.append(("", bytearray()))

    def header_end() -> None:
        if bytes(header[0]).lower() == b"content-disposition":
            _, options = parse_options_header(bytes(header[1]))
            found[-1] = options.get(b"name", b"").decode("utf-8", "replace"), found[-1][1]
        for piece in header:
            piece.clear()

    callbacks: Any = {
        "on_part_begin": begin,
        "on_part_data": lambda block, start, end: found[-1][1].extend(block[start:end]),
        "on_header_field": lambda block, start, end: header[0].extend(block[start:end]),
        "on_header_value": lambda block, start, end: header[1].extend(block[start:end]),
        "on_header_end": header_end,
        "on_end": lambda: ended.append(True),
    }
    try:
        parser = MultipartParser(boundary, callbacks)
        parser.write(data)
        parser.finalize()
    except FormParserError as error:
        raise invalid(f"the form cannot be read: {clip(error)}", code="invalid_form") from None
    if not ended:
        raise invalid("the form is cut short", code="invalid_form")
    return [(name, bytes(content)) for name, content in found]
