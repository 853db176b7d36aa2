"""Damage of every kind to every file of a record is found before use (200 flips, 60 mutations)."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.core.test_records import FILES, KEY, write_record
from whorl.core.digests import CHUNK_BYTES
from whorl.core.errors import RecordError
from whorl.core.records import Record, RecordKey, RecordStore

BIG = "rows/train-00001.rows"  # three chunks
OTHER = RecordKey("prepare", {"seq_len": 16}, {"data": "abc"}, logic_version=3)
SEALED = ("manifest.json", "run.json")
KINDS = [*SEALED, *FILES]


@pytest.fixture
def record(tmp_path: Path) -> Record:
    store = RecordStore(tmp_path / "home", "demo")
    other_files = {name: data + b"x" for name, data in FILES.items()}
    write_record(store, OTHER, other_files)
    return write_record(store)


def assert_found(record: Record, name: str) -> None:
    """The damage is named when the record is looked up, and when the file is asked for."""
    store = RecordStore(record.path.parents[2], "demo")
    with pytest.raises(RecordError) as caught:
        store.find(KEY)
    assert name in str(caught.value), (name, str(caught.value))
    newest = store.newest("prepare")
    assert newest is not None and newest.digest == OTHER.digest
    if name in record.files and "not part of it" not in str(caught.value):
        with pytest.raises(RecordError, match=r"is (damaged|missing)"):
            record.file(name)


def flip(path: Path, bit: int) -> None:
    with path.open("r+b") as file:
        file.seek(bit // 8)
        byte = file.read(1)[0]
        file.seek(bit // 8)
        file.write(bytes([byte ^ 1 << bit % 8]))


def test_one_flipped_bit_anywhere_is_found(record: Record, trials: Callable[[int], int]) -> None:
    """A bit drawn uniformly over all bytes of all files, every file at least some times."""
    rng = random.Random(7)
    names = [name for name in KINDS if (record.path / name).stat().st_size]
    sizes = [(record.path / name).stat().st_size for name in names]
    for trial in range(trials(200)):
        name = names[trial] if trial < len(names) else rng.choices(names, sizes)[0]
        path = record.path / name
        bit = rng.randrange(8 * path.stat().st_size)
        flip(path, bit)
        assert_found(record, name)
        flip(path, bit)
    record.verify()


@pytest.mark.parametrize("name", SEALED)
def test_every_byte_of_the_sealed_files_counts(record: Record, name: str) -> None:
    path = record.path / name
    whole = path.read_bytes()
    rng = random.Random(11)
    for at in range(len(whole)):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        with pytest.raises(RecordError):
            Record.load(record.path).verify()
    path.write_bytes(whole)
    record.verify()


@pytest.mark.parametrize("chunk", [0, 1, 2])
def test_the_damaged_chunk_is_named(tmp_path: Path, chunk: int) -> None:
    store = RecordStore(tmp_path / "home", "demo")
    data = random.Random(3).randbytes(2 * CHUNK_BYTES + 17)
    record = write_record(store, files={BIG: data})
    flip(record.path / BIG, 8 * chunk * CHUNK_BYTES + 5)
    with pytest.raises(RecordError, match=rf"{BIG} is damaged in chunk {chunk} "):
        record.file(BIG)


def truncate(path: Path, other: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path, other: Path) -> None:
    path.write_bytes(b"")


def remove(path: Path, other: Path) -> None:
    path.unlink()


def lengthen(path: Path, other: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\x00")


def swap(path: Path, other: Path) -> None:
    """The same file of another record."""
    path.write_bytes(other.read_bytes())


def make_folder(path: Path, other: Path) -> None:
    path.unlink()
    path.mkdir()


def scramble(path: Path, other: Path) -> None:
    path.write_bytes(random.Random(1).randbytes(path.stat().st_size + 1))


def link_elsewhere(path: Path, other: Path) -> None:
    path.unlink()
    path.symlink_to(other)


def duplicate(path: Path, other: Path) -> None:
    shutil.copy(path, path.with_name(f"{path.name}.copy"))


MUTATIONS = [
    truncate, empty, remove, lengthen, swap, make_folder, scramble, link_elsewhere, duplicate
]  # fmt: skip


@pytest.mark.parametrize("mutate", MUTATIONS)
@pytest.mark.parametrize("name", KINDS)
def test_mutations_are_found(
    record: Record, name: str, mutate: Callable[[Path, Path], None]
) -> None:
    path = record.path / name
    if path.stat().st_size == 0 and mutate in (truncate, empty):
        pytest.skip("an empty file cannot be emptied")
    mutate(path, record.path.with_name(OTHER.digest) / name)
    store = RecordStore(record.path.parents[2], "demo")
    if name == "manifest.json" and mutate is remove:  # not a record any more: made again
        assert store.find(KEY) is None
        assert write_record(store).files.keys() == FILES.keys()
        return
    assert_found(record, name.rpartition("/")[2] if name != "manifest.json" else record.digest)


def test_swapped_folders_are_found(record: Record) -> None:
    other = record.path.with_name(OTHER.digest)
    spare = record.path.with_name("spare")
    record.path.rename(spare)
    other.rename(record.path)
    spare.rename(other)
    store = RecordStore(record.path.parents[2], "demo")
    for key in (KEY, OTHER):
        with pytest.raises(RecordError, match="holds another record"):
            store.find(key)
    assert store.newest("prepare") is None


def test_a_record_under_another_stage_is_found(record: Record) -> None:
    moved = record.path.parents[1] / "train" / record.digest
    shutil.copytree(record.path, moved)
    with pytest.raises(RecordError, match="holds another record"):
        Record.load(moved)


@pytest.mark.parametrize("name", ["rows/extra.rows", "extra", "rows/deep/er/x", ".hidden"])
def test_extra_files_are_found(record: Record, name: str) -> None:
    path = record.path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    with pytest.raises(RecordError, match="not part of it"):
        record.verify()
    if name.startswith("rows/"):
        with pytest.raises(RecordError, match="not part of it"):
            record.folder("rows")


def test_a_linked_folder_is_found(record: Record, tmp_path: Path) -> None:
    (record.path / "rows" / "link").symlink_to(tmp_path)
    with pytest.raises(RecordError, match="not part of it"):
        record.verify()
