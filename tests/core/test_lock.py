"""The lock of a folder: one holder, named to the others, freed when its process dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from whorl.core.errors import BusyError
from whorl.core.lock import exclusive

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
