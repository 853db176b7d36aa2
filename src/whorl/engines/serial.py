"""What steppers that advance one request after another share: their book of requests."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Generic, TypeVar

from whorl.core.ports import GenerateRequest, TokenEvent
from whorl.engines.sampling import Drawing

__all__ = ["SerialStepper"]

R = TypeVar("R", bound=Drawing)


class SerialStepper(ABC, Generic[R]):
    """loop.Stepper but for `score`: every request has a place, and a state of its own."""

    def __init__(self) -> None:
        self._running: dict[str, R] = {}

    @abstractmethod
    def _begin(self, request: GenerateRequest) -> R:
        """The state of a new request."""

    @abstractmethod
    def _advance(self, running: R) -> TokenEvent:
        """Reads what is unread, and draws one more id."""

    def add(self, request: GenerateRequest) -> bool:
        self._running[request.request_id] = self._begin(request)
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
