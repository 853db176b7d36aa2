"""What a server writes down in its home: a folder of its owner's alone, files of whole lines.

Several servers may write to one file, and any of them may be killed in the middle of a line or find
the disk full there: a lock of the file keeps them apart, what was written of a line that has no
room is taken back, and half a line that a process left is ended before the next begins.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from pathlib import Path

from whorl.core.disk import disk_error, make_folder
from whorl.core.lock import NO_LOCKS_ERRNOS

__all__ = ["append_line", "own_folder"]

OWNERS = 0o700


def own_folder(folder: Path) -> None:
    """Makes it if it is missing; nobody but its owner looks into it. Raises ResourceError."""
    make_folder(folder.parent)
    with contextlib.suppress(OSError):  # there already, or make_folder says why not
        folder.mkdir(OWNERS)
    make_folder(folder)
    try:
        if folder.stat().st_mode & 0o077:
            folder.chmod(OWNERS)
    except OSError as error:
        raise disk_error(error, folder) from error


def append_line(
    path: Path, data: bytes, most_bytes: int, num_kept: int = 0, sync: bool = False
) -> None:
    """One more line, whole or not at all. data: without its end.

    A file that would come to more than most_bytes becomes `<name>.1`, that one `<name>.2`, and so
    on; of them the newest num_kept stay. With num_kept 0 nothing more is taken. sync: it is on the
    disk when this returns. Raises OSError: ENOSPC where it has no room.
    """
    # opened for each line: whoever moves the file away needs to tell nobody
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            _lock(descriptor)
            if not _is_still(descriptor, path):
                continue  # another process has moved it away
            size = os.fstat(descriptor).st_size
            if size and size + len(data) + 1 > most_bytes:
                if not num_kept:
                    raise OSError(errno.ENOSPC, f"it holds {size:,} bytes already", str(path))
                _move_away(path, num_kept)
                continue
            torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
            _write(descriptor, b"\n" * torn + data + b"\n", size)
            if sync:
                os.fsync(descriptor)
            return
        finally:
            os.close(descriptor)


def _lock(descriptor: int) -> None:
    """Until it is closed. On a disk without locks lines are only as whole as its writes."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in NO_LOCKS_ERRNOS:
            raise


def _is_still(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _move_away(path: Path, num_kept: int) -> None:
    """Called with the lock of the file held."""
    for number in range(num_kept - 1, 0, -1):
        with contextlib.suppress(FileNotFoundError):
            os.replace(f"{path}.{number}", f"{path}.{number + 1}")
    os.replace(path, f"{path}.1")


def _write(descriptor: int, data: bytes, size: int) -> None:
    """Takes back what was written where not all of it has room."""
    try:
        if os.write(descriptor, data) < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError:
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, size)
        raise
