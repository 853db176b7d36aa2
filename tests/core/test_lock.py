"""The lock of a folder: one holder, named to the others, freed when its process dies."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from whorl.core.errors import BusyError, ResourceError
from whorl.core.lock import exclusive, is_held

HOLD = """
import sys, time
from pathlib import Path
from whorl.core.lock import exclusive
with exclusive(Path(sys.argv[1]), "holding"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def test_second_holder_is_told_who_has_it(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    with holder:
        expected = f"process {holder.pid} on "
        with pytest.raises(BusyError, match=expected) as caught, exclusive(tmp_path, "training"):
            pass
        assert "training" in caught.value.what and caught.value.exit_code == 6
        holder.kill()


def test_lock_of_a_killed_process_is_free(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    with holder:
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
        assert json.loads((tmp_path / "lock.holder.json").read_bytes())["pid"] == holder.pid
        with exclusive(tmp_path, "training"):
            note = json.loads((tmp_path / "lock.holder.json").read_bytes())
            assert note["pid"] == os.getpid()
    assert not (tmp_path / "lock.holder.json").exists()


def test_lock_can_be_taken_again_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), exclusive(tmp_path, "training"):
        _ = 1 / 0
    with exclusive(tmp_path, "training"), pytest.raises(BusyError), exclusive(tmp_path, "again"):
        pass


@pytest.mark.parametrize("number", ["ENOLCK", "ENOSYS", "ENOTSUP"])
def test_without_locks_a_living_holders_note_is_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: str
) -> None:
    def no_locks(descriptor: int, operation: int) -> None:
        raise OSError(getattr(errno, number), "no locks here")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with exclusive(tmp_path, "training"):
        assert is_held(tmp_path)
        with pytest.raises(BusyError, match=str(os.getpid())), exclusive(tmp_path, "again"):
            pass
    assert not is_held(tmp_path)
    dead = {"pid": os.getpid(), "host": socket.gethostname(), "started": 1.0}
    (tmp_path / "lock.holder.json").write_text(json.dumps(dead))
    with exclusive(tmp_path, "training"):
        pass


def test_looking_whether_a_lock_is_held_writes_nothing(tmp_path: Path) -> None:
    assert not is_held(tmp_path) and os.listdir(tmp_path) == []
    with exclusive(tmp_path, "training"):
        assert is_held(tmp_path)
    assert not is_held(tmp_path)


def test_a_lock_that_cannot_be_written_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(descriptor: int, operation: int) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(fcntl, "flock", refused)
    with pytest.raises(ResourceError, match="Read-only"), exclusive(tmp_path, "training"):
        pass
