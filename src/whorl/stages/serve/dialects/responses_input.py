"""Items of a Responses request as messages of a chat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from whorl.stages.serve.dialects.chat_messages import check_keys, text_of
from whorl.stages.serve.neutral import Neutral
from whorl.stages.serve.request import shown

__all__ = ["chat_of_items"]

TEXTS = ("input_text", "output_text", "text")
OUTPUT: dict[str, tuple[type, str]] = {
    "id": (str, "a string"),
    "status": (str, "a string"),
}  # what our own items have
PART = Neutral(
    same={"annotations": ([],)},
    about_client={
        "logprobs": (list, "a list"),
        "prompt_cache_breakpoint": (dict, "an object"),
    },
)
DIRECT: dict[str, tuple[object, ...]] = {"caller": ({"type": "direct"},), "namespace": ()}
# type of an item -> (keys that are used, what else it may have)
ITEMS: dict[str, tuple[tuple[str, ...], Neutral]] = {
    "message": (("type", "role", "content"), Neutral(same={"phase": ()}, about_client=OUTPUT)),
    "function_call": (
        ("type", "call_id", "name", "arguments"),
        Neutral(same={"async": (False,), **DIRECT}, about_client=OUTPUT),
    ),
    "function_call_output": (
        ("type", "call_id", "output"),
        Neutral(same={"name": (), **DIRECT}, about_client=OUTPUT),
    ),
    "reasoning": (
        ("type", "content"),
        Neutral(same={"summary": ([],), "encrypted_content": ()}, about_client=OUTPUT),
    ),
}
ROLES = ("user", "assistant", "system", "developer")


def chat_of_items(items: str | Sequence[Any], instructions: str | None) -> list[dict[str, Any]]:
    """Messages in OpenAI's form; calls and thoughts stand in the assistant's message they are of.

    Raises ValueError by the item's place.
    """
    messages: list[dict[str, Any]] = []
    if instructions:
        messages.append({"role": "system", "content": instructions})
    if isinstance(items, str):
        return [*messages, {"role": "user", "content": items}]
    for number, item in enumerate(items):
        where = f"input[{number}]"
        if not isinstance(item, dict):
            raise ValueError(f"{where} must be an object; found: {shown(item)}")
        kind = item.get("type", "message")
        if isinstance(kind, str) and kind in ITEMS:
            check_keys(item, *ITEMS[kind], where)
        if kind == "message":
            _add_message(messages, item, where)
        elif kind == "function_call":
            _add_call(messages, item, where)
        elif kind == "function_call_output":
            output = text_of(item.get("output"), f"{where}.output", TEXTS, PART)
            call_id = _text(item, "call_id", where)
            messages.append({"role": "tool", "tool_call_id": call_id, "content": output})
        elif kind == "reasoning":
            thoughts = text_of(item.get("content") or [], f"{where}.content", ("reasoning_text",))
            if thoughts:
                _assistant(messages)["reasoning_content"] = thoughts
        else:
            raise ValueError(
                f"{where}.type: items of the type {shown(kind)} are not supported; this server "
                "keeps nothing and has no tools of its own"
            )
    return messages


def _add_message(messages: list[dict[str, Any]], item: dict[str, Any], where: str) -> None:
    role = item.get("role")
    if role not in ROLES:
        raise ValueError(f"{where}.role must be one of {', '.join(ROLES)}; found: {shown(role)}")
    content = text_of(item.get("content"), f"{where}.content", TEXTS, PART)
    last = messages[-1] if messages else {}
    if role == "assistant" and last.get("role") == "assistant" and not last.get("content"):
        last["content"] = content  # of the thoughts before it
    else:
        messages.append({"role": role, "content": content})


def _add_call(messages: list[dict[str, Any]], item: dict[str, Any], where: str) -> None:
    function = {key: _text(item, key, where) for key in ("name", "arguments")}
    call = {"id": _text(item, "call_id", where), "type": "function", "function": function}
    _assistant(messages).setdefault("tool_calls", []).append(call)


def _assistant(messages: list[dict[str, Any]]) -> dict[str, Any]:
    """The assistant's message at the end, a new one if there is none."""
    if not messages or messages[-1]["role"] != "assistant":
        messages.append({"role": "assistant", "content": ""})
    return messages[-1]


def _text(item: dict[str, Any], key: str, where: str) -> str:
    value = item.get(key)
    if not isinstance(value, str):
        raise ValueError(f"{where}.{key} must be a string; found: {shown(value)}")
    return value
