"""The events of a streamed response."""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from typing import Any

from whorl.core.ports import TokenLogprob
from whorl.stages.serve.dialects.responses_items import Told
from whorl.stages.serve.formats.events import (
    CallBegun,
    CallEnded,
    CallWritten,
    Event,
    Said,
    Thought,
)
from whorl.stages.serve.generation import Generation
from whorl.stages.serve.turns import Turn, WrittenCall, turns
from whorl.stages.serve.wire import event_of

__all__ = ["response_events", "whole_output"]

Named = tuple[str, dict[str, Any]]  # type of an event, and its fields


async def response_events(
    generation: Generation, told: Told, response: Callable[[str, list[dict[str, Any]]], Any]
) -> AsyncGenerator[str, None]:
    """response(status, output): the object as it stands."""
    counter, output = itertools.count(), _Output(told)

    def event(kind: str, fields: dict[str, Any]) -> str:
        data = {"type": f"response.{kind}", "sequence_number": next(counter), **fields}
        return event_of(data, data["type"])

    async with aclosing(turns(generation)) as stream:
        yield event("created", {"response": response("in_progress", [])})
        yield event("in_progress", {"response": response("in_progress", [])})
        async for _, turn in stream:
            for kind, fields in output.take(turn):
                yield event(kind, fields)
    for kind, fields in output.end():
        yield event(kind, fields)
    yield event(output.status, {"response": response(output.status, output.items)})


async def whole_output(generation: Generation, told: Told) -> tuple[str, list[dict[str, Any]]]:
    """(status, items) at the end: those that the events tell of."""
    output = _Output(told)
    async with aclosing(turns(generation)) as stream:
        async for _, turn in stream:
            list(output.take(turn))
    list(output.end())
    return output.status, output.items


class _Output:
    """The output so far: at most one item is open, the last."""

    def __init__(self, told: Told) -> None:
        self._told = told
        self.items: list[dict[str, Any]] = []
        self.status = "completed"
        self._logprobs: list[TokenLogprob] = []  # of what is said next
        self._kind: type[Event] | None = None  # Said, Thought or CallBegun: of the open item
        self._text = ""
        self._text_logprobs: list[TokenLogprob] = []
        self._call: WrittenCall | None = None

    def take(self, turn: Turn) -> Iterator[Named]:
        """What is to be told of what is new."""
        self._logprobs += turn.logprobs
        ids = iter(turn.call_ids)
        for event in turn.events:
            yield from self._add(event, ids)
        if turn.finish_reason == "length":
            self.status = "incomplete"

    def _add(self, event: Event, ids: Iterator[str]) -> Iterator[Named]:
        if isinstance(event, CallBegun):
            yield from self._close("completed")
            self._call = WrittenCall(next(ids), event.name)
            yield from self._open(CallBegun, self._told.call(*self._here, self._call))
        elif isinstance(event, CallWritten) and self._call is not None:
            self._call.arguments += event.text
            yield "function_call_arguments.delta", {**self._place, "delta": event.text}
        elif isinstance(event, CallEnded):
            yield from self._close("completed")
        elif isinstance(event, Said):
            if self._kind is not Said:
                yield from self._close("completed")
                yield from self._open(Said, self._told.message(*self._here))
                part = {"content_index": 0, "part": self._told.part("")}
                yield "content_part.added", {**self._place, **part}
            found, self._logprobs = self._logprobs, []
            self._text += event.text
            self._text_logprobs += found
            delta = {"delta": event.text, "logprobs": self._told.logprobs(found)}
            yield "output_text.delta", {**self._place, "content_index": 0, **delta}
        elif isinstance(event, Thought):
            if self._kind is not Thought:
                yield from self._close("completed")
                yield from self._open(Thought, self._told.reasoning(*self._here))
            self._text += event.text
            fields = {"content_index": 0, "delta": event.text}
            yield "reasoning_text.delta", {**self._place, **fields}

    def end(self) -> Iterator[Named]:
        """What is to be told at the end; an answer without anything is an empty message."""
        if not self.items:
            yield from self._add(Said(""), iter(()))
        self._text_logprobs += self._logprobs if self._kind is Said else []
        yield from self._close(self.status)

    @property
    def _here(self) -> tuple[int, str]:
        return len(self.items), "in_progress"

    @property
    def _place(self) -> dict[str, Any]:
        number = len(self.items) - 1
        return {"item_id": self.items[number]["id"], "output_index": number}

    def _open(self, kind: type[Event], item: dict[str, Any]) -> Iterator[Named]:
        self._kind, self._text, self._text_logprobs = kind, "", []
        self.items.append(item)
        yield "output_item.added", {"output_index": len(self.items) - 1, "item": item}

    def _close(self, status: str) -> Iterator[Named]:
        if self._kind is None:
            return
        number = len(self.items) - 1
        if self._kind is Said:
            text, part = self._text, self._told.part(self._text, self._text_logprobs)
            where = {**self._place, "content_index": 0}
            yield "output_text.done", {**where, "text": text, "logprobs": part["logprobs"]}
            yield "content_part.done", {**where, "part": part}
            self.items[number] = self._told.message(number, status, [part])
        elif self._kind is Thought:
            where = {**self._place, "content_index": 0}
            yield "reasoning_text.done", {**where, "text": self._text}
            self.items[number] = self._told.reasoning(number, status, self._text)
        elif self._call is not None:
            fields = {"name": self._call.name, "arguments": self._call.arguments}
            yield "function_call_arguments.done", {**self._place, **fields}
            self.items[number] = self._told.call(number, status, self._call)
        yield "output_item.done", {"output_index": number, "item": self.items[number]}
        self._kind = self._call = None
