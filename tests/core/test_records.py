"""Records: published whole or not at all, found again, verified before use."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from whorl.core.digests import write_sealed
from whorl.core.errors import MissingExtra, RecordError, ResourceError
from whorl.core.records import Record, RecordKey, RecordStore

KEY = RecordKey("prepare", {"seq_len": 8, "split": (1, 2)}, {"data": "abc"}, logic_version=3)
FILES = {"rows.json": b'{"a": 1}', "rows/train-00000.rows": b"\x01" * 5000, "tokens/empty": b""}


def write_record(
    store: RecordStore, key: RecordKey = KEY, files: Mapping[str, bytes] = FILES
) -> Record:
    with store.write(key) as writer:
        for name, data in files.items():
            path = writer.path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        writer.metrics["documents"] = 12
        writer.run["duration_s"] = 1.5
    record = store.find(key)
    assert record is not None
    return record


@pytest.fixture
def store(tmp_path: Path) -> RecordStore:
    return RecordStore(tmp_path / "home", "demo")


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


# ------------------------------------------------------------------ writing and finding


def test_a_record_comes_back_as_it_was_written(store: RecordStore) -> None:
    assert store.find(KEY) is None
    record = write_record(store)
    assert record.path == store.home / "demo" / "prepare" / KEY.digest
    assert {name: record.file(name).read_bytes() for name in record.files} == FILES
    assert record.config == {"seq_len": 8, "split": [1, 2]} and record.inputs == {"data": "abc"}
    assert record.metrics == {"documents": 12}
    assert record.run["duration_s"] == 1.5 and record.run["wall_s"] >= 0
    assert record.folder("rows") == record.path / "rows"
    assert os.listdir(record.path.parent) == [KEY.digest]


def test_equal_work_gives_equal_bytes(tmp_path: Path) -> None:
    first, second = (write_record(RecordStore(tmp_path / name, "demo")) for name in "ab")
    assert {**contents(first.path), "run.json": b""} == {**contents(second.path), "run.json": b""}


@pytest.mark.parametrize(
    "other",
    [
        RecordKey("train", KEY.config, KEY.inputs, 3),
        RecordKey("prepare", {**KEY.config, "seq_len": 9}, KEY.inputs, 3),
        RecordKey("prepare", KEY.config, {"data": "abd"}, 3),
        RecordKey("prepare", KEY.config, KEY.inputs, 4),
    ],
)
def test_any_difference_makes_another_record(store: RecordStore, other: RecordKey) -> None:
    write_record(store)
    assert other.digest != KEY.digest and store.find(other) is None


def test_keys_that_are_not_text_survive(store: RecordStore) -> None:
    key = RecordKey("plan", {"shares": {9: 0.5, 10: 0.5}})
    assert write_record(store, key).config == {"shares": {"9": 0.5, "10": 0.5}}


def test_names_that_are_not_utf8_survive(store: RecordStore) -> None:
    name = os.fsdecode(b"notes-\xff.txt")
    record = write_record(store, files={name: b"1"})
    assert record.file(name).read_bytes() == b"1"


def test_newest_is_by_time_and_passes_over_what_is_damaged(store: RecordStore) -> None:
    assert store.newest("prepare") is None
    records = [write_record(store, RecordKey("prepare", {"n": n})) for n in range(3)]
    for age, record in enumerate(records):
        os.utime(record.path / "manifest.json", ns=(0, 10**9 * (10 - age)))
    assert list(store.all("prepare")) == [record.path for record in reversed(records)]
    newest = store.newest("prepare")
    assert newest is not None and newest.path == records[0].path
    (records[0].path / "rows.json").write_bytes(b"{}")
    newest = store.newest("prepare")
    assert newest is not None and newest.path == records[1].path


def test_unfinished_work_is_no_record(store: RecordStore) -> None:
    record = write_record(store)
    run_folder = store.run_folder(KEY)
    (run_folder / "manifest.json").write_text("{}")
    half = record.path.with_name(f"{KEY.digest}.tmp-0a-1")
    half.mkdir()
    (half / "manifest.json").write_bytes((record.path / "manifest.json").read_bytes())
    assert list(store.all("prepare")) == [record.path]


# ------------------------------------------------------------------ errors while writing


def test_an_error_of_the_stage_publishes_nothing_and_passes_through(store: RecordStore) -> None:
    for error in (
        KeyError("x"),
        FileNotFoundError(errno.ENOENT, "No such file", "input.txt"),
        ConnectionRefusedError(errno.ECONNREFUSED, "refused"),
        PermissionError(errno.EACCES, "Permission denied", "/elsewhere/input.txt"),
        MissingExtra.of("torch", "train", "training"),
        KeyboardInterrupt(),
    ):
        with pytest.raises(type(error)) as caught, store.write(KEY) as writer:
            (writer.path / "x").write_bytes(b"1")
            raise error
        assert caught.value is error
        assert store.find(KEY) is None and os.listdir(store.folder("prepare")) == []


@pytest.mark.parametrize(
    "number", ["ENOSPC", "EDQUOT", "EROFS", "EACCES", "EIO", "EFBIG", "EMFILE"]
)
def test_an_error_of_the_disk_says_what_to_do(store: RecordStore, number: str) -> None:
    code = getattr(errno, number)
    with pytest.raises(ResourceError, match=r"bytes free.*WHORL_HOME"), store.write(KEY) as writer:
        raise OSError(code, os.strerror(code), str(writer.path / "x"))
    assert os.listdir(store.folder("prepare")) == []


def test_a_home_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    store = RecordStore(tmp_path / "file" / "home", "demo")
    with pytest.raises(ResourceError, match="cannot make"):
        store.run_folder(KEY)


def test_links_are_refused(store: RecordStore, tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="links"), store.write(KEY) as writer:
        (writer.path / "rows").symlink_to(tmp_path)
    assert store.find(KEY) is None


def test_a_full_disk(tmp_path: Path) -> None:
    """On a real small disk where we may mount one: the old record stays, the error names bytes."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("mounting a small disk is not allowed here")
    try:
        store = RecordStore(disk / "home", "demo")
        old = write_record(store)
        for attempt in range(4):
            key = RecordKey("prepare", {"attempt": attempt})
            with pytest.raises(ResourceError, match=r"No space left.*bytes free"):
                write_record(store, key, {"big": bytes(1_200_000 + attempt)})
        old.verify()
        assert os.listdir(old.path.parent) == [old.digest]
        write_record(store, RecordKey("prepare", {"n": 1}), {"fits": bytes(500_000)})
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


