"""What steppers that advance one request after another share: their book of requests."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Generic, TypeVar

from whorl.core.ports import GenerateRequest, TokenEvent
from whorl.engines.grammar import Grammars
from whorl.engines.sampling import Drawing, Matcher

__all__ = ["SerialStepper"]

R = TypeVar("R", bound=Drawing)


class SerialStepper(ABC, Generic[R]):
    """loop.Stepper but for `score`: every request has a place, and a state of its own."""

    def __init__(self, grammars: Grammars | None = None) -> None:
        """grammars: None where no request has one."""
        self._grammars = grammars
        self._running: dict[str, R] = {}

    @abstractmethod
    def _begin(self, request: GenerateRequest, matcher: Matcher | None) -> R:
        """The state of a new request, whose grammar is at its begin."""

    @abstractmethod
    def _advance(self, running: R) -> TokenEvent:
        """Reads what is unread, and draws one more id."""

    def add(self, request: GenerateRequest) -> bool:
        matcher = None if self._grammars is None else self._grammars.start(request)
        self._running[request.request_id] = self._begin(request, matcher)
        return True

    def cancel(self, request_id: str) -> None:
        self._running.pop(request_id, None)

    def step(self) -> list[TokenEvent]:
        events = [self._advance(running) for running in self._running.values()]
        for event in events:
            if event.finish_reason is not None:
                del self._running[event.request_id]
        return events

    def close(self) -> None:
        self._running.clear()
