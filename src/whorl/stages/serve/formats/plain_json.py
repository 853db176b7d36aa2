"""Models without a mark: the whole answer is a call, or a list of them, as JSON."""

from __future__ import annotations

import re
from collections.abc import Collection

from whorl.stages.serve.formats.events import Event, Said
from whorl.stages.serve.formats.json_call import JsonCall

__all__ = ["PlainJsonReader"]

WHITE = " \t\r\n"
FENCE = re.compile(r"```(?:json)?\n")


class PlainJsonReader:
    """Only the names of functions that may be called are calls: other JSON is text.

    mark: what may stand before. between: what may stand between calls, besides white space.
    """

    def __init__(self, names: Collection[str], mark: str = "", between: str = ";,") -> None:
        self._names, self._mark, self._between = frozenset(names), mark, between
        self._held = ""
        self._head = ""  # mark, bracket and white space before the first call: text, if it is none
        self._call: JsonCall | None = None
        self._num_calls = 0
        self._is_text = False

    def push(self, text: str) -> list[Event]:
        self._held += text
        events: list[Event] = []
        while self._held and not self._is_text and self._step(events):
            pass
        if self._is_text:
            events += self._said()
        return events

    def finish(self) -> list[Event]:
        if self._call is not None and self._call.is_begun:
            return self._call.finish()
        if self._num_calls and self._call is None and not self._held.strip("`]" + WHITE):
            return []
        return self._said()

    def _said(self) -> list[Event]:
        raw = "" if self._call is None or self._call.is_begun else self._call.raw
        text = self._head + raw + self._held
        self._head = self._held = ""
        self._call, self._is_text = None, True
        return [Said(text)] if text else []

    def _step(self, events: list[Event]) -> bool:
        """Whether there may be more to do."""
        if self._call is None and not self._begin():
            return False
        assert self._call is not None
        found, self._held = self._call.push(self._held)
        events += found
        if self._call.is_done:
            self._call, self._head = None, ""
            self._num_calls += 1
        elif self._call.has_failed:
            self._is_text = True
        return True

    def _begin(self) -> bool:
        """Whether a call begins; else there is more to read, or the rest is text."""
        skipped = _skipped(self._held, self._between + "]" if self._num_calls else "[")
        if not self._num_calls:
            skipped = self._before_first()
        rest = self._held[skipped:]
        if not rest or (not self._num_calls and self._may_be_begun(rest)):
            return False
        if rest[0] == "{":
            self._head += self._held[:skipped]
            self._held = rest
            self._call = JsonCall(lambda name: name in self._names)
            return True
        if self._num_calls and not rest.strip("`" + WHITE):
            return False
        self._is_text = True
        return False

    def _before_first(self) -> int:
        """Characters of white space, mark, fence and bracket."""
        at = _skipped(self._held, "")
        if self._mark and self._held.startswith(self._mark, at):
            at = _skipped(self._held, "", at + len(self._mark))
        if found := FENCE.match(self._held, at):
            at = _skipped(self._held, "", found.end())
        if self._held.startswith("[", at):
            at = _skipped(self._held, "", at + 1)
        return at

    def _may_be_begun(self, rest: str) -> bool:
        """Whether it may become a mark or a fence."""
        fences = ("```json\n", "```\n")
        wholes = (self._mark, *fences) if self._mark else fences
        return any(len(rest) < len(whole) and whole.startswith(rest) for whole in wholes)


def _skipped(text: str, chars: str, at: int = 0) -> int:
    while at < len(text) and text[at] in WHITE + chars:
        at += 1
    return at
