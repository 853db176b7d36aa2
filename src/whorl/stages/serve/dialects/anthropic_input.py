"""Anthropic's messages and their blocks as messages of a chat in OpenAI's form."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from whorl.stages.serve.dialects.chat_messages import text_of
from whorl.stages.serve.request import shown

__all__ = ["chat_of_messages"]


def chat_of_messages(
    messages: Sequence[dict[str, Any]], system: str | list[dict[str, Any]] | None
) -> list[dict[str, Any]]:
    """cache_control is taken everywhere, it changes no answer. Raises ValueError by the place."""
    found: list[dict[str, Any]] = []
    if system:
        found.append({"role": "system", "content": text_of(system, "system")})
    for number, message in enumerate(messages):
        where, role = f"messages[{number}]", message.get("role")
        if role not in ("user", "assistant"):
            raise ValueError(f"{where}.role must be user or assistant; found: {shown(role)}")
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
            text += text_of([block], where)
        elif kind == "tool_result":
            if text:
                yield {"role": "user", "content": text}
                text = ""
            result = text_of(block.get("content") or "", f"{at}.content")
            call_id = _text(block, "tool_use_id", at)
            yield {"role": "tool", "tool_call_id": call_id, "content": result}
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
            message["content"] += text_of([block], where)
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


def _kind(block: Any, where: str) -> Any:
    if not isinstance(block, dict):
        raise ValueError(f"{where} must be an object; found: {shown(block)}")
    return block.get("type")


def _text(block: dict[str, Any], key: str, where: str) -> str:
    value = block.get(key)
    if not isinstance(value, str):
        raise ValueError(f"{where}.{key} must be a string; found: {shown(value)}")
    return value


def _unsupported(kind: Any, where: str) -> ValueError:
    return ValueError(f"{where}.type: blocks of the type {shown(kind)} are not supported here")
