"""A writer killed at any system call, and writers at once: one whole record or none, no remains."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

from tests.core.test_records import FILES, KEY, write_record
from whorl.core.records import RecordStore
from whorl.core.scratch import hold_scratch, is_abandoned

# Forks one child per system call of a write; the child dies just before its n-th call.
KILL_SWEEP = """
import os, pathlib, sys
from tests.core.test_records import KEY, FILES, write_record
from whorl.core.records import RecordStore

home = pathlib.Path(sys.argv[1])
CALLS = ("mkdir", "fsync", "replace", "rename", "open", "rmdir")

def child(home, die_at):
    count = 0
    def dying(call):
        def run(*args, **options):
            nonlocal count
            count += 1
            if count == die_at:
                os._exit(9)
            return call(*args, **options)
        return run
    for name in CALLS:
        setattr(os, name, dying(getattr(os, name)))
    write_record(RecordStore(home, "demo"))
    os._exit(0)

for die_at in range(1, 200):
    pid = os.fork()
    if pid == 0:
        child(home / str(die_at), die_at)
    status = os.waitpid(pid, 0)[1]
    store = RecordStore(home / str(die_at), "demo")
    found = store.find(KEY)  # raises if what is there is not whole
    again = write_record(store) if found is None else found
    assert again.files.keys() == FILES.keys()
    if found is None:
        assert os.listdir(again.path.parent) == [KEY.digest], os.listdir(again.path.parent)
    if status == 0:
        print(die_at)
        break
"""

RACE = """
import pathlib, sys, time
from tests.core.test_records import write_record
from whorl.core.records import RecordStore
home, start = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
print("ready", flush=True)
while not start.exists():
    time.sleep(0.001)
record = write_record(RecordStore(home, "demo"))
record.verify()
print(record.digest)
"""

ROOT = Path(__file__).resolve().parents[2]


def python(code: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def test_killed_before_every_system_call(tmp_path: Path) -> None:
    process = python(KILL_SWEEP, tmp_path)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert int(output) > 15, "the sweep must reach every call of a write"


def test_writers_of_one_key_at_once(tmp_path: Path) -> None:
    start = tmp_path / "start"
    processes = [python(RACE, tmp_path / "home", start) for _ in range(4)]
    for process in processes:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    start.touch()
    for process in processes:
        output, errors = process.communicate(timeout=60)
        assert process.returncode == 0 and output.strip() == KEY.digest, errors
    store = RecordStore(tmp_path / "home", "demo")
    record = store.find(KEY)
    assert record is not None and record.files.keys() == FILES.keys()
    assert os.listdir(record.path.parent) == [KEY.digest]


def test_nested_writers_of_one_key_in_one_process(tmp_path: Path) -> None:
    store = RecordStore(tmp_path / "home", "demo")
    with store.write(KEY) as outer:
        (outer.path / "rows.json").write_bytes(b"outer")
        inner = write_record(store)
        assert (outer.path / "rows.json").exists(), "the sweep took a folder that is in use"
    record = store.find(KEY)
    assert record is not None and record.files == inner.files
    assert os.listdir(record.path.parent) == [KEY.digest]


def test_remains_are_swept_and_work_in_progress_is_not(tmp_path: Path) -> None:
    store = RecordStore(tmp_path / "home", "demo")
    final = store.folder("prepare") / KEY.digest
    remains, descriptor = hold_scratch(final)
    os.close(descriptor)  # as when its process ended
    (remains / "half").write_bytes(b"1")
    in_progress, held = hold_scratch(final)
    assert store.leftovers("prepare") == [remains]
    write_record(store)
    assert not remains.exists() and in_progress.exists()
    assert not is_abandoned(in_progress)
    os.close(held)
    assert is_abandoned(in_progress, remove=True) and not in_progress.exists()
    assert not is_abandoned(in_progress)


def test_remains_of_a_record_without_manifest_are_replaced(tmp_path: Path) -> None:
    store = RecordStore(tmp_path / "home", "demo")
    record = write_record(store)
    (record.path / "manifest.json").unlink()
    (record.path / "stale").write_bytes(b"1")
    assert store.find(KEY) is None
    assert write_record(store).files.keys() == FILES.keys()
    assert not (record.path / "stale").exists()
