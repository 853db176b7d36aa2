"""Requests in, whole answers out: for parity, benchmarks and evaluation."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from whorl.core.errors import EngineError
from whorl.core.ports import Engine, GenerateRequest, TokenEvent

__all__ = ["Answer", "run_requests"]


@dataclass
class Answer:
    """One request's tokens. Seconds are since `run_requests` was called."""

    token_ids: list[int] = field(default_factory=list)
    finish_reason: str = ""
    first_token_s: float | None = None
    end_s: float = 0.0


def run_requests(
    engine: Engine, requests: Sequence[GenerateRequest], timeout_s: float = 600.0
) -> list[Answer]:
    """Submit all at once and wait; answers in the order of the requests.

    Raises EngineError if one ends with an error or the time runs out.
    """
    answers = {request.request_id: Answer() for request in requests}
    errors: list[str] = []
    ended = threading.Semaphore(0)
    begin = time.monotonic()

    def on_event(event: TokenEvent) -> None:
        answer, now_s = answers[event.request_id], time.monotonic() - begin
        if event.token_ids and answer.first_token_s is None:
            answer.first_token_s = now_s
        answer.token_ids += event.token_ids
        if event.finish_reason is not None:
            answer.finish_reason, answer.end_s = event.finish_reason, now_s
            if event.finish_reason == "error":
                errors.append(event.error or "unknown")
            ended.release()

    for request in requests:
        engine.submit(request, on_event)
    for _ in requests:
        if not ended.acquire(timeout=max(0.0, begin + timeout_s - time.monotonic())):
            for request in requests:
                engine.cancel(request.request_id)
            raise EngineError("the engine did not answer in time", expected=f"{timeout_s:.0f} s")
    if errors:
        raise EngineError("a request failed", found=errors[0])
    return [answers[request.request_id] for request in requests]
