"""A generation engine without a model: a thread that hands out scripted tokens, step by step."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from whorl.core.errors import EngineError
from whorl.core.ports import EngineStats, GenerateRequest, TokenEvent, TokenLogprob

__all__ = ["FakeEngine", "repeat_prompt"]


def repeat_prompt(request: GenerateRequest) -> Sequence[int]:
    """The prompt's ids after the first, over and over, up to max_tokens."""
    body = request.prompt_ids[1:] or request.prompt_ids
    return [body[i % len(body)] for i in range(request.max_tokens)]


@dataclass
class _Place:
    request: GenerateRequest
    on_event: Callable[[TokenEvent], None]
    reply: list[int]
    position: int = 0
    cancelled: bool = False


class FakeEngine:
    """Continuous batching of max_running requests; every step gives each one token.

    `reply` decides the tokens of a request; one shorter than max_tokens ends with "stop".
    Log-probabilities are the uniform model's; what else steers an answer changes none of its
    script. `unable` is what it says of itself. `stalled` freezes the thread's work, `fail(text)`
    ends every request with an error.
    """

    def __init__(
        self,
        contract_digest: str,
        reply: Callable[[GenerateRequest], Sequence[int]] = repeat_prompt,
        *,
        step_s: float = 0.0,
        max_running: int = 16,
        vocab_size: int = 512,
        unable: frozenset[str] = frozenset(),
    ) -> None:
        self.name = "fake"
        self.contract_digest, self.unable = contract_digest, unable
        self.reply, self.step_s, self.max_running = reply, step_s, max_running
        self.vocab_size = vocab_size
        self.stalled = False
        self.submitted: list[GenerateRequest] = []
        self.cancelled_ids: list[str] = []
        self.max_seen_running = 0
        self._places: list[_Place] = []  # in order of arrival; the first max_running run
        self._generated_tokens = 0
        self._last_token_at = time.monotonic()
        self._closed = False
        self._failure: str | None = None
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="fake-engine", daemon=True)
        self._thread.start()

    def submit(self, request: GenerateRequest, on_event: Callable[[TokenEvent], None]) -> None:
        with self._changed:
            if self._closed:
                raise EngineError("the engine is closed", do="open it again")
            if not self._places:
                self._last_token_at = time.monotonic()
            self.submitted.append(request)
            reply = list(self.reply(request))
            self._places.append(_Place(request, on_event, reply))
            self._changed.notify_all()

    def cancel(self, request_id: str) -> None:
        with self._changed:
            self.cancelled_ids.append(request_id)
            for place in self._places:
                place.cancelled |= place.request.request_id == request_id
            self._changed.notify_all()

    def score(
        self, sequences: Sequence[Sequence[int]], prefix: Sequence[int] = ()
    ) -> list[NDArray[np.float64]]:
        """The uniform model: every id has log-probability -log(vocab_size)."""
        first = 0 if prefix else 1
        return [np.full(max(0, len(ids) - first), -np.log(self.vocab_size)) for ids in sequences]

    def stats(self) -> EngineStats:
        with self._changed:
            running = min(len(self._places), self.max_running)
            age_s = time.monotonic() - self._last_token_at if running else None
            waiting = len(self._places) - running
            return EngineStats(running, waiting, self._generated_tokens, age_s)

    def limit_running(self, max_running: int) -> None:
        """See EngineLoop."""
        with self._changed:
            self.max_running = max_running

    def fail(self, error: str) -> None:
        with self._changed:
            self._failure = error
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join(timeout=10)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or (self._places and not self.stalled))
                if self._closed and not self._places:
                    return
                events = self._step()
            for on_event, event in events:
                on_event(event)
            if self.step_s:
                time.sleep(self.step_s)

    def _step(self) -> list[tuple[Callable[[TokenEvent], None], TokenEvent]]:
        events = []
        running = self._places[: self.max_running]
        self.max_seen_running = max(self.max_seen_running, len(running))
        for place in list(self._places):
            event = self._advance(place, place in running)
            if event is not None:
                events.append((place.on_event, event))
                if event.finish_reason is not None:
                    self._places.remove(place)
        self._failure = None
        return events

    def _advance(self, place: _Place, runs: bool) -> TokenEvent | None:
        request_id = place.request.request_id
        if place.cancelled or self._closed:
            return TokenEvent(request_id, (), "cancelled")
        if self._failure is not None:
            return TokenEvent(request_id, (), "error", self._failure)
        if not runs:
            return None
        if place.position >= len(place.reply):
            return TokenEvent(request_id, (), "stop")
        token, allowed = place.reply[place.position], place.request.allowed_ids
        if allowed is not None and token not in allowed:
            token = allowed[0]
        place.position += 1
        self._generated_tokens += 1
        self._last_token_at = time.monotonic()
        finish: Literal["stop", "length"] | None = None
        if place.position >= place.request.max_tokens:
            finish = "length"
        if token in place.request.stop_ids:
            finish = "stop"
        return TokenEvent(request_id, (token,), finish, logprobs=self._logprobs(place, token))

    def _logprobs(self, place: _Place, token: int) -> tuple[TokenLogprob, ...]:
        if (num_top := place.request.logprobs) is None:
            return ()
        each = -float(np.log(self.vocab_size))
        top = tuple(((token + i) % self.vocab_size, each) for i in range(num_top))
        return (TokenLogprob(token, each, top),)
