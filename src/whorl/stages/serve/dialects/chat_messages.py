"""Messages in OpenAI's form, checked, and as chat templates read them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from whorl.stages.serve.request import shown

__all__ = ["with_text"]


def with_text(number: int, message: dict[str, Any]) -> dict[str, Any]:
    """A message whose parts are one text, as templates read it. Raises ValueError by its place."""
    where, role = f"messages[{number}]", message.get("role")
    if not isinstance(role, str):
        raise ValueError(f"{where}.role must be a string, such as user; found: {shown(role)}")
    content = message.get("content")
    if isinstance(content, str) or (content is None and role == "assistant"):
        return message
    if isinstance(content, list):
        return {**message, "content": "".join(_texts_of(content, f"{where}.content"))}
    raise ValueError(
        f"{where}.content must be a string or a list of text parts; found: {shown(content)}"
    )


def _texts_of(parts: Sequence[Any], where: str) -> Iterator[str]:
    for place, part in enumerate(parts):
        kind, text = (part.get("type"), part.get("text")) if isinstance(part, dict) else (None,) * 2
        if kind != "text" or not isinstance(text, str):
            found = f"type {shown(kind)}" if isinstance(kind, str) else shown(part)
            raise ValueError(
                f'{where}[{place}] must be a text part, {{"type": "text", "text": "…"}}; '
                f"found: {found}"
            )
        yield text
