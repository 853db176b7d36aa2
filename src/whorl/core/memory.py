"""Peak resident memory of this process, since it began or since it was last asked to start anew."""

from __future__ import annotations

import contextlib
import re
import resource
from pathlib import Path

__all__ = ["peak_resident_bytes", "restart_peak"]

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
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
