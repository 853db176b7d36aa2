"""Ctrl-C, SIGTERM and SIGHUP: the first is remembered, the second stops at once."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from whorl.core.errors import Interrupted

__all__ = ["StopSignals"]

HANDLED = (signal.SIGINT, signal.SIGTERM)
HANG_UP = signal.SIGHUP  # of the terminal; `nohup` has it ignored, and so it stays


class StopSignals:
    """Within `with`, `received` is the number of the first signal, or None.

    Outside the main thread nothing is installed: whoever owns the process handles its signals.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            heard = signal.getsignal(HANG_UP) is not signal.SIG_IGN
            numbers = (*HANDLED, HANG_UP) if heard else HANDLED
            self._before = {number: signal.signal(number, self._handle) for number in numbers}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            raise Interrupted(
                "training stopped at once by a second signal",
                signal_number=number,
                do="run the same command again: it goes on from the last checkpoint",
            )
        self.received = number
