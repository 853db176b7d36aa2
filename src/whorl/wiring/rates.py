"""What this machine computes and reads in a second, for predictions of a server."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
from numpy.typing import NDArray

from whorl.engines.threads import engine_threads

__all__ = ["probed_rates"]

PROBE_S = 0.4


@cache
def probed_rates(size: int = 512, num_bytes: int = 2**26) -> tuple[float, float]:
    """(float32 operations, bytes read) per second: in under a second, once per process.

    Operations are those of as many threads as an engine has, whatever NumPy's are limited to.
    """
    left = np.ones((size, size), np.float32)
    block = np.ones(num_bytes // 4, np.float32)
    count = engine_threads()
    with ThreadPoolExecutor(count) as pool:
        matmul_s = _best_s(lambda: list(pool.map(_product, [left] * count)))
    read_s = _best_s(lambda: block.sum())
    return count * 2 * size**3 / matmul_s, num_bytes / read_s


def _product(left: NDArray[np.float32]) -> NDArray[np.float32]:
    """By itself: NumPy lets other threads of Python run meanwhile."""
    return left @ left


def _best_s(work: Callable[[], object]) -> float:
    """Of many tries, so that some fall between other work of the machine."""
    end = time.perf_counter() + PROBE_S
    found: list[float] = []
    while not found or time.perf_counter() < end:
        begin = time.perf_counter()
        work()
        found.append(time.perf_counter() - begin)
    return min(found)
