"""Lanes: threads that each do whole pieces of a step, with operations that are not split.

An operation that is split among threads ends when the slowest of them has done its part; a step
has a thousand of those, so that one busy process beside it costs several times the step, unless
threads wait by spinning, which costs the others. Lanes meet a handful of
times a step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

__all__ = ["Lanes"]

T = TypeVar("T")


class Lanes:
    """Runs functions on `count` threads, each of which has `threads / count` for an operation."""

    def __init__(self, count: int, threads: int) -> None:
        self.count = count
        each = max(1, threads // count)
        self._pool = ThreadPoolExecutor(count, "lane", _begin, (each,)) if count > 1 else None

    def run(self, work: Sequence[Callable[[], T]]) -> list[T]:
        """The results in order; the first error is raised when all have ended."""
        if self._pool is None or len(work) < 2:
            return [item() for item in work]
        futures = [self._pool.submit(item) for item in work]
        errors = [error for future in futures if (error := future.exception()) is not None]
        if errors:
            raise errors[0]
        return [future.result() for future in futures]

    def run_one(self, work: Callable[[], T]) -> T:
        """On one lane while the others wait: its operations are not split either."""
        return work() if self._pool is None else self._pool.submit(work).result()

    def close(self) -> None:
        """End the threads; without it they end with the last reference to this object."""
        if self._pool is not None:
            self._pool.shutdown()


def _begin(threads: int) -> None:
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
