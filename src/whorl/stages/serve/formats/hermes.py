"""Hermes and Qwen: <tool_call>{"name": …, "arguments": {…}}</tool_call>, among other text."""

from __future__ import annotations

from whorl.stages.serve.formats.events import Event, Said, begun_mark
from whorl.stages.serve.formats.json_call import JsonCall

__all__ = ["CLOSE", "OPEN", "HermesReader"]

OPEN, CLOSE = "<tool_call>", "</tool_call>"


class HermesReader:
    """White space between text and a call belongs to the call."""

    def __init__(self) -> None:
        self._held = ""  # text that is not decided on
        self._call: JsonCall | None = None
        self._space = ""  # before the call that is being read
        self._awaits_close = False
        self._follows_call = False  # white space that comes now belongs to it

    def push(self, text: str) -> list[Event]:
        self._held += text
        events: list[Event] = []
        while self._step(events):
            pass
        return events

    def finish(self) -> list[Event]:
        events: list[Event] = []
        if self._call is not None:
            if self._call.is_begun:
                return self._call.finish()
            self._give_back(self._call.raw, events)
        rest = self._held.strip() if self._follows_call else self._held
        return [*events, Said(rest)] if rest else events

    def _step(self, events: list[Event]) -> bool:
        """Whether there may be more to do."""
        if self._call is not None:
            return self._read_call(self._call, events)
        if self._awaits_close:
            self._held = self._held.lstrip()
            if len(self._held) < len(CLOSE) and CLOSE.startswith(self._held):
                return False
            self._held = self._held.removeprefix(CLOSE)
            self._awaits_close = False
        if self._follows_call:
            self._held = self._held.lstrip()
        before, mark, after = self._held.partition(OPEN)
        if mark:
            said = before.rstrip()
            self._space, self._held = before[len(said) :], after
            self._call = JsonCall()
        else:
            certain = before[: len(before) - begun_mark(before, OPEN)]
            said = certain.rstrip()
            self._held = before[len(said) :]
        if said:
            events.append(Said(said))
            self._follows_call = False
        return bool(mark)

    def _read_call(self, call: JsonCall, events: list[Event]) -> bool:
        found, self._held = call.push(self._held)
        events += found
        if call.is_done:
            self._call, self._awaits_close, self._follows_call = None, True, True
        elif call.has_failed:
            self._give_back(call.raw, events)
        return bool(self._held) and self._call is None

    def _give_back(self, raw: str, events: list[Event]) -> None:
        """What looked like a call is text. It may itself hold the mark of the next."""
        events.append(Said(self._space + OPEN))
        self._call, self._held, self._follows_call = None, raw + self._held, False
