"""One call as a JSON object, read as it comes: {"name": …, "arguments": {…}}."""

from __future__ import annotations

import json
from collections.abc import Callable

from whorl.stages.serve.formats.events import CallBegun, CallEnded, CallWritten, Event

__all__ = ["JsonCall"]

ARGUMENTS = ("arguments", "parameters")
WHITE = " \t\r\n"


class JsonCall:
    """Reads from the first brace to the one that closes it.

    The arguments are given as they are written, from the moment that the name is known; arguments
    that are a text with JSON in it are given as that JSON, none at all as {}. A name that is not
    accepted, or an object without one, is no call: then `raw` is what was read.
    """

    def __init__(self, accepts: Callable[[str], bool] = lambda name: True) -> None:
        self._accepts = accepts
        self.raw = ""  # while it may still be no call
        self.is_begun = self.is_done = self.has_failed = False
        self._depth = 0
        self._string: list[str] | None = None  # the string being read, with its quotes
        self._is_escaped = False
        self._key: str | None = None  # whose value is being read, in the outer object
        self._last_string: str | None = None  # of the outer object
        self._value: list[str] = []  # of the arguments, not given out yet
        self._is_quoted = False  # the arguments are a text
        self._has_arguments = self._arguments_ended = self._is_given = False

    def push(self, text: str) -> tuple[list[Event], str]:
        """(events, what of the text comes after the call, or with `has_failed` is not read)."""
        events: list[Event] = []
        for at, char in enumerate(text):
            if not self.is_begun:
                self.raw += char
            self._read(char, events)
            if self.is_done or self.has_failed:
                return events, text[at + 1 :]
        self._give(events)
        return events, ""

    def finish(self) -> list[Event]:
        """When no more comes: what of the arguments is known."""
        rest = "".join(self._value).rstrip(WHITE)
        return [CallWritten(rest)] if self.is_begun and rest else []

    def _read(self, char: str, events: list[Event]) -> None:
        if self._string is not None:
            self._read_string(char)
            return
        if self._depth == 0 and char not in WHITE and char != "{":
            self.has_failed = True
            return
        at_top = self._depth == 1
        if char in "}]":
            self._depth -= 1
            if self._depth == 0:
                self._end(events)
                return
        if at_top and char == "," and self._key is not None:
            self._end_value(events)
            return
        if at_top and char == ":" and self._key is None:
            self._key, self._last_string = _decoded(self._last_string), None
            return
        if char in "{[":
            self._depth += 1
        if char == '"':
            self._string = [char]
        self._keep(char, at_top)

    def _read_string(self, char: str) -> None:
        assert self._string is not None
        self._string.append(char)
        self._keep(char, False)
        if self._is_escaped:
            self._is_escaped = False
        elif char == "\\":
            self._is_escaped = True
        elif char == '"':
            if self._depth == 1:
                self._last_string = "".join(self._string)
            self._string = None

    def _keep(self, char: str, at_top: bool) -> None:
        """A character of the arguments; white space before them is none of theirs."""
        if self._key not in ARGUMENTS or self._arguments_ended:
            return
        if not self._has_arguments:
            if char in WHITE:
                return
            self._has_arguments, self._is_quoted = True, char == '"' and at_top
        self._value.append(char)

    def _end_value(self, events: list[Event]) -> None:
        if self._key == "name" and not self.is_begun:
            name = _decoded(self._last_string)
            if name is None or not self._accepts(name):
                self.has_failed = True
                return
            self.is_begun, self.raw = True, ""
            events.append(CallBegun(name))
        elif self._key in ARGUMENTS and not self._arguments_ended:
            self._arguments_ended = True
            self._settle()
        self._give(events)
        self._key = self._last_string = None

    def _settle(self) -> None:
        """The arguments are whole: a text becomes what it holds, null an empty object."""
        value = "".join(self._value).rstrip(WHITE)
        if self._is_quoted:
            decoded = _decoded(value)
            value, self._is_quoted = value if decoded is None else decoded, False
        elif value == "null" and not self._is_given:
            value = "{}"
        self._value = [value]

    def _give(self, events: list[Event]) -> None:
        """What is known of the arguments; white space at their end may be none of theirs."""
        if not self.is_begun or self._is_quoted or not self._value:
            return
        value = "".join(self._value)
        if not self._arguments_ended:
            if "null".startswith(value) and not self._is_given:
                return
            kept = value.rstrip(WHITE)
            self._value = [value[len(kept) :]]
            value = kept
        else:
            self._value = []
        if value:
            self._is_given = True
            events.append(CallWritten(value))

    def _end(self, events: list[Event]) -> None:
        if self._key is not None:
            self._end_value(events)
        if not self.is_begun:
            self.has_failed = True
        if self.has_failed:
            return
        if not self._has_arguments:
            events.append(CallWritten("{}"))
        events.append(CallEnded())
        self.is_done = True


def _decoded(quoted: str | None) -> str | None:
    try:
        value = json.loads(quoted or "", strict=False)
    except ValueError:
        return None
    return value if isinstance(value, str) else None