@pytest.mark.parametrize("at", range(12))
def test_a_disk_that_fails_at_any_sync(
    store: RecordStore, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    left = at
    fsync = os.fsync

    def failing(descriptor: int) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(errno.EIO, "Input/output error")
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing)
        try:
            with store.write(KEY) as writer:
                (writer.path / "a").mkdir()
                (writer.path / "a" / "x").write_bytes(b"1")
        except ResourceError as error:
            assert "Input/output error" in str(error)
    found = store.find(KEY)  # raises if what was published is not whole
    assert found is None or dict(found.files).keys() == {"a/x"}
    assert [name for name in os.listdir(store.folder("prepare")) if name != KEY.digest] == []


# ------------------------------------------------------------------ the manifest


def test_a_manifest_cannot_lead_out_of_its_folder(store: RecordStore) -> None:
    record = write_record(store)
    for name in ("../../../secret", "/etc/passwd", "a/../../x", "./rows.json", "rows//x"):
        value: dict[str, Any] = {
            "stage": "prepare",
            "schema_version": 1,
            "logic_version": 3,
            "config": KEY.config,
            "inputs": KEY.inputs,
            "files": {name: {"size_bytes": 1, "blake3": "x", "chunks": []}},
            "metrics": {},
        }
        write_sealed(record.path / "manifest.json", value)
        with pytest.raises(RecordError, match="file name"):
            Record.load(record.path)


def test_a_record_of_another_schema_says_so(store: RecordStore) -> None:
    record = write_record(store)
    write_sealed(record.path / "manifest.json", {"schema_version": 99})
    with pytest.raises(RecordError, match="another version of whorl"):
        store.find(KEY)


def test_what_is_not_listed_has_no_path(store: RecordStore) -> None:
    record = write_record(store)
    with pytest.raises(RecordError, match="no file other"):
        record.file("other")
    with pytest.raises(RecordError, match="no folder other"):
        record.folder("other")
