"""ls, verify and gc: only what whorl wrote is listed, checked and deleted."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.core.test_clutter import CLUTTER
from tests.core.test_home import put
from whorl.cli.main import build_app
from whorl.core.errors import RecordError
from whorl.core.lock import exclusive
from whorl.core.records import Record, RecordKey, RecordStore


def whorl(home: Path, *arguments: str, code: int = 0) -> Any:
    done = CliRunner().invoke(build_app(), [*arguments, "--home", str(home), "--json"])
    assert (done.exit_code if code == 0 else 5) == code, done.output
    return json.loads(done.stdout)


def make_records(home: Path, count: int) -> list[Record]:
    store, records = RecordStore(home, "demo"), []
    for number in range(count):
        key = RecordKey("prepare", {"n": number})
        with store.write(key) as writer:
            put(writer.path / "rows" / "a")
        store.run_folder(key)
        put(store.run_path(key) / "checkpoints" / "x")
        records.append(store.published(key))
    return records


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def test_gc_deletes_what_whorl_wrote_and_nothing_else(home: Path) -> None:
    records = make_records(home, 3)
    mine = [
        put(home / "notes.txt"),
        put(home / "my folder" / "prepare" / "x" / "manifest.json"),
        put(home / "my folder" / "prepare" / "x.run" / "x"),
        put(home / "my folder" / "prepare" / "x.tmp-1" / "x"),
        put(home / "demo" / "own" / "x"),
        put(home / "demo" / "prepare" / "data.run" / "x"),
        put(records[0].path / "notes.txt"),
        put(records[1].path.with_suffix(".run") / "notes.txt"),
        *(put(home / "demo" / "prepare" / name) for name in CLUTTER),
        *(put(records[1].path / "rows" / name) for name in CLUTTER),
    ]
    listed = whorl(home, "gc")
    assert all(record.path.exists() for record in records), "it only lists"
    assert not any("my folder" in path for path in listed["folders"])
    named = " ".join(listed["foreign"])
    for path in mine[:7]:
        assert str(path) in named or str(path.parent) in named or "my folder" in named, path
    whorl(home, "gc", "--yes")
    assert all(path.read_text() == "mine" for path in mine)
    assert [row["digest"] for row in whorl(home, "ls")] == [records[2].digest]
    assert not (records[0].path / "rows").exists()
    records[2].verify()
    assert not any(path.is_file() for path in home.glob("demo/prepare/*.run/checkpoints/*"))


def test_gc_leaves_a_run_folder_that_is_held(home: Path) -> None:
    (record,) = make_records(home, 1)
    folder = record.path.with_suffix(".run")
    with exclusive(folder, "training"):
        assert whorl(home, "gc", "--yes")["folders"] == {}
    assert list(whorl(home, "gc", "--yes")["folders"]) == [str(folder)]
    assert not folder.exists() and record.path.exists()


def test_gc_deletes_no_record_whose_manifest_is_damaged(home: Path) -> None:
    records = make_records(home, 2)
    (records[0].path / "manifest.json").write_text("{}")  # which makes it the newest, too
    done = CliRunner().invoke(build_app(), ["gc", "--yes", "--home", str(home)])
    assert isinstance(done.exception, RecordError), "what it was made from is not known"
    os.utime(records[0].path / "manifest.json", ns=(0, 0))
    whorl(home, "gc", "--yes")
    assert all((record.path / "rows" / "a").exists() for record in records)


def test_listing_writes_nothing(home: Path) -> None:
    make_records(home, 2)
    before = sorted(home.rglob("*"))
    for command in ("ls", "gc", "verify", "models"):
        whorl(home, command)
    assert sorted(home.rglob("*")) == before


def test_verify_passes_over_clutter_and_names_the_rest(home: Path) -> None:
    (record,) = make_records(home, 1)
    for name in CLUTTER:
        put(record.path / name)
    mine = put(home / "demo" / "notes.txt")
    assert whorl(home, "verify") == {"good": 1, "damaged": [], "foreign": [str(mine)]}
    (record.path / "rows" / "a").write_text("other")
    found = whorl(home, "verify", code=5)
    assert found["good"] == 0 and len(found["damaged"]) == 1
