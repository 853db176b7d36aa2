"""One message of a chat as people's files write it -> as chat templates read it.

Names of roles and keys differ between formats, and what is wrong with a message is found here; the
order of messages is checked in `whorl.fields.chat_shapes`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

__all__ = ["ROLE_KEYS", "Message", "as_json", "as_message", "as_tools", "is_message", "kind_of"]

Message = dict[str, Any]
Mend = Callable[[str], None]

ROLE_KEYS, TEXT_KEYS = ("role", "from"), ("content", "value", "text")
ROLES = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "model", "bot", "bing", "bard"), "assistant"),
    **dict.fromkeys(("tool", "function", "observation", "function_response", "ipython"), "tool"),
}
CALL_ROLES = ("function_call", "tool_call")  # whose text is the JSON of one call
THOUGHTS = ("reasoning_content", "thinking", "reasoning")
UNTRAINED = {"weight": 0, "train": False}  # what says that a message is context only


def is_message(value: Any) -> bool:
    """Whether this looks like a message rather than a row."""
    return isinstance(value, Mapping) and any(
        isinstance(value.get(role), str)
        and any(text in value for text in (*TEXT_KEYS, "tool_calls"))
        for role in ROLE_KEYS
    )


def as_message(value: Any, mend: Mend) -> Message:
    """A message with role, content, and perhaps tool_calls, thoughts and what names them.

    "untrained": True stands in one that the file itself takes out of training. Raises ValueError
    with the reason of the refusal, and what was found.
    """
    if not isinstance(value, Mapping):
        raise ValueError("a message is no object", f"it is {kind_of(value)}")
    given = {key: item for key, item in value.items() if item is not None}
    role = next((given[key] for key in ROLE_KEYS if key in given), None)
    if not isinstance(role, str):
        raise ValueError("a message without a role", f"it has {', '.join(map(str, given))[:80]}")
    content = _text(next((given[key] for key in TEXT_KEYS if key in given), None))
    role = role.strip().lower()
    if role in CALL_ROLES:
        return {"role": "assistant", "content": "", "tool_calls": [_call(_parsed(content))]}
    if role not in ROLES:
        raise ValueError(
            "a role that is not known", f"it is {role[:40]!r}, not system, user, assistant or tool"
        )
    message: Message = {"role": ROLES[role], "content": content or ""}
    if message["role"] == "assistant":
        message |= _of_assistant(given, mend)
    elif content is None:
        raise ValueError("a message without content", f"of {role}")
    elif not content.strip() and message["role"] == "user":
        raise ValueError("a user's turn is empty")
    message |= {
        key: given[key] for key in ("name", "tool_call_id") if isinstance(given.get(key), str)
    }
    return message


def _of_assistant(given: Mapping[str, Any], mend: Mend) -> Message:
    """Calls, thoughts and whether it is trained."""
    found: Message = {}
    calls = given.get("tool_calls")
    if calls is None and "function_call" in given:
        mend("function_call of OpenAI's older API read as tool_calls")
        calls = [{"type": "function", "function": given["function_call"]}]
    if calls not in (None, []):
        if not isinstance(calls, Sequence) or isinstance(calls, str):
            raise ValueError("tool_calls are no list", f"they are {kind_of(calls)}")
        found["tool_calls"] = [_call(call) for call in calls]
    thoughts = next((given[key] for key in THOUGHTS if isinstance(given.get(key), str)), "")
    if thoughts.strip():
        found["reasoning_content"] = thoughts
    if any(key in given and given[key] == value for key, value in UNTRAINED.items()):
        found["untrained"] = True
    return found


def _text(content: Any) -> str | None:
    """The text of a content; parts of text are joined, as the server joins them."""
    if content is None or isinstance(content, str):
        return content
    if not isinstance(content, Sequence):
        raise ValueError("content is not a text", f"it is {kind_of(content)}")
    texts = []
    for part in content:
        text = part.get("text") if isinstance(part, Mapping) else part
        if not isinstance(text, str):
            kind = part.get("type") if isinstance(part, Mapping) else kind_of(part)
            raise ValueError("content is not a text", f"a part of it is {kind}")
        texts.append(text)
    return "".join(texts)


def _call(value: Any) -> dict[str, Any]:
    """{"type", "function": {"name", "arguments": object}} of a call, its id if it has one."""
    if not isinstance(value, Mapping):
        raise ValueError("a tool call is no object", f"it is {kind_of(value)}")
    function = value.get("function", value)
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(name, str) or not name:
        raise ValueError("a tool call without a name")
    arguments = function.get("arguments", function.get("parameters", {}))
    if isinstance(arguments, str):
        arguments = _parsed(arguments or "{}")
    if not isinstance(arguments, Mapping):
        raise ValueError("arguments of a tool call are no JSON object", kind_of(arguments))
    call = {"type": "function", "function": {"name": name, "arguments": _whole(arguments)}}
    return {"id": value["id"], **call} if isinstance(value.get("id"), str) else call


def _parsed(text: Any) -> Any:
    """Raises ValueError on what is no JSON."""
    try:
        return json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(
            "arguments of a tool call are no JSON object", f"it begins {str(text)[:40]!r}"
        ) from error


def _whole(value: Any) -> Any:
    """Without keys of nothing: tables give every row the keys of all rows."""
    if isinstance(value, Mapping):
        return {str(key): _whole(item) for key, item in value.items() if item is not None}
    return [_whole(item) for item in value] if isinstance(value, list | tuple) else value


def as_json(value: Any) -> Any:
    """A value, or what it says if it is the text of a JSON list or object, as tables hold it."""
    if not isinstance(value, str) or value.lstrip()[:1] not in ("[", "{"):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def as_tools(value: Any) -> list[dict[str, Any]] | None:
    """Tools as OpenAI's API has them; None if there are none. Raises ValueError on others."""
    tools = as_json(value)
    if tools in (None, [], {}, ""):
        return None
    tools = [tools] if isinstance(tools, Mapping) else tools
    if not isinstance(tools, Sequence) or isinstance(tools, str):
        raise ValueError("tools are no list of functions", f"they are {kind_of(tools)}")
    found = []
    for tool in tools:
        tool = as_json(tool)
        if isinstance(tool, Mapping) and "function" not in tool:
            tool = {"type": "function", "function": tool}
        function = tool.get("function") if isinstance(tool, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise ValueError("tools are no list of functions", "one has no name")
        found.append(_whole({"type": "function", **tool}))
    return found


def kind_of(value: Any) -> str:
    names = {list: "a list", dict: "an object", str: "a text", bool: "true or false"}
    return "null" if value is None else names.get(type(value), "a number")
