"""The answers of one request as they come: text cut at stop strings, and the ids it is made of."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from itertools import zip_longest
from typing import Literal

from whorl.codecs.decoding import DecodeStream
from whorl.core.ports import Engine, GenerateRequest, TokenEvent, TokenLogprob
from whorl.stages.serve.desk import Visit
from whorl.stages.serve.errors import ApiError, invalid, is_grammar_fault
from whorl.stages.serve.formats.choose import Voice
from whorl.stages.serve.stops import StopFinder

__all__ = ["Events", "Generation", "Piece", "Run"]

Events = asyncio.Queue[TokenEvent | None]  # None: look whether it took too long


@dataclass(frozen=True)
class Piece:
    """Some text of one answer, how many tokens it took, and on the last one why it ended."""

    text: str
    num_tokens: int
    finish_reason: Literal["stop", "length"] | None = None
    # of the ids whose text has been given out, where they were asked for: (first character, …)
    logprobs: tuple[tuple[int, TokenLogprob], ...] = ()


class Run:
    """One answer: one request of the engine."""

    def __init__(
        self,
        engine: Engine,
        request: GenerateRequest,
        stops: StopFinder,
        decoder: DecodeStream,
        voice: Voice,
        form_name: str = "grammar",
        is_choice: bool = False,
    ) -> None:
        """form_name: the wire format's name of the field that asked for the request's grammar.

        is_choice: the answer is one class, and whole with it.
        """
        self.request, self.voice, self._form_name = request, voice, form_name
        self._engine, self._stops, self._decoder = engine, stops, decoder
        self._is_choice = is_choice
        self._ids: list[int] = []  # so far
        self._ends: list[int] = []  # of each id: characters of text up to its end
        self._logprobs: list[TokenLogprob | None] = []
        self._num_shown = 0  # characters given out
        self._num_told = 0  # ids whose log-probabilities were
        self.said: str | None = None  # so far, by its voice; None: nobody listened to that
        self.has_called = False
        self.is_ended = False
        self.finish_reason: Literal["stop", "length"] | None = None  # what its client is told

    @property
    def kept_ids(self) -> list[int]:
        """The ids so far; of a text cut by a stop string those that end before the cut."""
        if not self._stops.found:
            return list(self._ids)
        ends = zip(self._ids, self._ends, strict=True)
        return [number for number, end in ends if end <= self._num_shown]

    @property
    def stop_text(self) -> str | None:
        """The stop string that ended the text, if one did."""
        return self._stops.matched

    def close(self) -> None:
        """Cancel it if it still runs. Harmless when repeated."""
        if not self.is_ended:
            self.is_ended = True
            self._engine.cancel(self.request.request_id)

    def piece(self, event: TokenEvent) -> Piece:
        """What an event adds. Raises ApiError 400/500/503 if the engine failed."""
        self.is_ended = event.finish_reason is not None
        if event.finish_reason == "error" and is_grammar_fault(event.error or ""):
            told = f"{self._form_name}: {event.error}"
            raise invalid(told, self._form_name, "invalid_grammar")
        if event.finish_reason == "error":
            raise ApiError(500, f"the engine failed: {event.error}", code="engine_failed")
        if event.finish_reason == "cancelled":
            raise ApiError(503, "the request was cancelled by the server", code="cancelled")
        text, num_tokens = "", 0
        end = self._ends[-1] if self._ends else 0
        for number, logprob in zip_longest(event.token_ids, event.logprobs):
            decoded = self._decoder.push((number,))
            text += self._stops.push(decoded)
            end += len(decoded)
            num_tokens += 1
            self._ids.append(number)
            self._ends.append(end)
            self._logprobs.append(logprob)
            if self._stops.found:  # what comes behind it in the same event is nobody's
                break
        reason = event.finish_reason
        if reason is not None:
            text += self._stops.push(self._decoder.finish())
        if self._stops.found:
            reason = "stop"
            self.close()
        elif reason is not None:
            text += self._stops.finish()
        if self._is_choice and reason == "length":
            reason = "stop"
        self._num_shown += len(text)
        self.finish_reason = reason
        is_last = reason is not None and not self._stops.found
        return Piece(text, num_tokens, reason, tuple(self._told(is_last)))

    def _told(self, is_last: bool) -> list[tuple[int, TokenLogprob]]:
        """What is known of the ids whose text has been given out since the last time."""
        told, at = [], self._num_told
        while at < len(self._ids) and (is_last or self._ends[at] <= self._num_shown):
            found = self._logprobs[at]
            if found is not None:
                told.append((self._ends[at - 1] if at else 0, found))
            at += 1
        self._num_told = at
        return told


class Generation:
    """All answers of one request. Their places are free once `pieces` ended, or by `close`."""

    def __init__(
        self,
        runs: list[Run],
        queue: Events,
        stall_s: float,
        visit: Visit,
        *,
        request_id: str,
        num_prompts: int = 1,
    ) -> None:
        self.id, self.runs = request_id, runs
        self.model, self.tokens = visit.served.card.name, visit.served.tokens
        self.created = int(time.time())
        self.completion_tokens = 0
        self.thought_tokens = 0  # of them, with which a thought came
        per_prompt = len(runs) // num_prompts
        self.prompt_tokens = sum(len(run.request.prompt_ids) for run in runs[::per_prompt])
        self._queue, self._stall_s = queue, stall_s
        self._visit = visit
        self._failure: str | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._since_s = 0.0  # by the loop's clock: waited for what comes next
        self._numbers = {run.request.request_id: number for number, run in enumerate(runs)}

    async def pieces(self) -> AsyncGenerator[tuple[int, Piece], None]:
        """(number of the answer, what it goes on with), as they come, each up to its end.

        Raises ApiError 500/503 if the engine fails or stalls.
        """
        try:
            self._wait_anew()
            self._look()
            while not all(run.is_ended for run in self.runs):
                event = await self._next_event()
                number = self._numbers[event.request_id]
                run = self.runs[number]
                if run.is_ended:  # by a stop string: what came after it
                    continue
                piece = run.piece(event)
                if piece.finish_reason is not None:
                    self._visit.is_whole(event.request_id)
                self.completion_tokens += piece.num_tokens
                yield number, piece
        except ApiError as error:
            self._failure = error.code
            raise
        finally:
            self.close()

    def close(self) -> None:
        """Cancel what still runs; also where `pieces` was never begun. Harmless when repeated."""
        reasons = dict.fromkeys(run.finish_reason or self._failure or "left" for run in self.runs)
        for run in self.runs:
            run.close()
        if self._timer is not None:
            self._timer.cancel()
        self._visit.end(self.id, "+".join(reasons), self.runs)

    async def _next_event(self) -> TokenEvent:
        while True:
            event = await self._queue.get()
            self._wait_anew()
            if event is not None:
                return event
            if self._visit.left_s <= 0:
                told = f"the answer was not complete within {self._visit.max_time:g} s"
                raise ApiError(504, told, code="deadline_exceeded")
            if self._visit.served.health.is_stalled(self._stall_s):
                raise ApiError(503, "the engine makes no progress", code="engine_stalled")
            self._look()

    def _wait_anew(self) -> None:
        self._since_s = asyncio.get_running_loop().time()

    def _look(self) -> None:
        """Ends a wait, by a None, that lasted as long as it may; else looks again when it could.

        So an event sets no timer: it only begins another wait.
        """
        loop = asyncio.get_running_loop()
        left_s = min(self._stall_s - (loop.time() - self._since_s), self._visit.left_s)
        if left_s > 0:
            self._timer = loop.call_later(left_s, self._look)
        else:
            self._queue.put_nowait(None)
