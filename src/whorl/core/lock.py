"""One writer per folder: a file lock that dies with its process, and a note of who holds it."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock, Timeout

from whorl.core.digests import write_bytes
from whorl.core.errors import BusyError

__all__ = ["exclusive"]

LOCK, HOLDER = "lock", "lock.holder.json"
HOLDER_TRIES, HOLDER_PAUSE_S = 40, 0.05  # a winner needs a moment to write who it is


@contextmanager
def exclusive(folder: Path, what: str) -> Iterator[None]:
    """Hold the folder's lock, or raise BusyError at once, naming the process that has it.

    The operating system frees the lock when its process ends, however it ends: a stale note of a
    dead holder is simply overwritten.
    """
    lock = FileLock(folder / LOCK, preserve_lock_file=True, fallback_to_soft=False)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise BusyError(
            f"another process is at work: {what} in {folder}",
            found=_describe(folder / HOLDER),
            do="wait for it or stop it; nothing was changed here",
        ) from error
    try:
        write_bytes(folder / HOLDER, json.dumps(_myself()).encode())
        yield
    finally:
        (folder / HOLDER).unlink(missing_ok=True)
        lock.release()


def _myself() -> dict[str, Any]:
    process = psutil.Process()
    return {"pid": os.getpid(), "host": socket.gethostname(), "started": process.create_time()}


def _describe(path: Path) -> str:
    """The holder in words. Waits up to two seconds for a new holder's note."""
    for _ in range(HOLDER_TRIES):
        try:
            holder = json.loads(path.read_bytes())
            if _is_alive(holder):
                begun = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(holder["started"]))
                return f"process {holder['pid']} on {holder['host']}, started {begun}"
        except (OSError, ValueError, KeyError, TypeError):
            pass  # not yet written, or being replaced
        time.sleep(HOLDER_PAUSE_S)
    return "a process that left no note"


def _is_alive(holder: dict[str, Any]) -> bool:
    if holder["host"] != socket.gethostname():
        return True  # on a shared disk: it cannot be looked up from here
    try:
        began = float(psutil.Process(holder["pid"]).create_time())
        return abs(began - float(holder["started"])) < 1.0
    except psutil.Error:
        return False
