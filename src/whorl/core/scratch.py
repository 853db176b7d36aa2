"""Temporary folders that tell whether their writer still lives.

A writer holds a lock on the folder itself; the system drops it when the process ends, however it
ends. That holds across containers, and neither a reused process id nor the clock can mislead.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
from pathlib import Path

__all__ = ["hold", "hold_scratch", "is_abandoned", "remove_held"]

_HELD: set[Path] = set()  # what this process would leave behind if it ended now


def hold(folder: Path) -> Path:
    """The folder: `remove_held` removes it, if whoever fills it did not."""
    _HELD.add(folder)
    return folder


def remove_held() -> None:
    """Remove what this process fills: it is about to end without unwinding."""
    for folder in list(_HELD):
        shutil.rmtree(folder, ignore_errors=True)


def hold_scratch(final: Path) -> tuple[Path, int]:
    """(a new folder <final>.tmp-…, the descriptor whose lock says that its writer lives)."""
    while True:
        path = final.with_name(f"{final.name}.tmp-{secrets.token_hex(4)}-{os.getpid()}")
        path.mkdir(parents=True)
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except FileNotFoundError:  # swept between mkdir and here
            continue
        with contextlib.suppress(OSError):  # a file system without locks: nobody sweeps there
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if path.exists():
            return hold(path), descriptor
        os.close(descriptor)


def is_abandoned(path: Path, *, remove: bool = False) -> bool:
    """Whether no living process holds a folder of `hold_scratch`; removes it then, if asked."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if remove:  # under the lock, so that a writer that comes now makes another
            shutil.rmtree(path, ignore_errors=True)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True
