"""What a wire format says of itself: its routes, what they take, and how they answer.

A format is one file in `whorl.stages.serve.dialects`: a body that is parsed strictly, how it
becomes an `Ask`, and how a generation becomes an answer or a stream of events.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from whorl.codecs.contract import Tokens
from whorl.stages.serve.ask import Ask
from whorl.stages.serve.errors import ApiError
from whorl.stages.serve.generation import Generation
from whorl.stages.serve.request import AnswerBody

__all__ = ["Chunks", "Wire", "event_of"]

SomeAnswerBody = TypeVar("SomeAnswerBody", bound=AnswerBody)


@dataclass(frozen=True)
class Wire(Generic[SomeAnswerBody]):
    """One route that generates."""

    path: str
    summary: str
    body: type[SomeAnswerBody]
    ask: Callable[[SomeAnswerBody], Ask]
    whole: Callable[[SomeAnswerBody, Generation, Tokens], Awaitable[dict[str, Any] | str]]
    events: Callable[[SomeAnswerBody, Generation, Tokens], AsyncGenerator[str, None]]
    failed: Callable[[ApiError, int], str]  # ends a stream that failed after so many events
    engine_names: Mapping[str, str] = field(default_factory=dict)  # its field -> GenerateRequest's
    answer_keys: tuple[str, ...] = ()  # what a whole answer always has


def event_of(data: Any, name: str | None = None) -> str:
    """One server-sent event; a string is sent as it is."""
    line = data if isinstance(data, str) else json.dumps(data)
    head = "" if name is None else f"event: {name}\n"
    return f"{head}data: {line}\n\n"


class Chunks:
    """Events that differ by one choice each: what they share is written as JSON once."""

    def __init__(self, answer: Mapping[str, Any]) -> None:
        """answer: the event without choices, `"choices": []`."""
        self._before, self._after = json.dumps(answer).split('"choices": []')

    def event(self, choice: Mapping[str, Any]) -> str:
        """As `event_of` with this one choice."""
        return f'data: {self._before}"choices": [{json.dumps(choice)}]{self._after}\n\n'
