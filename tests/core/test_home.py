"""Where the home is; what in it is not whorl's is named, never a record, never deleted."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.core.test_clutter import CLUTTER
from tests.core.test_records import KEY, write_record
from whorl.core.errors import RecordError, SpecError
from whorl.core.home import home_folder, strangers
from whorl.core.records import Record, RecordKey, RecordStore
from whorl.core.removal import remove_record, remove_run_folder

STAGES = ("prepare", "train")


def test_a_tilde_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WHORL_HOME", "~/whorl")
    assert home_folder() == tmp_path / "whorl"
    assert home_folder(Path("~/other")) == tmp_path / "other"
    monkeypatch.setenv("WHORL_HOME", "~nobody-of-that-name/whorl")
    with pytest.raises(SpecError, match="nobody-of-that-name"):
        home_folder()
    monkeypatch.delenv("WHORL_HOME")
    assert home_folder() == Path("runs")


@pytest.mark.parametrize("kind", ["file", "link"])
def test_a_home_that_is_no_folder(tmp_path: Path, kind: str) -> None:
    home = tmp_path / "home"
    if kind == "file":
        home.write_text("mine")
    else:
        home.symlink_to(tmp_path / "nowhere")
    with pytest.raises(SpecError, match="is no folder"):
        home_folder(home)


@pytest.fixture
def store(tmp_path: Path) -> RecordStore:
    return RecordStore(tmp_path / "home", "demo")


def put(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("mine")
    return path


def test_what_is_not_whorls_is_named(store: RecordStore) -> None:
    record, home = write_record(store), store.home
    store.run_folder(KEY)
    for name in ("models/demo/v0001.json", "sources/index/x", "machine/calibration.json"):
        put(home / name)
    assert list(strangers(home, STAGES)) == []
    mine = [
        put(home / "demo" / "notes.txt"),
        put(home / "demo" / "prepare" / "dataset" / "manifest.json").parent,
        put(record.path / "rows" / "notes.txt"),
        put(home / "my folder" / "x").parent,
        put(home / "notes.txt"),
    ]
    for name in CLUTTER:
        put(home / name)
        put(home / "demo" / name)
        put(record.path / "rows" / name)
    assert sorted(strangers(home, STAGES)) == sorted(mine)
    assert list(store.all("prepare")) == [record.path]


@pytest.mark.parametrize("name", CLUTTER)
def test_clutter_in_a_record_is_passed_over(store: RecordStore, name: str) -> None:
    record = write_record(store)
    put(record.path / name)
    put(record.path / "rows" / name)
    assert store.find(KEY) == record and record.folder("rows").is_dir()


def test_clutter_that_comes_while_a_record_is_written_is_no_part_of_it(store: RecordStore) -> None:
    with store.write(KEY) as writer:
        (writer.path / "rows.json").write_bytes(b"1")
        (writer.path / ".DS_Store").write_bytes(b"1")
    found = store.find(KEY)
    assert found is not None and list(found.files) == ["rows.json"]
    (found.path / ".DS_Store").unlink()
    found.verify()


def test_a_record_is_deleted_whole(store: RecordStore) -> None:
    record = write_record(store)
    assert remove_record(record) == []
    assert list(store.folder("prepare").iterdir()) == []


@pytest.mark.parametrize("name", ["notes.txt", ".DS_Store", "rows/.nfs01", "rows/deep/er/x"])
def test_what_lies_in_a_deleted_record_stays(store: RecordStore, name: str) -> None:
    record = write_record(store)
    mine = put(record.path / name)
    assert remove_record(record) == [mine] and mine.read_text() == "mine"
    assert [path for path in record.path.rglob("*") if path.is_file()] == [mine]
    assert store.find(KEY) is None and list(store.all("prepare")) == []
    again = write_record(store)
    again.verify()
    (aside,) = (path for path in store.folder("prepare").iterdir() if path != again.path)
    assert (aside / name).read_text() == "mine"


def test_what_lies_in_a_run_folder_stays(store: RecordStore) -> None:
    folder = store.run_folder(KEY)
    for name in ("checkpoints/step-000001/state.json", "lock", "metrics.jsonl", "loss.png"):
        put(folder / name)
    mine = put(folder / "notes" / "x.txt")
    assert remove_run_folder(folder) == [mine]
    shutil.rmtree(mine.parent)
    assert remove_run_folder(folder) == [] and not folder.exists()


def test_folders_that_only_look_like_left_overs_are_not_ours(store: RecordStore) -> None:
    write_record(store)
    mine = put(store.folder("prepare") / "data.tmp-backup" / "x").parent
    assert store.leftovers("prepare") == [] and list(strangers(store.home, STAGES)) == [mine]


def test_a_manifest_of_somebody_elses_is_no_record(store: RecordStore) -> None:
    key = RecordKey("prepare", {"n": 1})
    put(store.folder("prepare") / key.digest / "manifest.json")
    with pytest.raises(RecordError):
        Record.load(store.folder("prepare") / key.digest)
