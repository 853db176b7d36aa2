"""Requests in, whole answers out: for parity, benchmarks and evaluation."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
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
    steps: int = 0  # events that brought ids: fewer than ids where several come at once


def run_requests(
    engine: Engine,
    requests: Sequence[GenerateRequest],
    timeout_s: float = 600.0,
    on_end: Callable[[], None] = lambda: None,
) -> list[Answer]:
    """Submit all at once and wait; answers in the order of the requests.

    timeout_s: without any token of any of them. on_end: called after each that ended. Raises
    EngineError if one ends with an error or is cancelled, or if nothing comes for so long; those
    that are left are cancelled then.
    """
    answers = {request.request_id: Answer() for request in requests}
    errors: list[str] = []
    ended, told = threading.Semaphore(0), threading.Event()
    begin = time.monotonic()

    def on_event(event: TokenEvent) -> None:
        answer, now_s = answers[event.request_id], time.monotonic() - begin
        if event.token_ids and answer.first_token_s is None:
            answer.first_token_s = now_s
        answer.token_ids += event.token_ids
        answer.steps += bool(event.token_ids)
        told.set()
        if event.finish_reason is not None:
            answer.finish_reason, answer.end_s = event.finish_reason, now_s
            if event.finish_reason not in ("stop", "length"):
                errors.append(event.error or event.finish_reason)
            ended.release()

    for request in requests:
        engine.submit(request, on_event)
    for _ in requests:
        while not ended.acquire(timeout=timeout_s):
            if not told.is_set():
                for request in requests:
                    engine.cancel(request.request_id)
                raise EngineError(
                    "the engine did not answer in time", expected=f"a token within {timeout_s:g} s"
                )
            told.clear()
        on_end()
    if errors:
        raise EngineError("a request failed", found=errors[0])
    return [answers[request.request_id] for request in requests]
