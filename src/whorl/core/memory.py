"""Memory of this process: its peak since some time, and giving back what was freed."""

from __future__ import annotations

import contextlib
import ctypes
import platform
import re
import resource
import sys
from collections.abc import Callable
from pathlib import Path

__all__ = ["c_library", "forgets", "give_back", "peak_resident_bytes", "restart_peak"]

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
FORGET: list[Callable[[], object]] = []  # what empties a cache of this process
RESET_PEAK = "5"  # proc(5): sets the high-water mark to what is resident now


def restart_peak() -> None:
    """Forget what was resident before. Without Linux's /proc nothing happens."""
    with contextlib.suppress(OSError):
        CLEAR.write_text(RESET_PEAK)


def peak_resident_bytes() -> int:
    """The high-water mark. getrusage, the fallback, also counts the process that started us."""
    with contextlib.suppress(OSError):
        if match := re.search(r"VmHWM:\s+(\d+) kB", STATUS.read_text()):
            return int(match[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def c_library() -> ctypes.CDLL | None:
    """glibc; None elsewhere."""
    is_glibc = sys.platform == "linux" and platform.libc_ver()[0] == "glibc"
    return ctypes.CDLL(None) if is_glibc else None


def forgets(clear: Callable[[], object]) -> None:
    """`give_back` calls clear: it empties a cache that is of use while sources are read alone."""
    FORGET.append(clear)


def give_back() -> None:
    """Empty such caches, and give the system what was freed, though glibc was told to keep it."""
    for clear in FORGET:
        clear()
    if (library := c_library()) is not None:
        library.malloc_trim(0)
