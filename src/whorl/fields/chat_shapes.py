"""What kind of chat a row is, by its keys and values, and the chat in it.

    OpenAI messages     {"messages": [{"role", "content", "tool_calls" …}, …], "tools": […]}
    ShareGPT            {"conversations": [{"from", "value"}, …], "system", "tools"}
    Alpaca              {"instruction", "input", "output", "system", "history"}
    prompt/completion   {"prompt", "completion"}, texts or lists of messages
    preferences         {"prompt", "chosen", "rejected"}, texts or lists of messages
    plain text          {"text"}

Keys go by other names in some files (see the constants), and a list of messages is found under any
name. A chat is what `whorl.codecs.chat` encodes; a pair of chats has one prompt and two answers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from whorl.fields.chat_turns import (
    ROLE_KEYS,
    Message,
    as_json,
    as_message,
    as_tools,
    is_message,
    kind_of,
)

__all__ = ["SHAPES", "Chat", "FoundChat", "is_chat_row", "recognised"]

Chat = dict[str, Any]
Row = Mapping[str, Any]
Mend = Callable[[str], None]

LISTS = ("messages", "conversations", "conversation", "dialog", "dialogue", "turns")
PROMPTS = ("prompt", "instruction", "question", "query", "input", "user")
ANSWERS = ("completion", "response", "output", "answer", "assistant", "target")
CHOSEN, REJECTED = ("chosen", "preferred_output"), ("rejected", "non_preferred_output")
MORE = ("input", "context")  # what a question is about, behind it
NO_CHAT = ("prompt", "completion", "input", "history")  # lists of messages that are a part of one
SYSTEMS = ("system", "system_prompt")
MESSAGES, SHAREGPT, ALPACA = "OpenAI messages", "ShareGPT", "Alpaca"
COMPLETION, PAIRS, TEXT = "prompt/completion", "preferences (chosen/rejected)", "plain text"
SHAPES = (MESSAGES, SHAREGPT, ALPACA, COMPLETION, PAIRS, TEXT)
SPEAKERS = re.compile(r"(?:^|\n\n)(Human|Assistant): ?")
SPEAKER_ROLES = {"Human": "user", "Assistant": "assistant"}
CUT_END = "what follows the last turn of the assistant left out"


@dataclass(frozen=True)
class FoundChat:
    """What a row is: a text, a chat, or two chats of which the first is preferred."""

    shape: str
    text: str = ""
    chats: tuple[Chat, ...] = ()


def is_chat_row(row: Row) -> bool:
    """Whether a row is a chat of some kind, whole or damaged."""
    return _shape(_values(row))[0] not in ("", TEXT)


def recognised(row: Row, text_key: str, mend: Mend) -> FoundChat:
    """The chat or text of a row. mend(words): what was read though it was written otherwise.

    Raises ValueError with the reason of the refusal, and what was found instead.
    """
    if {"id", "model", "version", "caller", "contract"} <= row.keys():  # of feedback.jsonl
        raise ValueError("an opinion of a server's answer", "`whorl improve NAME` makes rows of it")
    values = _values(row)
    shape, key = _shape(values, text_key)
    _check_meant(values, shape, key)
    if shape == TEXT:
        return FoundChat(TEXT, text=values[key])
    if shape == PAIRS:
        return FoundChat(PAIRS, chats=_pair(values, mend))
    if shape in (MESSAGES, SHAREGPT):
        return FoundChat(shape, chats=(_chat(_turns(values, values[key]), values, mend),))
    if shape in (ALPACA, COMPLETION):
        asked, answer = key.split()
        turns = [*_turns(values, values[asked], "user"), *_listed(values[answer], "assistant")]
        return FoundChat(shape, chats=(_chat(turns, values, mend),))
    keys = ", ".join(str(name)[:40] for name in list(row)[:8])
    if is_message(row):
        raise ValueError(
            "a message without its conversation",
            'write each conversation as {"messages": [message, …]}, one to a line',
        )
    raise ValueError("no chat that is known", f"it has {keys}" if keys else "it is empty")


def _values(row: Row) -> dict[str, Any]:
    """Without nulls; lists that tables keep as text are read."""
    held = (*LISTS, *CHOSEN, *REJECTED, "prompt", "completion", "history", "input")
    return {
        key: as_json(value) if key in held and _holds_messages(value) else value
        for key, value in row.items()
        if value is not None
    }


def _holds_messages(value: Any) -> bool:
    """Whether a text is the JSON of a list of messages, rather than an answer in JSON."""
    found = as_json(value)
    listed = found if isinstance(found, list) else [found]
    return isinstance(value, str) and bool(listed) and all(map(is_message, listed))


def _shape(values: Row, text_key: str = "text") -> tuple[str, str]:
    """(shape, the key that it is in; of an answer "its prompt's its own"); ("", "") is none."""
    if _first(values, CHOSEN) and _first(values, REJECTED):
        return PAIRS, ""
    names = [*(key for key in LISTS if key in values), *(k for k in values if k not in LISTS)]
    for key in names:
        value = values[key]
        if key not in LISTS and (key in NO_CHAT or not _is_listed(value)):
            continue
        first = value[0] if isinstance(value, list) and value else None
        by_from = isinstance(first, Mapping) and ROLE_KEYS[0] not in first and ROLE_KEYS[1] in first
        is_sharegpt = by_from or (key.startswith("conversation") and not _has_role(first))
        return SHAREGPT if is_sharegpt else MESSAGES, key
    asked = _first(values, PROMPTS)
    answers = [key for key in ANSWERS if key in values and key != asked]
    answer = next((key for key in answers if values[key] != ""), _first(values, answers))
    if asked and answer:
        return ALPACA if asked == "instruction" else COMPLETION, f"{asked} {answer}"
    if isinstance(values.get(text_key), str):
        return TEXT, text_key
    return "", ""


def _has_role(message: Any) -> bool:
    return isinstance(message, Mapping) and ROLE_KEYS[0] in message


def _is_listed(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(is_message, value))


def _first(values: Row, names: Sequence[str]) -> str:
    return next((name for name in names if name in values), "")


def _listed(value: Any, role: str) -> list[Any]:
    """The messages a value is: itself, if it is a list of them, or one, or the text of one."""
    if isinstance(value, str):
        return [{"role": role, "content": value}]
    return list(value) if isinstance(value, list | tuple) else [value]


def _turns(values: Row, value: Any, role: str = "") -> list[Any]:
    """Messages of a conversation or prompt, with what other keys say before it."""
    if not role and not isinstance(value, list):
        raise ValueError("messages are no list", f"it is {kind_of(value)}")
    turns = _listed(value, role)
    if role and isinstance(value, str):
        more = (values[key] for key in MORE if key in values and values[key] is not value)
        asked = [value, *(text for text in more if isinstance(text, str) and text.strip())]
        turns = [*_history(values.get("history")), {"role": role, "content": "\n\n".join(asked)}]
    system = values.get(_first(values, SYSTEMS))
    if isinstance(system, str) and system.strip() and not _begins_with_system(turns):
        turns = [{"role": "system", "content": system}, *turns]
    return turns


def _begins_with_system(turns: Sequence[Any]) -> bool:
    first = turns[0] if turns else None
    if not isinstance(first, Mapping):
        return False
    role = _first(first, ROLE_KEYS)
    return bool(role) and first[role] in ("system", "developer")


def _history(value: Any) -> list[Any]:
    """Earlier turns of an instruction: [[asked, answered], …], or messages."""
    if _is_listed(value):
        return list(value)
    turns: list[Any] = []
    for pair in value if isinstance(value, list | tuple) else [value] if value else []:
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise ValueError("history is no list of [question, answer]")
        turns += [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]
    return turns


# ------------------------------------------------------------------ checks


def _check_meant(values: Row, shape: str, key: str) -> None:
    """Raises ValueError where two keys say different things and only one would be read."""
    if shape in (MESSAGES, SHAREGPT):
        lists = [name for name, value in values.items() if _is_listed(value) and name != key]
        more = [name for name in lists if not _is_part(values[name], values[key])]
        _check_one([key, *more], "conversation")
        answers = _different(values, [n for n in ANSWERS if not _is_listed(values.get(n))])
        if answers and _ends_with_user(values[key]):
            raise ValueError("the answer stands outside the conversation", f"in {answers[0]}")
    if shape in (ALPACA, COMPLETION):
        asked, _ = key.split()
        _check_one(_different(values, [n for n in ANSWERS if n != asked]), "answer")
        _check_one(_different(values, [n for n in PROMPTS if n not in MORE]), "question")
    if shape == PAIRS:
        _check_one(_different(values, CHOSEN), "chosen answer")
        _check_one(_different(values, REJECTED), "rejected answer")
    if shape not in (TEXT, ""):
        _check_one(_different(values, SYSTEMS), "system message")


def _check_one(names: Sequence[str], what: str) -> None:
    if len(names) > 1:
        raise ValueError(f"several keys hold the {what}", f"it has {' and '.join(names)}")


def _different(values: Row, names: Sequence[str]) -> list[str]:
    """Those of the keys that say something, each thing once: texts or messages."""
    found: dict[str, str] = {}
    for name in names:
        value = values.get(name)
        if _is_listed(value) or (isinstance(value, str) and value.strip()):
            found.setdefault(repr(value), name)
    return list(found.values())


def _ends_with_user(turns: Any) -> bool:
    last = turns[-1] if isinstance(turns, list) and turns else None
    return isinstance(last, Mapping) and last.get(_first(last, ROLE_KEYS)) in ("user", "human")


def _is_part(piece: Sequence[Any], whole: Any) -> bool:
    """Whether messages stand, side by side, among others."""
    ends = range(len(piece), len(whole) + 1) if isinstance(whole, list) else ()
    return any(whole[end - len(piece) : end] == piece for end in ends)


def _chat(turns: Sequence[Any], values: Row, mend: Mend) -> Chat:
    """A chat whose last turn is the assistant's. Raises ValueError."""
    messages = [as_message(turn, mend) for turn in turns]
    if not messages:
        raise ValueError("a chat without messages")
    answers = [place for place, each in enumerate(messages) if each["role"] == "assistant"]
    if not answers:
        raise ValueError("no turn of the assistant")
    if answers[-1] + 1 < len(messages):
        mend(CUT_END)
        messages = messages[: answers[-1] + 1]
    _check_order(messages)
    return _with_tools(messages, values)


