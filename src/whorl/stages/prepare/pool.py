"""Work spread over processes with results in the order of the tasks.

Processes are spawned, not forked (other libraries run threads here), ignore Ctrl-C (the parent
decides) and end with their parent, however it ends.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.reduction import ForkingPickler
from types import TracebackType
from typing import TypeVar

from whorl.core.children import spawning
from whorl.core.errors import ResourceError

__all__ = ["WorkerPool", "default_workers", "is_sendable"]

Task = TypeVar("Task")
Result = TypeVar("Result")
TASKS_AHEAD = 2  # per worker, so that none waits
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")  # NumPy's, torch's


def default_workers() -> int:
    """Cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def is_sendable(task: object) -> bool:
    """Whether other processes can be given a task; not if a field made on the spot is in it."""
    try:
        ForkingPickler.dumps(task)
    except Exception:  # whatever the objects in it raise
        return False
    return True


class WorkerPool:
    """A context: `map` runs tasks on num_workers processes, or right here for one."""

    def __init__(self, num_workers: int) -> None:
        self.num_workers = num_workers
        self._executor: ProcessPoolExecutor | None = None

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._executor is None:
            return
        if kind is not None:
            for process in list((self._executor._processes or {}).values()):
                process.terminate()
        self._executor.shutdown(wait=True, cancel_futures=True)
        self._executor = None

    def run(self, function: Callable[[], Result]) -> Result:
        """What it gives, of a worker.

        What it loads and leaves in memory is not in this process then, which may train next:
        scikit-learn alone and what it imports are 70 MiB (30 November 2026). It is done here if
        there is one worker, or if a worker cannot begin: a script that calls whorl without
        `if __name__ == "__main__":` is begun anew by each.
        """
        if self.num_workers > 1:
            try:
                return next(self.map(_called, [function]))
            except ResourceError:
                self._executor, self.num_workers = None, 1
        return function()

    def map(self, function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[Result]:
        """function(task) of each task, in order. Raises what the function raises.

        Raises ResourceError if a process died.
        """
        if self.num_workers == 1:
            yield from map(function, tasks)
            return
        if self._executor is None:
            self._executor = ProcessPoolExecutor(
                self.num_workers,
                mp_context=multiprocessing.get_context("spawn"),
                initializer=_start_worker,
            )
        pending: deque[Future[Result]] = deque()
        try:
            for task in tasks:
                with spawning():
                    pending.append(self._executor.submit(function, task))
                if len(pending) >= TASKS_AHEAD * self.num_workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        except BrokenProcessPool as error:
            raise ResourceError(
                "a worker process ended unexpectedly",
                found=f"{self.num_workers} workers",
                do="run with --workers 1; if memory ran out, free some; a script that calls whorl "
                "needs `if __name__ == '__main__':` around its calls",
            ) from error


def _called(function: Callable[[], Result]) -> Result:
    return function()


def _start_worker() -> None:
    """There are as many workers as cores: each computes products on one thread, unless the
    environment says otherwise. Two threads each for small ones wait for one another, and spin: 500
    lines of print were encoded in 2.8 s of processor time, with one thread in 0.1 s (1 December
    2026, two busy cores). NumPy, which reads this once, is loaded later.
    """
    for name in THREADS:
        os.environ.setdefault(name, "1")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
