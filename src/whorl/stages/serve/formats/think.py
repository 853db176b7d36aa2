"""Thoughts in <think> … </think> before the answer; what follows is for another reader."""

from __future__ import annotations

from whorl.stages.serve.formats.events import Event, Reader, Thought, begun_mark

__all__ = ["CLOSE", "OPEN", "ThinkReader"]

OPEN, CLOSE = "<think>", "</think>"


class ThinkReader:
    """White space around the marks belongs to them. begun: the prompt ended with the first."""

    def __init__(self, inner: Reader, begun: bool = False) -> None:
        self._inner = inner
        self._state = "thinking" if begun else "start"
        self._held = ""
        self._has_thought = False

    def push(self, text: str) -> list[Event]:
        self._held += text
        if self._state == "start":
            self._start()
        events: list[Event] = self._think() if self._state == "thinking" else []
        if self._state == "after":
            self._held = self._held.lstrip()
            self._state = "said" if self._held else "after"
        if self._state == "said":
            events += self._inner.push(self._held)
            self._held = ""
        return events

    def finish(self) -> list[Event]:
        held, self._held = self._held, ""
        if self._state == "thinking":
            return [Thought(held)] if held else []
        return [*self._inner.push(held), *self._inner.finish()]

    def _start(self) -> None:
        rest = self._held.lstrip()
        if rest.startswith(OPEN):
            self._state, self._held = "thinking", rest[len(OPEN) :]
        elif not OPEN.startswith(rest):
            self._state = "said"

    def _think(self) -> list[Event]:
        if not self._has_thought:
            self._held = self._held.lstrip()
        before, mark, after = self._held.partition(CLOSE)
        certain = before if mark else before[: len(before) - begun_mark(before, CLOSE)]
        thought = certain.rstrip()
        self._held = after if mark else before[len(thought) :]
        if mark:
            self._state = "after"
        self._has_thought |= bool(thought)
        return [Thought(thought)] if thought else []
