"""One writer per folder: a file lock that dies with its process, and a note of who holds it."""

from __future__ import annotations

import errno
import fcntl
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
from whorl.core.disk import DISK_ERRNOS, disk_error
from whorl.core.errors import BusyError

__all__ = ["NO_LOCKS_ERRNOS", "exclusive", "is_held"]

LOCK, HOLDER = "lock", "lock.holder.json"
HOLDER_TRIES, HOLDER_PAUSE_S = 40, 0.05  # a winner needs a moment to write who it is
# What a disk without locks answers; there the note alone says who is at work.
NO_LOCKS_ERRNOS = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EINVAL)


@contextmanager
def exclusive(folder: Path, what: str) -> Iterator[None]:
    """Hold the folder's lock, or raise BusyError at once, naming the process that has it.

    The operating system frees the lock when its process ends, however it ends: a stale note of a
    dead holder is simply overwritten. On a disk without locks a living holder's note is the lock.

    Raises ResourceError if the lock cannot be written.
    """
    lock = FileLock(folder / LOCK, preserve_lock_file=True, fallback_to_soft=False)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise _busy(folder, what, _describe(folder / HOLDER)) from error
    except OSError as error:
        if error.errno in NO_LOCKS_ERRNOS:
            if (found := _living_holder(folder / HOLDER)) is not None:
                raise _busy(folder, what, found) from error
        elif error.errno in DISK_ERRNOS:
            raise disk_error(error, folder / LOCK) from error
        else:
            raise
    try:
        write_bytes(folder / HOLDER, json.dumps(_myself()).encode())
        yield
    finally:
        (folder / HOLDER).unlink(missing_ok=True)
        lock.release()


def is_held(folder: Path) -> bool:
    """Whether a process holds the folder's lock, or may hold it; nothing is written."""
    try:
        descriptor = os.open(folder / LOCK, os.O_RDONLY)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in NO_LOCKS_ERRNOS or _living_holder(folder / HOLDER) is not None
    finally:
        os.close(descriptor)
    return False


def _busy(folder: Path, what: str, found: str) -> BusyError:
    return BusyError(
        f"another process is at work: {what} in {folder}",
        found=found,
        do="wait for it or stop it; nothing was changed here",
    )


def _myself() -> dict[str, Any]:
    process = psutil.Process()
    return {"pid": os.getpid(), "host": socket.gethostname(), "started": process.create_time()}


def _describe(path: Path) -> str:
    """The holder in words. Waits up to two seconds for a new holder's note."""
    for _ in range(HOLDER_TRIES):
        if (found := _living_holder(path)) is not None:
            return found
        time.sleep(HOLDER_PAUSE_S)  # not yet written, or being replaced
    return "a process that left no note"


def _living_holder(path: Path) -> str | None:
    """The holder in words; None if its note is not there, or it is no more."""
    try:
        holder = json.loads(path.read_bytes())
        if not _is_alive(holder):
            return None
        begun = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(holder["started"]))
        return f"process {holder['pid']} on {holder['host']}, started {begun}"
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _is_alive(holder: dict[str, Any]) -> bool:
    if holder["host"] != socket.gethostname():
        return True  # on a shared disk: it cannot be looked up from here
    try:
        began = float(psutil.Process(holder["pid"]).create_time())
        return abs(began - float(holder["started"])) < 1.0
    except psutil.Error:
        return False
