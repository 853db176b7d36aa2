"""Messages in OpenAI's form, checked, and as chat templates read them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from whorl.stages.serve.neutral import Neutral
from whorl.stages.serve.pictures import IMAGE_PART, picture_of
from whorl.stages.serve.request import clip, shown

__all__ = ["as_templates_read", "check_keys", "ends_with_answer", "text_of"]

PART_KEYS = ("type", "text")
PART = Neutral(
    about_client=dict.fromkeys(("cache_control", "prompt_cache_breakpoint"), (dict, "an object"))
)
# Keys of messages that templates are not written for; all others are theirs.
NOT_OF_TEMPLATES = Neutral(
    same={"annotations": ([],), **dict.fromkeys(("audio", "function_call", "refusal"), ())}
)


def check_keys(
    item: Mapping[str, Any], used: Collection[str], neutral: Neutral, where: str
) -> None:
    """Each key is used, or changes nothing at its value. Raises ValueError by its place."""
    for key, value in item.items():
        if key not in used and not neutral.takes(key, value, frozenset()):
            place, told = f"{where}.{clip(key)}", neutral.refusal(key)
            if told is None:
                raise ValueError(f"{place} is unknown; expected: {', '.join(used)}")
            raise ValueError(f"{place}: {told}; found: {shown(value)}")


def as_templates_read(number: int, message: dict[str, Any]) -> dict[str, Any]:
    """A message whose parts are one text; parts of their own where images are among them.

    Raises ValueError by its place.
    """
    where, role = f"messages[{number}]", message.get("role")
    if not isinstance(role, str):
        raise ValueError(f"{where}.role must be a string, such as user; found: {shown(role)}")
    own = NOT_OF_TEMPLATES.same
    check_keys({key: message[key] for key in message if key in own}, (), NOT_OF_TEMPLATES, where)
    if message.get("tool_calls") is not None:
        _check_calls(message["tool_calls"], f"{where}.tool_calls")
    content = message.get("content")
    if isinstance(content, str) or (content is None and role == "assistant"):
        return message
    if role == "user" and isinstance(content, list) and any(map(_is_image, content)):
        return {**message, "content": _parts_of(content, f"{where}.content")}
    return {**message, "content": text_of(content, f"{where}.content")}


def _is_image(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type") == IMAGE_PART


def _parts_of(content: Sequence[Any], where: str) -> list[dict[str, str]]:
    """Texts, and images as base64. Raises ValueError by its place."""
    parts = []
    for place, part in enumerate(content):
        if _is_image(part):
            parts.append({"type": "image", "data": picture_of(part, f"{where}[{place}]")})
        else:
            text = "".join(_texts_of([part], f"{where}[{place}]", ("text",), PART))
            parts.append({"type": "text", "text": text})
    return parts


def text_of(
    content: Any, where: str, kinds: Sequence[str] = ("text",), neutral: Neutral = PART
) -> str:
    """A text, or parts that are texts, as one. neutral: what parts may have besides their text.

    Raises ValueError by its place.
    """
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(_texts_of(content, where, kinds, neutral))
    raise ValueError(f"{where} must be a string or a list of text parts; found: {shown(content)}")


def ends_with_answer(messages: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the last message is a text of the assistant's, which can be continued."""
    last = messages[-1] if messages else {}
    is_answer = last.get("role") == "assistant" and not last.get("tool_calls")
    return is_answer and bool(last.get("content"))


def _texts_of(
    parts: Sequence[Any], where: str, kinds: Sequence[str], neutral: Neutral
) -> Iterator[str]:
    for place, part in enumerate(parts):
        kind, text = (part.get("type"), part.get("text")) if isinstance(part, dict) else (None,) * 2
        if kind not in kinds or not isinstance(text, str):
            found = f"type {shown(kind)}" if isinstance(kind, str) else shown(part)
            raise ValueError(
                f'{where}[{place}] must be a text part, {{"type": "{kinds[0]}", "text": "…"}}; '
                f"found: {found}"
            )
        check_keys(part, PART_KEYS, neutral, f"{where}[{place}]")
        yield text


def _check_calls(calls: Any, where: str) -> None:
    if not isinstance(calls, list):
        raise ValueError(f"{where} must be a list; found: {shown(calls)}")
    for place, call in enumerate(calls):
        function = call.get("function") if isinstance(call, dict) else None
        if not (
            isinstance(function, dict)
            and isinstance(function.get("name"), str)
            and isinstance(function.get("arguments"), str | dict)
        ):
            raise ValueError(
                f'{where}[{place}] must be {{"id": …, "type": "function", "function": '
                f'{{"name": …, "arguments": "…"}}}}; found: {shown(call)}'
            )
