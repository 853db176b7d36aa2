"""Answers of chats as they come: what is said, thought and called, for every wire format alike."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Literal

from whorl.core.ports import TokenLogprob
from whorl.stages.serve.formats.events import (
    CallBegun,
    CallEnded,
    CallWritten,
    Event,
    Said,
    Thought,
)
from whorl.stages.serve.generation import Generation, Run

__all__ = ["FinishReason", "Spoken", "Turn", "WrittenCall", "spoken", "turns"]

FinishReason = Literal["stop", "length", "tool_calls"]


@dataclass(frozen=True)
class Turn:
    """What is new of one answer. call_ids: one for each call that begins in it."""

    events: tuple[Event, ...] = ()
    call_ids: tuple[str, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: FinishReason | None = None

    @property
    def is_empty(self) -> bool:
        return not (self.events or self.logprobs or self.finish_reason)


@dataclass
class WrittenCall:
    """One call of a function; its arguments are the JSON that was written."""

    call_id: str
    name: str
    arguments: str = ""


@dataclass
class Spoken:
    """One whole answer; its parts in the order in which they came."""

    parts: list[Said | Thought | WrittenCall] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish_reason: FinishReason | None = None

    @property
    def text(self) -> str:
        return "".join(part.text for part in self.parts if isinstance(part, Said))

    @property
    def thoughts(self) -> str:
        return "".join(part.text for part in self.parts if isinstance(part, Thought))

    @property
    def calls(self) -> list[WrittenCall]:
        return [part for part in self.parts if isinstance(part, WrittenCall)]

    def add(self, turn: Turn) -> None:
        """Go on with what is new."""
        ids = iter(turn.call_ids)
        for event in turn.events:
            last = self.parts[-1] if self.parts else None
            if isinstance(event, Said) and isinstance(last, Said):
                self.parts[-1] = Said(last.text + event.text)
            elif isinstance(event, Thought) and isinstance(last, Thought):
                self.parts[-1] = Thought(last.text + event.text)
            elif isinstance(event, Said | Thought):
                self.parts.append(event)
            elif isinstance(event, CallBegun):
                self.parts.append(WrittenCall(next(ids), event.name))
            elif isinstance(event, CallWritten) and isinstance(last, WrittenCall):
                last.arguments += event.text
        self.logprobs += turn.logprobs
        self.finish_reason = turn.finish_reason or self.finish_reason


async def turns(generation: Generation) -> AsyncGenerator[tuple[int, Turn], None]:
    """(number of the answer, what is new of it), none of them empty. Raises as `pieces`."""
    num_calls = [0] * len(generation.runs)
    async with aclosing(generation.pieces()) as stream:
        async for number, piece in stream:
            run = generation.runs[number]
            events = run.voice.reader.push(piece.text)
            if piece.finish_reason is not None:
                events += run.voice.reader.finish()
            if any(isinstance(event, Thought) for event in events):
                generation.thought_tokens += piece.num_tokens
            turn = _turn(run, events, num_calls[number])
            said = (event.text for event in turn.events if isinstance(event, Said))
            run.said = "".join((run.said or "", *said))
            run.has_called |= bool(turn.call_ids)
            num_calls[number] += len(turn.call_ids)
            reason: FinishReason | None = turn.finish_reason or piece.finish_reason
            if reason == "stop" and num_calls[number]:
                reason = "tool_calls"
            turn = dataclasses.replace(
                turn, finish_reason=reason, logprobs=tuple(told for _, told in piece.logprobs)
            )
            if not turn.is_empty:
                yield number, turn


def _turn(run: Run, events: list[Event], num_calls: int) -> Turn:
    """The events with ids of their calls; after the last call that is allowed the answer ends."""
    kept: list[Event] = []
    ids = []
    for event in events:
        kept.append(event)
        if isinstance(event, CallBegun):
            ids.append(run.voice.new_call_id())
        if isinstance(event, CallEnded) and num_calls + len(ids) == run.voice.most_calls:
            run.close()
            run.finish_reason = "stop"
            return Turn(tuple(kept), tuple(ids), finish_reason="tool_calls")
    return Turn(tuple(kept), tuple(ids))


async def spoken(generation: Generation) -> list[Spoken]:
    """All answers, whole."""
    found = [Spoken() for _ in generation.runs]
    async with aclosing(turns(generation)) as stream:
        async for number, turn in stream:
            found[number].add(turn)
    return found
