"""What a disk answers, in words: full, read-only, another user's, gone; and whether it can be
written, before anyone works for nothing."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import tempfile
from pathlib import Path

from whorl.core.errors import ResourceError

__all__ = ["DISK_ERRNOS", "check_writable", "disk_error", "fsync_folder", "make_folder"]

NO_ROOM_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
DENIED_ERRNOS = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
# What a disk that is full, read-only, forbidden, broken or no longer mounted answers; anything
# else is a defect.
DISK_ERRNOS = frozenset(
    {
        *NO_ROOM_ERRNOS,
        *DENIED_ERRNOS,
        *(errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENAMETOOLONG),
        *(errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT, errno.ENODEV, errno.ENOLCK),
    }
)
# What some network disks answer where a folder cannot be synced: the files in it were.
NO_SYNC_ERRNOS = frozenset({errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF, errno.EACCES})
PROBE_BYTES = 4096


def disk_error(error: OSError, path: Path, needed_bytes: int | None = None) -> ResourceError:
    """A ResourceError that says how much room there is and, where a right is missing, who owns it.

    path: what was being written, where the error does not say; needed_bytes: its size, if known.
    """
    name = error.filename
    where = Path(os.fsdecode(name)) if isinstance(name, str | bytes) and name else path
    return ResourceError(
        f"cannot write {where}",
        found=f"{error.strerror} ({_state_of(where, error.errno in DENIED_ERRNOS)})",
        expected=f"{needed_bytes:,} bytes of room"
        if needed_bytes is not None and error.errno in NO_ROOM_ERRNOS
        else None,
        do="have its owner allow it, or set WHORL_HOME to a folder of yours"
        if error.errno in DENIED_ERRNOS
        else "free some space or set WHORL_HOME to another disk",
    )


def check_writable(folder: Path) -> None:
    """Makes the folder if it is missing, and a file in it that is gone at once.

    Raises ResourceError naming the path, its owner and who asks.
    """
    make_folder(folder)
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".probe-") as file:
            file.write(bytes(PROBE_BYTES))
            file.flush()
    except OSError as error:
        raise disk_error(OSError(error.errno, error.strerror), folder) from error


def make_folder(folder: Path) -> None:
    """Makes the folder, and those above it, if they are missing. Raises ResourceError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise ResourceError(
            f"cannot make {folder}", found="a file in its way", do="move it, or set WHORL_HOME"
        ) from error
    except OSError as error:
        raise disk_error(error, folder) from error


def fsync_folder(path: Path) -> None:
    """Has a folder's entries on disk; where its file system cannot, nothing is done."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in NO_SYNC_ERRNOS:
            raise
    finally:
        os.close(descriptor)


def _state_of(path: Path, with_owner: bool) -> str:
    """Room at the nearest folder that can be seen; and whose it is."""
    for place in (path, *path.absolute().parents):
        with contextlib.suppress(OSError):
            facts = place.stat()
            said = f"{shutil.disk_usage(place).free:,} bytes free"
            if with_owner:
                mode = stat.filemode(facts.st_mode)
                said += f"; {place} is {mode}, of {_user(facts.st_uid)}, not {_user(os.geteuid())}"
            return said
    return "nothing is known of the disk"


def _user(number: int) -> str:
    """Name of a user; containers' users have none."""
    import pwd

    try:
        return f"{pwd.getpwuid(number).pw_name} ({number})"
    except KeyError:
        return f"user {number}"
