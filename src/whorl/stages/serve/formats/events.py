"""What an answer is made of, and the rules that all readers share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

__all__ = ["CallBegun", "CallEnded", "CallWritten", "Event", "Reader", "Said", "SayingReader"]
__all__ += ["Thought", "begun_mark", "joined"]


@dataclass(frozen=True)
class Said:
    """Some of the text that the asker reads."""

    text: str


@dataclass(frozen=True)
class Thought:
    """Some of the text before it, which is not the answer."""

    text: str


@dataclass(frozen=True)
class CallBegun:
    """A function is called; what follows is written for it."""

    name: str


@dataclass(frozen=True)
class CallWritten:
    """Some of the JSON of its arguments."""

    text: str


@dataclass(frozen=True)
class CallEnded:
    """Its arguments are complete."""


Event = Said | Thought | CallBegun | CallWritten | CallEnded


class Reader(Protocol):
    """Text in pieces -> events; the same events, joined, however the text was cut."""

    def push(self, text: str) -> list[Event]: ...

    def finish(self) -> list[Event]:
        """What was held back, when no more comes."""
        ...


class SayingReader:
    """Without calls and thoughts."""

    def push(self, text: str) -> list[Event]:
        return [Said(text)] if text else []

    def finish(self) -> list[Event]:
        return []


def begun_mark(text: str, mark: str) -> int:
    """Characters at the end of text that begin mark, which is not in it as a whole."""
    longest = min(len(text), len(mark) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(mark[:n])), 0)


def joined(events: Sequence[Event]) -> list[Event]:
    """Neighbours of one kind as one event, without empty ones."""
    found: list[Event] = []
    for event in events:
        last = found[-1] if found else None
        if isinstance(event, Said | Thought | CallWritten):
            if not event.text:
                continue
            if type(last) is type(event):
                found[-1] = type(event)(last.text + event.text)
                continue
        found.append(event)
    return found
