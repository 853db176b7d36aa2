"""Ctrl-C, SIGTERM and SIGHUP, from the first instruction on: one line, exit 128 + the signal's
number, no process and nothing half-made left behind.

While modules load there is nothing to clean up: the process ends at once, and a child that was
begun early (cli/early.py) sees that and ends too. Later the handler raises `Stopped` in the main
thread, and everything that was begun is undone on its way out. Native code (the training of a
tokenizer, an export) returns to Python late: a thread hears of the signal too, and ends the process
itself when PATIENCE_S were not enough. Who answers signals in a way of its own (training saves
first, a server lets its requests end) installs its own handlers: then only a second signal is
answered here.
"""

from __future__ import annotations

import _signal as signal  # type: ignore[import-not-found]  # without the enums, which load slowly
import atexit
import os
import sys

TYPE_CHECKING = False  # `typing` is slow to load
if TYPE_CHECKING:
    from types import FrameType
    from typing import NoReturn

    from whorl.core.errors import Interrupted

__all__ = ["Interrupts", "Stopped"]

NAMES = {"SIGINT": "Ctrl-C", "SIGTERM": "SIGTERM", "SIGHUP": "SIGHUP"}
HANDLED = {number: said for name, said in NAMES.items() if (number := getattr(signal, name, None))}
PATIENCE_S = 1.2  # for the main thread to clean up
NOTICE_S = 1.5  # afterwards a person wants to know that the signal was heard
NOTICE = "stopping: what runs is finished and saved; once more stops at once\n"
DOCUMENT = '{"error": {"what": "%s", "found": null, "expected": null, "do": null, "exit_code": %d}}'
CLEAR_BAR = "\r\x1b[2K\x1b[?25h"  # the line of a bar; the cursor is shown again


class Stopped(BaseException):
    """Raised in the main thread by a signal. No Exception: nobody may take it for an error."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Interrupts:
    """The signals of one process."""

    answered = False  # whether this process has written its document of --json: it writes one

    def __init__(self) -> None:
        self.received: int | None = None  # the signal that ends this process
        self._code: int | None = None  # of a command that ended by itself
        self._working = False
        self._ending = False

    def install(self) -> None:
        """From here on signals are answered; those that the caller had ignored stay ignored."""
        atexit.register(self._leave)  # the first to be registered is the last to be called
        for number in HANDLED:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._handle)

    def finish(self, code: int) -> None:
        """The process ends with this code as soon as Python's own clean-up is done.

        What native libraries take apart after that, for seconds, nobody waits for.
        """
        self._code = code

    def _leave(self) -> None:
        if self._code is not None:
            os._exit(self._code)

    def begin(self) -> None:
        """From here on signals raise `Stopped`, and native code is not waited for."""
        import threading

        from whorl.core import children, scratch  # noqa: F401  (needed at the end: loaded now)

        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        threading.Thread(target=self._watch, args=(reading,), name="signals", daemon=True).start()
        self._working = True

    def end(self, number: int, error: Interrupted | None = None) -> NoReturn:
        """Ends children, removes what is half-made, says so in one line, and ends the process."""
        self._begin_the_end()
        code, line = 128 + number, f"stopped by {HANDLED[number]}"
        document = DOCUMENT % (line, code)  # by hand: while modules load, none can be relied on
        if error is not None:
            import json

            line, document = str(error), json.dumps(error.as_json())
        if self._working:
            from whorl.core.children import end_children
            from whorl.core.scratch import remove_held

            end_children()
            remove_held()
        bar = CLEAR_BAR if os.isatty(2) and os.environ.get("TERM", "dumb") != "dumb" else ""
        _write(2, f"{bar}error: {line}\n")
        if "--json" in sys.argv and not self.answered:
            _write(1, f"{document}\n")
        os._exit(code)

    def _begin_the_end(self) -> None:
        """Only one thread ends the process; another one waits here for it."""
        if self._ending:
            import time

            time.sleep(60)
        self._ending = True

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            return  # it is being obeyed
        self.received = number
        if not self._working:
            self.end(number)
        raise Stopped(number)

    def _watch(self, descriptor: int) -> None:
        import select
        import time

        heard = told = False
        while True:
            ready, _, _ = select.select([descriptor], [], [], NOTICE_S if heard else None)
            if not ready:
                if not told:
                    _write(2, NOTICE)
                told, heard = True, False
                continue
            number = os.read(descriptor, 1)[0]
            if number not in HANDLED:
                continue
            if heard or told or signal.getsignal(number) == self._handle:
                time.sleep(PATIENCE_S)
                self.end(number)
            heard = True


def _write(descriptor: int, text: str) -> None:
    """Past Python's buffers, whose locks a stopped thread may hold."""
    try:  # noqa: SIM105  (contextlib loads slowly)
        os.write(descriptor, text.encode("ascii", "backslashreplace"))
    except OSError:
        pass  # nobody is there to read it
