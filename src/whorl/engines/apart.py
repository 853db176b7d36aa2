"""An engine in a process of its own, so that a server answers while the engine computes.

GenAI's step keeps Python's lock: beside it in one process nothing is read from or written to a
client for as long as a step takes. It also may die of what Python cannot catch; then its requests
end with an error and it is started again. The two speak JSON, a line each way.
"""

from __future__ import annotations

import contextlib
import json
import logging
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import asdict
from pathlib import Path
from typing import Any

from whorl.core import errors
from whorl.core.children import Child, start_child, taken_early
from whorl.core.errors import EngineError, WhorlError
from whorl.core.ports import EngineStats, GenerateRequest, TokenEvent, TokenLogprob
from whorl.core.scoring import Continuations, Scores
from whorl.core.variants import Variant
from whorl.engines.score_lines import questions_told, scores_of
from whorl.engines.setup import EngineSetup

__all__ = ["EngineProcess", "start_here"]

LOG = logging.getLogger(__name__)
MAX_STARTS, WITHIN_S = 4, 120.0  # then something is wrong that another start does not mend
CLOSE_TIMEOUT_S = 30.0
OnEvent = Callable[[TokenEvent], None]


def start_here() -> Child:
    """A process of this machine that calls `answering.answer`; one that was begun early, first."""
    early = taken_early("whorl.engines.answering:answer_soon")
    return early or start_child("whorl.engines.answering:answer")