def _with_tools(messages: Sequence[Message], values: Row) -> Chat:
    """Turns that are not trained are told by their numbers among the assistant's."""
    tools = as_tools(values.get("tools", values.get("functions")))
    answers = [message for message in messages if message["role"] == "assistant"]
    untrained = [number for number, each in enumerate(answers) if each.get("untrained")]
    if len(untrained) == len(answers):
        raise ValueError("no turn of the assistant", "all have a weight of 0")
    plain = [{key: v for key, v in each.items() if key != "untrained"} for each in messages]
    chat: Chat = {"messages": plain}
    if tools is not None:
        chat["tools"] = tools
    return {**chat, "untrained": untrained} if untrained else chat


def _check_order(messages: Sequence[Message]) -> None:
    """Raises ValueError on an order of turns that no template writes."""
    before, open_calls = "", set[str]()
    for number, message in enumerate(messages):
        role = message["role"]
        allowed = {
            "": ("system", "user"),
            "system": ("user",),
            "user": ("assistant",),
            "assistant": ("tool",) if messages[number - 1].get("tool_calls") else ("user",),
            "tool": ("tool", "assistant", "user"),
        }[before]
        if role not in allowed:
            found = f"{role} after {before}" if before else f"{role} comes first"
            raise ValueError("roles out of order", f"{found}, message {number + 1}")
        calls = message.get("tool_calls", ())
        if role == "assistant" and not calls and not message["content"].strip():
            raise ValueError("a turn of the assistant is empty", f"message {number + 1}")
        if calls:
            open_calls = {call["id"] for call in calls if "id" in call}
        answered = message.get("tool_call_id")
        if role == "tool" and answered is not None and open_calls and answered not in open_calls:
            raise ValueError("an answer to no tool call", f"message {number + 1}")
        before = role


