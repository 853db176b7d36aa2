"""One thread that drives a model step by step: what every engine shares.

Requests wait in a queue, join between two steps, and leave when they end or are cancelled. Scores
are computed while no request runs: GenAI's prompt log-probabilities are wrong in a mixed batch.
Candidates after a prefix need not wait where an engine keeps what it reads for them apart.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Protocol

from whorl.core.errors import EngineError
from whorl.core.ports import EngineStats, GenerateRequest, TokenEvent
from whorl.core.scoring import Continuations, Scores, score_together
from whorl.engines.limits import Limits, Portion

__all__ = ["EngineLoop", "Stepper"]

OnEvent = Callable[[TokenEvent], None]
LOG = logging.getLogger(__name__)
CLOSE_TIMEOUT_S = 30.0  # for the step in hand


class Stepper(Protocol):
    """A model that gives each of its requests one token a step. Used from one thread alone."""

    def add(self, request: GenerateRequest) -> bool:
        """Give a request a place; False: no room before others leave (never when none runs).

        Raises EngineError if this one request cannot be served.
        """
        ...

    def cancel(self, request_id: str) -> None:
        """Free the place; no event follows."""
        ...

    def step(self) -> list[TokenEvent]:
        """Advance every request; requests whose event has a finish_reason have left."""
        ...

    def score(self, sequences: Sequence[Sequence[int]], prefix: Sequence[int] = ()) -> Scores:
        """See Engine.score; called only while there is no request, or as Limits says.

        The pieces of one question come one after another, with the same object as their prefix. One
        that reads several prefixes at once has a method `score_together` too, whose questions have
        prefixes of one length: see core.scoring.
        """
        ...

    def close(self) -> None: ...


@dataclass
class _Place:
    request: GenerateRequest
    on_event: OnEvent


@dataclass
class _Scoring:
    piece: Portion
    future: Future[list[Scores]]


class EngineLoop:
    """core.ports.Engine over a Stepper. Events come on the loop's thread."""

    def __init__(
        self,
        name: str,
        contract_digest: str,
        stepper: Stepper,
        limits: Limits,
        unable: frozenset[str] = frozenset(),
        check: Callable[[GenerateRequest], object] = lambda request: None,
    ) -> None:
        """check: raises EngineError on a request that is none, in the thread that submits it."""
        self.name, self.contract_digest, self.limits = name, contract_digest, limits
        self.unable, self._check = unable, check
        self._stepper = stepper
        self._changed = threading.Condition()
        self._waiting: deque[_Place] = deque()
        self._running: dict[str, _Place] = {}
        self._cancelled: set[str] = set()
        self._scoring: deque[_Scoring] = deque()
        self._closing = False
        self._failure: str | None = None
        self._generated_tokens = 0
        self._last_token_at = 0.0
        # Called on the loop's thread after each turn, whose events have been told by then.
        self.on_turn: Callable[[], None] = lambda: None
        # Called on it before what may take longer than a step: scores, prompts that are read.
        self.on_delay: Callable[[], None] = lambda: None
        self._thread = threading.Thread(target=self._run, name=f"whorl-{name}", daemon=True)
        self._thread.start()

    # -------------------------------------------------------------- the port

    def submit(self, request: GenerateRequest, on_event: OnEvent) -> None:
        """Queue a request. Raises EngineError when it cannot be served or the engine is closed."""
        self.limits.check(request, self.name, self.unable)
        self._check(request)
        with self._changed:
            self._check_alive()
            known = {*self._running, *(place.request.request_id for place in self._waiting)}
            if request.request_id in known:
                raise EngineError(f"request {request.request_id} is running already")
            self._waiting.append(_Place(request, on_event))
            self._changed.notify_all()

    def cancel(self, request_id: str) -> None:
        """Free the request's place within one step; unknown or finished requests are ignored."""
        with self._changed:
            if request_id in self._running or any(
                place.request.request_id == request_id for place in self._waiting
            ):
                self._cancelled.add(request_id)
                self._changed.notify_all()

    def score(self, sequences: Sequence[Sequence[int]], prefix: Sequence[int] = ()) -> Scores:
        """See Engine.score, and `score_together`."""
        return self.score_together([Continuations(prefix, sequences)])[0]

    def score_together(self, questions: Sequence[Continuations]) -> list[Scores]:
        """See core.scoring; waits until no request runs, and new ones wait for it.

        After a prefix, where the engine can, it waits for a step alone, and nobody longer than for
        a piece. Requests that arrive meanwhile start between two pieces. Raises EngineError on an
        id outside the vocabulary, a sequence longer than the context, or an engine that stopped.
        """
        if threading.current_thread() is self._thread:
            raise EngineError("score was called from an event: it would wait for itself")
        checked = [self.limits.check_scored(each) for each in questions]
        jobs = [_Scoring(piece, Future()) for piece in self.limits.pieces(checked)]
        with self._changed:
            self._check_alive()
            self._scoring.extend(jobs)
            self._changed.notify_all()
        found: list[Scores] = [[] for _ in questions]
        for job in jobs:
            for place, scores in zip(job.piece.places, job.future.result(), strict=True):
                found[place] += scores
        return found

    def stats(self) -> EngineStats:
        with self._changed:
            age_s = time.monotonic() - self._last_token_at if self._running else None
            return EngineStats(
                len(self._running), len(self._waiting), self._generated_tokens, age_s
            )

    def close(self) -> None:
        """End every request with "cancelled" and stop the thread; harmless when repeated."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if threading.current_thread() is not self._thread:
            self._thread.join(CLOSE_TIMEOUT_S)
            if self._thread.is_alive():
                LOG.warning("engine %s is stuck in a step and was left behind", self.name)

    @property
    def failure(self) -> str | None:
        """Why it takes no request any more, and never will; None: it does, or was closed."""
        return self._failure

    @property
    def reads_singles_once(self) -> bool:
        """Whether candidates of one id each, however many, cost one reading of their prefix."""
        return self.limits.candidates_beside

    def limit_running(self, max_running: int) -> None:
        """From now on at most so many run together; those that run already go on."""
        with self._changed:
            self.limits = replace(self.limits, max_running=max_running)

    # -------------------------------------------------------------- checks

    def _check_alive(self) -> None:
        if self._failure is not None:
            raise EngineError("the engine stopped", found=self._failure, do="open it again")
        if self._closing:
            raise EngineError("the engine is closed", do="open it again")

    # -------------------------------------------------------------- the thread

    def _run(self) -> None:
        failure: str | None = None
        try:
            while self._turn():
                self.on_turn()
        except BaseException as error:  # whatever it is, nobody may wait for ever
            LOG.exception("engine %s stopped", self.name)
            failure = f"{type(error).__name__}: {error}"
        self._end_all(failure)
        for last in (self.on_turn, self._stepper.close):
            try:
                last()
            except Exception:
                LOG.exception("engine %s did not close cleanly", self.name)

    def _turn(self) -> bool:
        """Wait for work and do one piece of it; False when closed."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._closing or self._waiting or self._running or self._scoring
            )
            if self._closing:
                return False
            dropped = self._take_cancelled()
            job = self._next_scoring()
            may_join = job is not None or not self._scoring
        for place in dropped:
            self._deliver(place, TokenEvent(place.request.request_id, (), "cancelled"))
        if job is not None:
            self.on_delay()
            self._score(job)  # and those who waited start before the next piece
        if may_join and self._join_waiting():
            self.on_delay()
        if self._running:
            self._step()
        return True

    def _next_scoring(self) -> _Scoring | None:
        """The next piece, if it may be computed now. Called with the lock held."""
        if not self._scoring:
            return None
        is_apart = self.limits.candidates_beside and bool(
            self._scoring[0].piece.questions[0].prefix
        )
        return self._scoring.popleft() if is_apart or not self._running else None

    def _take_cancelled(self) -> list[_Place]:
        """Remove cancelled requests, running or waiting. Called with the lock held."""
        gone = self._cancelled
        dropped = [place for place in self._waiting if place.request.request_id in gone]
        self._waiting = deque(p for p in self._waiting if p.request.request_id not in gone)
        for request_id in [name for name in self._running if name in gone]:
            self._stepper.cancel(request_id)
            dropped.append(self._running.pop(request_id))
        self._cancelled.clear()
        return dropped

    def _join_waiting(self) -> bool:
        """Give places to waiting requests, in order, while there is room; whether one joined."""
        has_joined = False
        while True:
            with self._changed:
                if not self._waiting or len(self._running) >= self.limits.max_running:
                    return has_joined
                place = self._waiting[0]
            request_id = place.request.request_id
            error: str | None = None
            try:
                if not self._stepper.add(place.request):
                    if not self._running:
                        raise RuntimeError("the model has no room for a single request")
                    return has_joined
            except EngineError as refusal:
                error = str(refusal)
            with self._changed:
                self._waiting.popleft()
                if error is None:
                    if not self._running:
                        self._last_token_at = time.monotonic()
                    self._running[request_id] = place
                    has_joined = True
            if error is not None:
                self._deliver(place, TokenEvent(request_id, (), "error", error))

    def _step(self) -> None:
        events = self._stepper.step()
        with self._changed:
            num_tokens = sum(len(event.token_ids) for event in events)
            self._generated_tokens += num_tokens
            if num_tokens:
                self._last_token_at = time.monotonic()
            places = [self._running[event.request_id] for event in events]
            for event in events:
                if event.finish_reason is not None:
                    del self._running[event.request_id]
                    self._cancelled.discard(event.request_id)
        for place, event in zip(places, events, strict=True):
            self._deliver(place, event)

    def _score(self, job: _Scoring) -> None:
        future = job.future
        try:
            future.set_result(score_together(self._stepper, job.piece.questions))
        except EngineError as error:
            future.set_exception(error)
        except BaseException as error:
            with self._changed:
                self._failure = f"{type(error).__name__}: {error}"
            future.set_exception(EngineError("scoring failed", found=error))
            raise

    def _deliver(self, place: _Place, event: TokenEvent) -> None:
        """Call back; a listener that raises loses its request, the others go on."""
        try:
            place.on_event(event)
        except Exception:
            LOG.exception("the listener of request %s failed", event.request_id)
            if event.finish_reason is None:
                self._stepper.cancel(event.request_id)
                self._leave(event.request_id)

    def _leave(self, request_id: str) -> None:
        with self._changed:
            self._running.pop(request_id, None)
            self._cancelled.discard(request_id)

    def _end_all(self, failure: str | None) -> None:
        with self._changed:
            self._failure = failure
            self._closing = True
            places = [*self._running.values(), *self._waiting]
            jobs = list(self._scoring)
            self._running, self._waiting, self._scoring = {}, deque(), deque()
        for place in places:
            request_id = place.request.request_id
            event = TokenEvent(request_id, (), "cancelled")
            if failure is not None:
                event = TokenEvent(request_id, (), "error", failure)
            self._deliver(place, event)
        for job in jobs:
            job.future.set_exception(EngineError("the engine stopped", found=failure or "closed"))