class EngineProcess:
    """core.ports.Engine of another process. Events come on a thread that reads from it."""

    def __init__(
        self,
        folder: Path,
        variant: Variant | None,
        name: str,
        setup: EngineSetup,
        cache_folder: Path | None = None,
        start: Callable[[], Child] = start_here,
    ) -> None:
        """Raises as `open_engine`, which is called over there. start: a process calling `answer`,
        at once and whenever the one before has ended."""
        self._start_child = start
        opening = {
            "folder": str(folder),
            "variant": None if variant is None else asdict(variant),
            "name": name,
            "setup": asdict(setup),
            "cache_folder": None if cache_folder is None else str(cache_folder),
        }
        self._opening = json.dumps(opening)
        self._lock = threading.Lock()
        self._sending = threading.Lock()  # not the other: events are read while a pipe is full
        self._requests: dict[str, OnEvent] = {}
        self._scores: dict[int, Future[list[Scores]]] = {}
        self._max_running = setup.max_running
        self._generated_tokens, self._last_token_at = 0, time.monotonic()
        self._closing, self._up = False, False
        self._failure: str | None = None  # why it is not started again
        self._starts: deque[float] = deque(maxlen=MAX_STARTS)
        facts = self._start()
        self.name, self.contract_digest = facts["name"], facts["contract_digest"]
        self.unable: frozenset[str] = frozenset(facts["unable"])
        self.reads_singles_once: bool = facts["reads_singles_once"]  # see EngineLoop

    @property
    def is_up(self) -> bool:
        """Whether it takes requests; False while it is started again."""
        return self._up

    @property
    def failure(self) -> str | None:
        """Why it is not started again; None: it is up, or will be."""
        return self._failure

    @property
    def pid(self) -> int:
        return self._process.pid

    # -------------------------------------------------------------- the port

    def submit(self, request: GenerateRequest, on_event: OnEvent) -> None:
        with self._lock:
            self._check_up()
            if request.request_id in self._requests:
                raise EngineError(f"request {request.request_id} is running already")
            if not self._requests:
                self._last_token_at = time.monotonic()
            self._requests[request.request_id] = on_event
        grammar = None if request.grammar is None else vars(request.grammar)
        self._send(["submit", vars(request) | {"grammar": grammar}])

    def cancel(self, request_id: str) -> None:
        self._send(["cancel", request_id])

    def limit_running(self, max_running: int) -> None:
        """See EngineLoop."""
        self._max_running = max_running
        self._send(["limit", max_running])

    def score(self, sequences: Sequence[Sequence[int]], prefix: Sequence[int] = ()) -> Scores:
        return self.score_together([Continuations(prefix, sequences)])[0]

    def score_together(self, questions: Sequence[Continuations]) -> list[Scores]:
        """See core.scoring."""
        future: Future[list[Scores]] = Future()
        with self._lock:
            self._check_up()
            number = id(future)
            self._scores[number] = future
        self._send(["score", number, questions_told(questions)])
        return future.result()

    def stats(self) -> EngineStats:
        with self._lock:
            inside = len(self._requests)
            running = min(inside, self._max_running)
            age_s = time.monotonic() - self._last_token_at if running else None
            return EngineStats(running, inside - running, self._generated_tokens, age_s)

    def close(self) -> None:
        with self._lock:
            if self._closing:
                return
            self._closing = True
        if self._sending.acquire(timeout=CLOSE_TIMEOUT_S):
            with contextlib.suppress(OSError, ValueError):
                self._input.close()  # over there it means the end
            self._sending.release()
        try:
            self._process.wait(CLOSE_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            LOG.warning("engine %s is stuck in a step and is killed", self.name)
            self._process.kill()
            self._process.wait()
        self._reader.join(CLOSE_TIMEOUT_S)

    # -------------------------------------------------------------- the process

    def _check_up(self) -> None:
        """Raises EngineError if it takes no requests. Called with the lock held."""
        if self._closing:
            raise EngineError("the engine is closed", do="open it again")
        if self._failure is not None:
            raise EngineError("the engine stopped", found=self._failure, do="open it again")
        if not self._up:
            raise EngineError("the engine is being started again", do="try again soon")

    def _start(self) -> dict[str, Any]:
        self._starts.append(time.monotonic())
        process = self._start_child()
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(self._opening + "\n")
            process.stdin.flush()
        self._process, self._input = process, process.stdin  # now others may write
        line = process.stdout.readline()
        facts: dict[str, Any] = json.loads(line) if line else {"error": None}
        if "error" in facts:
            code = _bury(process)
            if not line:
                what = "the engine's process ended before it was open"
                raise EngineError(what, found=f"code {code}")
            kind: type[WhorlError] = getattr(errors, facts["kind"], EngineError)
            raise kind(facts["error"])
        self._reader = threading.Thread(
            target=self._read, args=(process,), name="whorl-engine-events", daemon=True
        )
        self._up = True
        self._reader.start()
        return facts

    def _send(self, message: list[Any]) -> None:
        data = json.dumps(message)
        with self._sending, contextlib.suppress(OSError, ValueError):  # ended: the reader tells all
            self._input.write(data + "\n")
            self._input.flush()

    def _read(self, process: Child) -> None:
        for line in process.stdout:
            kind, *rest = json.loads(line)
            if kind == "events":
                for event in rest[0]:
                    self._deliver(*event)
            else:
                self._scored(kind, *rest)
        self._ended(process)

    def _deliver(
        self,
        request_id: str,
        ids: list[int],
        finish: Any,
        error: str | None,
        logprobs: list[Any],
    ) -> None:
        with self._lock:
            on_event = self._requests.get(request_id)
            self._generated_tokens += len(ids)
            self._last_token_at = time.monotonic()
            if finish is not None:
                self._requests.pop(request_id, None)
        told = tuple(
            TokenLogprob(number, value, tuple((i, other) for i, other in top))
            for number, value, top in logprobs
        )
        if on_event is not None:
            self._call(on_event, TokenEvent(request_id, tuple(ids), finish, error, told))

    def _call(self, on_event: OnEvent, event: TokenEvent) -> None:
        """A listener that raises loses its request, the others go on."""
        try:
            on_event(event)
        except Exception:
            LOG.exception("the listener of request %s failed", event.request_id)
            with self._lock:
                is_known = self._requests.pop(event.request_id, None) is not None
            if is_known:
                self.cancel(event.request_id)

    def _scored(self, kind: str, number: int, found: Any) -> None:
        with self._lock:
            future = self._scores.pop(number, None)
        if future is None:
            return  # asked of the process before, which ended
        if kind == "scores":
            future.set_result(scores_of(found))
        else:
            future.set_exception(EngineError(found))

    def _ended(self, process: Child) -> None:
        """Its requests end too; unless it was told to, it is started again."""
        with self._lock:
            self._up = False
            requests, self._requests = self._requests, {}
            scores, self._scores = self._scores, {}
        with self._sending:
            code = _bury(process)
        failure = None if self._closing else f"the engine's process ended (code {code})"
        for request_id, on_event in requests.items():
            finish: Any = "error" if failure else "cancelled"
            self._call(on_event, TokenEvent(request_id, (), finish, failure))
        for future in scores.values():
            future.set_exception(EngineError(failure or "the engine is closed"))
        if failure is None:
            return
        if len(self._starts) == MAX_STARTS and time.monotonic() - self._starts[0] < WITHIN_S:
            LOG.error("%s; it is not started again: that did not help", failure)
            self._failure = failure
            return
        LOG.error("%s; it is started again", failure)
        try:
            self._start()
            self.limit_running(self._max_running)
        except Exception as error:  # whatever it is: without a reason it would seem to be starting
            LOG.exception("the engine could not be started again")
            self._failure = f"{failure}; then: {str(error) or repr(error)}"
            return
        if self._closing:
            self._input.close()


def _bury(process: Child) -> int:
    """The exit code of a process that ended, its pipes closed."""
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError, ValueError):
                pipe.close()
    return process.wait()