def _pair(values: Row, mend: Mend) -> tuple[Chat, Chat]:
    """Two chats of one prompt: (the chosen, the rejected)."""
    chosen, rejected = values[_first(values, CHOSEN)], values[_first(values, REJECTED)]
    sides = [_dialogue(side) or _listed(side, "assistant") for side in (chosen, rejected)]
    given = values.get(_first(values, (*LISTS, *PROMPTS)))
    if isinstance(given, Mapping) and "messages" in given:  # OpenAI's {"input": {"messages": …}}
        values = {**values, **given}
        given = given["messages"]
    if all(map(_is_whole, sides)):  # the prompt stands in both
        sides = [_turns(values, side) for side in sides]
    else:
        if given is None:
            raise ValueError("chosen and rejected without a prompt")
        listed = [name for name in LISTS if _is_listed(values.get(name))]
        questions = [name for name in PROMPTS if name not in MORE]
        _check_one(_different(values, listed or questions), "prompt")
        before = _turns(values, given, "user")
        sides = [[*before, *side] for side in sides]
    first, second = (_chat(side, values, mend) for side in sides)
    a, b = first["messages"], second["messages"]
    shared = next(
        (n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b))
    )
    if a == b:
        raise ValueError("chosen and rejected are the same")
    if shared == min(len(a), len(b)):
        raise ValueError("of chosen and rejected one is the beginning of the other")
    if not shared or {a[shared]["role"], b[shared]["role"]} != {"assistant"}:
        raise ValueError("chosen and rejected have not one prompt")
    prompt_turns = sum(message["role"] == "assistant" for message in a[:shared])
    for chat in (first, second):
        told = {*chat.get("untrained", ()), *range(prompt_turns)}
        if told:
            chat["untrained"] = sorted(told)
    return first, second


def _dialogue(side: Any) -> list[Any]:
    """Turns of a text "\\n\\nHuman: …\\n\\nAssistant: …"; [] if it is none."""
    pieces = SPEAKERS.split(side) if isinstance(side, str) else []
    if pieces and pieces[0].strip():  # an answer in which such words stand
        return []
    turns = zip(pieces[1::2], pieces[2::2], strict=True)
    return [{"role": SPEAKER_ROLES[who], "content": text} for who, text in turns]


def _is_whole(side: Sequence[Any]) -> bool:
    """Whether a side holds the prompt too: more than the assistant's turns."""
    roles = [each.get(_first(each, ROLE_KEYS)) for each in side if isinstance(each, Mapping)]
    return bool(set(map(str, roles)) & {"user", "human"})
