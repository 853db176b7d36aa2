"""A chat -> tokens, and which of them are the assistant's: one function for every stage.

The text of a message is never more than text: a special token written in it stays text, as in
any document. A chat is {"messages": [...], "tools": [...] or nothing, "variables": {...} or
nothing}; the messages are as in OpenAI's API, the variables go to the template.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whorl.codecs.template import BEGIN, END, has_generation, render
from whorl.codecs.tokenizer import TextCodec
from whorl.core.errors import DataError

__all__ = ["ChatEncoder"]

HIDE = "\ufdd0"  # breaks the text of a special token inside a message
CUT = "\ufdd3"  # where a last message that is gone on with ends
RESERVED = re.compile("[\ufdd0-\ufdd5]")
KEYS = ("messages", "tools", "variables")
REASONING = ("reasoning_content", "thinking", "reasoning")


@dataclass(frozen=True)
class ChatEncoder:
    """A codec with a template. names: "bos_token" … -> its text; stops: texts that end a turn."""

    codec: TextCodec
    template: str
    names: Mapping[str, str]
    stops: Sequence[str]

    def encode(
        self,
        chat: Any,
        ask: bool = False,
        now: datetime | None = None,
        goes_on: bool = False,
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """(ids [n], mask [n]: the assistant's turns). ask: the assistant's next turn is begun.

        goes_on: instead the last message is not ended, so that it is gone on with; the mask is of
        no use then. Raises DataError on what is no chat, or what the template refuses.
        """
        values = self._hidden(_checked(chat))
        messages = values.pop("messages")
        if goes_on:
            messages[-1:] = [_with_cut(message) for message in messages[-1:]]

        def rendered(count: int, begin_turn: bool) -> str:
            asked = {"messages": messages[:count], "add_generation_prompt": begin_turn}
            return render(self.template, {**self.names, "documents": None, **values, **asked}, now)

        whole = rendered(len(messages), ask and not goes_on)
        if goes_on:
            whole = _up_to_cut(whole)
        elif not ask and not has_generation(self.template):
            whole = self._marked(whole, messages, rendered)
        text, spans = self._with_stand_ins(whole)
        ids, offsets = self.codec.encode_rendered(text)
        mask = np.zeros(len(ids), np.bool_)
        for begin, end in spans:
            mask |= (offsets[:, 0] < end) & (offsets[:, 1] > begin)
        return ids, mask

    def _marked(
        self,
        whole: str,
        messages: Sequence[Mapping[str, Any]],
        rendered: Callable[[int, bool], str],
    ) -> str:
        """The text with marks around the assistant's turns, each up to what ends it.

        A turn is what the template adds to the messages before it, once that turn is begun. In
        the whole its beginning may be missing, as thoughts of earlier turns are.
        """
        spans = []
        for number, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            before, after = rendered(number, True), rendered(number + 1, False)
            if not whole.startswith(before) or not after.startswith(before):
                raise _unclear(number)
            turn, rest = after[len(before) :], whole[len(before) :]
            kept = next((turn[at:] for at in range(len(turn)) if rest.startswith(turn[at:])), "")
            if not kept.strip() or _last_line(message) not in kept:
                raise _unclear(number)
            ends = [kept.rfind(stop) + len(stop) for stop in self.stops if stop in kept]
            spans.append((len(before), len(before) + max(ends, default=len(kept))))
        for begin, end in reversed(spans):
            whole = f"{whole[:begin]}{BEGIN}{whole[begin:end]}{END}{whole[end:]}"
        return whole

    def _hidden(self, value: Any) -> Any:
        """The value with HIDE inside every special token's text, and where one may be begun."""
        if isinstance(value, str):
            if RESERVED.search(value):
                raise DataError("a chat holds a noncharacter", expected="none of U+FDD0 to U+FDD5")
            value = self._specials.sub(lambda found: found[0][0] + HIDE + found[0][1:], value)
            return value + HIDE if self._begun.search(value) else value
        if isinstance(value, Mapping):
            return {self._hidden(key): self._hidden(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self._hidden(item) for item in value]
        return value

    @cached_property
    def _specials(self) -> re.Pattern[str]:
        longest_first = sorted(self.codec.special, key=len, reverse=True)
        return re.compile("|".join(re.escape(text) for text in longest_first) or "(?!)")

    @cached_property
    def _begun(self) -> re.Pattern[str]:
        """The beginning of a special token at the end of a text."""
        starts = {text[:n] for text in self.codec.special for n in range(1, len(text))}
        return re.compile(f"(?:{'|'.join(map(re.escape, sorted(starts))) or '(?!)'})\\Z")

    def _with_stand_ins(self, marked: str) -> tuple[str, list[tuple[int, int]]]:
        """(text for the codec, places in it that are the assistant's)."""
        pattern = re.compile(f"{BEGIN}|{END}|{HIDE}|{self._specials.pattern}")
        pieces, num_chars, at = [], 0, 0
        spans: list[tuple[int, int]] = []
        begun: list[int] = []
        for found in pattern.finditer(marked):
            piece = marked[at : found.start()]
            at = found.end()
            if found[0] in self.codec.special:
                piece += self.codec.stand_in(found[0])
            pieces.append(piece)
            num_chars += len(piece)
            if found[0] == BEGIN:
                begun.append(num_chars)
            elif found[0] == END:
                spans.append((begun.pop(), num_chars))
        return "".join([*pieces, marked[at:]]), spans


def _checked(chat: Any) -> dict[str, Any]:
    """A copy with thoughts under the name that templates read. Raises DataError if it is none."""
    messages = chat.get("messages") if isinstance(chat, Mapping) else None
    if not isinstance(messages, list | tuple) or not all(
        isinstance(message, Mapping) and isinstance(message.get("role"), str)
        for message in messages
    ):
        raise DataError("this is not a chat", expected='{"messages": [{"role", "content"}, …]}')
    if strange := sorted(set(chat) - set(KEYS)):
        raise DataError("a chat has unknown keys", found=strange, expected=", ".join(KEYS))
    found = {"tools": chat.get("tools"), **(chat.get("variables") or {})}
    return {**found, "messages": [_as_templates_read(message) for message in messages]}


def _as_templates_read(message: Mapping[str, Any]) -> dict[str, Any]:
    """Thoughts under each of their names; the arguments of calls as objects, not as their JSON."""
    calls = message.get("tool_calls")
    if isinstance(calls, list | tuple):
        message = {**message, "tool_calls": [_with_object(call) for call in calls]}
    thoughts = next((message[key] for key in REASONING if message.get(key) is not None), None)
    if thoughts is None:
        return dict(message)
    return {"thinking": thoughts, **message, "reasoning_content": thoughts}


def _with_object(call: Any) -> Any:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping):
        return call
    arguments = function.get("arguments")
    if not isinstance(arguments, str):
        return call
    try:
        value = json.loads(arguments)
    except (ValueError, RecursionError):
        return call
    return {**call, "function": {**function, "arguments": value}} if type(value) is dict else call


def _with_cut(message: Mapping[str, Any]) -> dict[str, Any]:
    """The message with CUT behind its content, and a space that shows whether it is trimmed."""
    if not isinstance(content := message.get("content"), str):
        raise DataError("the last message has no text that could be gone on with")
    return {**message, "content": f"{content}{CUT} "}


def _up_to_cut(whole: str) -> str:
    """As transformers' `continue_final_message`: trimmed if the template trims."""
    at = whole.rfind(CUT)
    if at < 0 or whole.count(CUT) > 1:
        raise DataError("the chat template does not show the last message as it is")
    return whole[:at] if whole[at + 1 : at + 2] == " " else whole[:at].rstrip()


def _last_line(message: Mapping[str, Any]) -> str:
    lines = "".join(_texts(message.get("content"))).strip().splitlines()
    return lines[-1].strip() if lines else ""


def _texts(content: Any) -> Iterator[str]:
    if isinstance(content, str):
        yield content
    for part in content if isinstance(content, list | tuple) else ():
        if isinstance(part, Mapping) and isinstance(part.get("text"), str):
            yield part["text"]


def _unclear(number: int) -> DataError:
    return DataError(
        "the chat template does not show where the assistant's turns are",
        found=f"message {number} is written otherwise once others follow it",
        do="put {% generation %} and {% endgeneration %} around them in the template",
    )
