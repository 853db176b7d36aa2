"""Anthropic's messages and their blocks as messages of a chat in OpenAI's form."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from whorl.stages.serve.dialects.chat_messages import check_keys, text_of
from whorl.stages.serve.neutral import Neutral
from whorl.stages.serve.request import shown

__all__ = ["chat_of_messages"]

CACHING: dict[str, tuple[type, str]] = {
    "cache_control": (dict, "an object")
}  # prefixes are shared anyway
TEXT = Neutral(same={"citations": ([],)}, about_client=CACHING)
# type of a block -> (keys that are used, what else it may have)
BLOCKS: dict[str, tuple[tuple[str, ...], Neutral]] = {
    "thinking": (("type", "thinking"), Neutral(about_client={"signature": (str, "a string")})),
    "tool_use": (
        ("type", "id", "name", "input"),
        Neutral(same={"caller": ({"type": "direct"},), "toolset_name": ()}, about_client=CACHING),
    ),
    "tool_result": (
        ("type", "tool_use_id", "content", "is_error"),
        Neutral(same={"toolset_name": ()}, about_client=CACHING),
    ),
}


def chat_of_messages(
    messages: Sequence[dict[str, Any]], system: str | list[dict[str, Any]] | None
) -> list[dict[str, Any]]:
    """cache_control is taken everywhere, it changes no answer. Raises ValueError by the place.

    That a tool failed (is_error) stands in its message, for templates that tell the model.
    """
    found: list[dict[str, Any]] = []
    if system:
        found.append({"role": "system", "content": text_of(system, "system", neutral=TEXT)})
    for number, message in enumerate(messages):
        where, role = f"messages[{number}]", message.get("role")
        if role not in ("user", "assistant"):
            raise ValueError(f"{where}.role must be user or assistant; found: {shown(role)}")
        check_keys(message, ("role", "content"), Neutral(), where)
        content = message.get("content")
        if isinstance(content, str):
            found.append({"role": role, "content": content})
        elif isinstance(content, list):
            make = _of_user if role == "user" else _of_assistant
            found += make(content, f"{where}.content")
        else:
            raise ValueError(
                f"{where}.content must be a string or a list of blocks; found: {shown(content)}"
            )
    return found


def _of_user(blocks: Sequence[Any], where: str) -> Iterator[dict[str, Any]]:
    """Results of tools are messages of their own; texts that follow each other are one."""
    text = ""
    for place, block in enumerate(blocks):
        at = f"{where}[{place}]"
        kind = _kind(block, at)
        if kind == "text":
            text += _said(block, where, place)
        elif kind == "tool_result":
            if text:
                yield {"role": "user", "content": text}
                text = ""
            yield _result(block, at)
        else:
            raise _unsupported(kind, at)
    if text or not blocks:
        yield {"role": "user", "content": text}


def _of_assistant(blocks: Sequence[Any], where: str) -> Iterator[dict[str, Any]]:
    """One message."""
    message: dict[str, Any] = {"role": "assistant", "content": ""}
    for place, block in enumerate(blocks):
        at = f"{where}[{place}]"
        kind = _kind(block, at)
        if kind == "text":
            message["content"] += _said(block, where, place)
        elif kind == "thinking":
            thoughts = message.get("reasoning_content", "")
            message["reasoning_content"] = thoughts + _text(block, "thinking", at)
        elif kind == "tool_use":
            value = block.get("input")
            if not isinstance(value, dict):
                raise ValueError(f"{at}.input must be an object; found: {shown(value)}")
            function = {"name": _text(block, "name", at), "arguments": json.dumps(value)}
            call = {"id": _text(block, "id", at), "type": "function", "function": function}
            message.setdefault("tool_calls", []).append(call)
        else:
            raise _unsupported(kind, at)
    yield message


def _said(block: dict[str, Any], where: str, place: int) -> str:
    """A text block's text."""
    if not isinstance(block.get("text"), str):
        raise ValueError(f"{where}[{place}].text must be a string; found: {shown(block)}")
    check_keys(block, ("type", "text"), TEXT, f"{where}[{place}]")
    return str(block["text"])


def _result(block: dict[str, Any], where: str) -> dict[str, Any]:
    text = text_of(block.get("content") or "", f"{where}.content", neutral=TEXT)
    message = {"role": "tool", "tool_call_id": _text(block, "tool_use_id", where), "content": text}
    is_error = block.get("is_error") or False
    if not isinstance(is_error, bool):
        raise ValueError(f"{where}.is_error must be true or false; found: {shown(is_error)}")
    return message | ({"is_error": True} if is_error else {})


def _kind(block: Any, where: str) -> Any:
    if not isinstance(block, dict):
        raise ValueError(f"{where} must be an object; found: {shown(block)}")
    kind = block.get("type")
    if isinstance(kind, str) and kind in BLOCKS:
        check_keys(block, *BLOCKS[kind], where)
    return kind


def _text(block: dict[str, Any], key: str, where: str) -> str:
    value = block.get(key)
    if not isinstance(value, str):
        raise ValueError(f"{where}.{key} must be a string; found: {shown(value)}")
    return value


def _unsupported(kind: Any, where: str) -> ValueError:
    return ValueError(f"{where}.type: blocks of the type {shown(kind)} are not supported here")
