"""Requests asked together, and their answers: none is given up while tokens come."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from whorl.core.collect import run_requests
from whorl.core.errors import EngineError
from whorl.core.ports import GenerateRequest, TokenEvent


def ask(name: str) -> GenerateRequest:
    return GenerateRequest(name, (1, 2), 8)


class Slow:
    """Eight tokens, one every tenth of a second."""

    def __init__(self, ends: str) -> None:
        self.ends = ends

    def submit(self, request: GenerateRequest, on_event: Callable[[TokenEvent], None]) -> None:
        threading.Thread(target=self.answer, args=(request.request_id, on_event)).start()

    def answer(self, name: str, on_event: Callable[[TokenEvent], None]) -> None:
        for number in range(8):
            time.sleep(0.1)
            on_event(TokenEvent(name, (number,), self.ends if number == 7 else None))  # type: ignore[arg-type]


def test_run_requests_waits_while_tokens_come() -> None:
    """Longer together than the longest silence; what ended is counted as it ends."""
    ended: list[float] = []
    begin_s = time.monotonic()

    def note() -> None:
        ended.append(time.monotonic() - begin_s)

    (answer,) = run_requests(Slow("length"), [ask("slow")], timeout_s=0.4, on_end=note)  # type: ignore[arg-type]
    assert answer.token_ids == list(range(8)) and len(ended) == 1 and ended[0] >= 0.7
    with pytest.raises(EngineError, match="a request failed; found: cancelled"):
        run_requests(Slow("cancelled"), [ask("gone")])  # type: ignore[arg-type]
