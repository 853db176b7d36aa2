"""Mistral: [TOOL_CALLS] and a list of calls as JSON, or [TOOL_CALLS]name[ARGS]{…} for each."""

from __future__ import annotations

from whorl.stages.serve.formats.events import (
    CallBegun,
    CallEnded,
    CallWritten,
    Event,
    Said,
    begun_mark,
)
from whorl.stages.serve.formats.json_call import JsonCall

__all__ = ["ARGS", "CALLS", "MistralReader"]

WHITE = " \t\r\n"
CALLS, ARGS, CALL_ID = "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"


class MistralReader:
    """White space before a mark and after calls belongs to the calls."""

    def __init__(self) -> None:
        self._held = ""
        self._head = ""  # what was read since the text ended: text, if no call begins
        self._has_mark = False
        self._is_list: bool | None = None  # None: there is no mark yet, or nothing after it
        self._call: JsonCall | _NamedCall | None = None
        self._follows_call = False

    def push(self, text: str) -> list[Event]:
        self._held += text
        events: list[Event] = []
        while self._held and self._step(events):
            pass
        return events

    def finish(self) -> list[Event]:
        if self._call is not None and self._call.is_begun:
            return self._call.finish()
        text = self._head + ("" if self._call is None else self._call.raw) + self._held
        if self._follows_call:
            text = text.strip(WHITE + ",")
        return [Said(text)] if text else []

    def _step(self, events: list[Event]) -> bool:
        """Whether there may be more to do."""
        if not self._has_mark:
            return self._say(events)
        if self._call is None and not self._begin(events):
            return False
        if self._call is None:
            return True
        found, self._held = self._call.push(self._held)
        events += found
        if self._call.is_done:
            self._call, self._head, self._follows_call = None, "", True
            if not self._is_list:  # each call has its own mark
                self._has_mark, self._is_list = False, None
        elif self._call.has_failed:
            self._give_back(self._call.raw, events)
        return True

    def _say(self, events: list[Event]) -> bool:
        if self._follows_call:
            self._held = self._held.lstrip(WHITE)
        before, mark, after = self._held.partition(CALLS)
        certain = before if mark else before[: len(before) - begun_mark(before, CALLS)]
        said = certain.rstrip(WHITE)
        if said:
            events.append(Said(said))
            self._follows_call = False
        if mark:
            self._head, self._held, self._has_mark = before[len(said) :] + mark, after, True
            return True
        self._held = before[len(said) :]
        return False

    def _begin(self, events: list[Event]) -> bool:
        """Whether there may be more to do: a call begins, a list ends, or neither."""
        rest = self._held.lstrip(WHITE + ("," if self._is_list else ""))
        if self._is_list is None and rest:
            self._is_list = rest[0] == "["
            rest = rest[1:].lstrip(WHITE) if self._is_list else rest
        self._head += self._held[: len(self._held) - len(rest)]
        self._held = rest
        if not rest:
            return False
        if not self._is_list:
            self._call = _NamedCall()
        elif rest[0] == "{":
            self._call = JsonCall()
        elif rest[0] == "]" and self._follows_call:
            self._held, self._head, self._has_mark, self._is_list = rest[1:], "", False, None
        else:
            self._give_back("", events)
        return True

    def _give_back(self, raw: str, events: list[Event]) -> None:
        """What looked like a call is text, and so is what follows up to the next mark."""
        events.append(Said(self._head))
        self._held, self._head = raw + self._held, ""
        self._call, self._is_list, self._has_mark, self._follows_call = None, None, False, False


class _NamedCall:
    """name[ARGS]{…}: a name up to its arguments, which are one JSON object."""

    def __init__(self) -> None:
        self.raw = ""
        self.is_begun = self.is_done = self.has_failed = False
        self._depth, self._in_string, self._is_escaped = 0, False, False

    def push(self, text: str) -> tuple[list[Event], str]:
        events: list[Event] = []
        if not self.is_begun:
            self.raw += text
            head, brace, rest = self.raw.partition("{")
            if not brace:
                return [], ""
            name = head.partition(ARGS)[0].partition(CALL_ID)[0].strip()
            if not name or any(char in name for char in " \n[]"):
                self.has_failed = True
                return [], ""
            self.is_begun, self.raw, text = True, "", brace + rest
            events.append(CallBegun(name))
        for at, char in enumerate(text):
            self._read(char)
            if self._depth == 0:
                self.is_done = True
                return [*events, CallWritten(text[: at + 1]), CallEnded()], text[at + 1 :]
        return [*events, CallWritten(text)], ""

    def finish(self) -> list[Event]:
        return []

    def _read(self, char: str) -> None:
        if self._is_escaped:
            self._is_escaped = False
        elif self._in_string:
            self._is_escaped = char == "\\"
            self._in_string = char != '"'
        elif char == '"':
            self._in_string = True
        else:
            self._depth += (char in "{[") - (char in "}]")
