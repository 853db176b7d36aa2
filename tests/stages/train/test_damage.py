"""Bits flipped, files cut, swapped, added: found before anything is used.

One home holds a prepared record, a run stopped with two checkpoints, and a finished record.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.stages.train.work import config, make_prepared, tiny_shape, train
from whorl.core.errors import Interrupted, RecordError
from whorl.core.records import Record, RecordStore
from whorl.model.hf import load_model_folder
from whorl.stages.train.checkpoints.local import LocalCheckpoints
from whorl.stages.train.run import train_key

STOPPED = {"seed": 7}  # settings of the run that was stopped after 6 steps
SEALED = ("manifest.json", "state.json", "run.json", "whorl.json")  # one chunk: named by file
KINDS = ("checkpoint", "shard", "export")


class PressCtrlC:
    """A progress bar that presses Ctrl-C while a step is reported; one step later it stops."""

    def __init__(self, step: int, times: int = 1) -> None:
        self.left, self.times = step, times

    def start(self, label: str, total: float | None, unit: str = "") -> None: ...

    def advance(self, amount: float = 1.0, note: str = "") -> None:
        self.left -= 1
        for _ in range(self.times if self.left == 0 else 0):
            os.kill(os.getpid(), signal.SIGINT)

    def finish(self, note: str = "") -> None: ...


def check_resumed_is_whole(
    folder: Path, prepared: Record, settings: Mapping[str, Any], after: int
) -> None:
    """Stopped after some steps and run again: the bytes of a training that was not stopped."""
    whole = train(folder / "whole", prepared, settings)
    with pytest.raises(Interrupted):
        train(folder / "cut", prepared, settings, progress=PressCtrlC(after))
    lines: list[str] = []
    record = train(folder / "cut", prepared, settings, log=lines.append)
    assert any(line.startswith("resumed at step") for line in lines)
    assert record.files == whole.files


@dataclass(frozen=True)
class Place:
    """Three kinds of folders, and how each is opened before it is used."""

    prepared: Record
    trained: Record
    work_digest: str
    checkpoints: Path  # of the stopped run: after 4 and 6 steps

    def folder(self, kind: str) -> Path:
        """Of checkpoints, the newest."""
        records = {"shard": self.prepared.path, "export": self.trained.path}
        return records[kind] if kind in records else self.checkpoints / "step-000006"

    def files(self, kind: str) -> list[Path]:
        return sorted(path for path in self.folder(kind).rglob("*") if path.is_file())

    def refusal(self, kind: str) -> str:
        """Open it as the next stage does: why it was refused, "" if it was not."""
        if kind == "checkpoint":
            lines: list[str] = []
            found = LocalCheckpoints(self.checkpoints, lines.append).newest(self.work_digest)
            assert found is not None
            assert found[0].step == (4 if lines else 6)  # the one before, if this one is damaged
            return " ".join(lines)
        try:
            Record.load(self.folder(kind)).verify()
        except RecordError as error:
            return str(error)
        return ""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    home = tmp_path_factory.mktemp("damage") / "home"
    prepared = make_prepared(home)
    with pytest.raises(Interrupted, match="saved at step 6 of 12"):
        train(home, prepared, STOPPED, progress=PressCtrlC(5))
    key = train_key(tiny_shape(), config(**STOPPED), prepared)
    checkpoints = RecordStore(home, "tiny").run_folder(key) / "checkpoints"
    assert sorted(path.name for path in checkpoints.iterdir()) == ["step-000004", "step-000006"]
    return Place(prepared, train(home, prepared), key.digest, checkpoints)


@contextmanager
def damaged(folder: Path) -> Iterator[None]:
    """Whatever is done to the folder inside is undone."""
    copy = folder.with_name(f"{folder.name}-copy")
    shutil.copytree(folder, copy, copy_function=os.link)
    try:
        yield
    finally:
        shutil.rmtree(folder)
        copy.rename(folder)


def replace(path: Path, data: bytes) -> None:
    """New bytes under an old name; the copy keeps the old ones."""
    path.unlink()
    path.write_bytes(data)


def test_a5_every_flipped_bit_is_found(place: Place, trials: Callable[[int], int]) -> None:
    """Uniform over all bytes of all files; the file and its chunk are named."""
    files = [(kind, path) for kind in KINDS for path in place.files(kind)]
    sizes = [path.stat().st_size for _, path in files]
    assert all(not place.refusal(kind) for kind in KINDS)
    chooser = random.Random(5)
    for _ in range(trials(200)):
        ((kind, path),) = chooser.choices(files, sizes)
        with damaged(place.folder(kind)):
            data = bytearray(path.read_bytes())
            at, bit = chooser.randrange(len(data)), chooser.randrange(8)
            data[at] ^= 1 << bit
            replace(path, bytes(data))
            refusal = place.refusal(kind)
        assert path.name in refusal, (path, at, bit, refusal)
        assert "chunk 0" in refusal or path.name in SEALED


def other_of(path: Path) -> Path:
    """A neighbour of the same suffix, else any; never itself."""
    others = sorted(p for p in path.parent.iterdir() if p.is_file() and p != path)
    return next((p for p in others if p.suffix == path.suffix), others[0])


def swap(path: Path) -> None:
    mine, theirs = path.read_bytes(), other_of(path).read_bytes()
    replace(other_of(path), mine)
    replace(path, theirs)


MUTATIONS: dict[str, Callable[[Path], object]] = {
    "truncated": lambda path: replace(path, path.read_bytes()[: path.stat().st_size // 2]),
    "short by one byte": lambda path: replace(path, path.read_bytes()[:-1]),
    "empty": lambda path: replace(path, b""),
    "zeroed": lambda path: replace(path, bytes(path.stat().st_size)),
    "missing": lambda path: path.unlink(),
    "swapped": swap,
    "duplicated": lambda path: shutil.copy(path, path.with_name(f"copy-{path.name}")),
    "extra": lambda path: path.with_name("extra.safetensors").write_bytes(b"x"),
    "appended": lambda path: replace(path, path.read_bytes() + b"\0"),
    "doubled": lambda path: replace(path, path.read_bytes() * 2),
}
VICTIMS = [
    ("checkpoint", "model.safetensors"),
    ("checkpoint", "optimizer.safetensors"),
    ("checkpoint", "state.json"),
    ("checkpoint", "manifest.json"),
    ("shard", "rows/train-00000.rows"),
    ("shard", "rows.json"),
    ("export", "model/model.safetensors"),
    ("export", "model/config.json"),
]


@pytest.mark.parametrize(("kind", "name"), VICTIMS)
def test_a6_every_mutation_is_found(place: Place, kind: str, name: str) -> None:
    for mutation, do in MUTATIONS.items():
        with damaged(place.folder(kind)):
            do(place.folder(kind) / name)
            assert place.refusal(kind), mutation
            if kind == "export" and mutation != "extra":
                with pytest.raises(RecordError):
                    load_model_folder(place.folder(kind) / "model")
    assert not place.refusal(kind)


def test_checkpoints_are_not_taken_for_one_another(place: Place) -> None:
    older = place.checkpoints / "step-000004"
    with damaged(place.checkpoints):
        shutil.rmtree(place.folder("checkpoint"))
        shutil.copytree(older, place.folder("checkpoint"))
        assert "holds another checkpoint" in place.refusal("checkpoint")
    lines: list[str] = []
    assert LocalCheckpoints(place.checkpoints, lines.append).newest("0" * 32) is None
    assert len(lines) == 2 and "is of other work" in lines[0]


def test_damaged_newest_is_passed_over_to_the_same_bits(place: Place, tmp_path: Path) -> None:
    """Both the damaged checkpoint and an unfinished one: reported, and the end is the same."""
    home = tmp_path / "home"
    original = place.prepared.path.parents[2]
    shutil.copytree(original, home)
    prepared = RecordStore(home, "tiny").newest("prepare")
    assert prepared is not None
    checkpoints = home / place.checkpoints.relative_to(original)
    victim = checkpoints / "step-000006/optimizer.safetensors"
    replace(victim, victim.read_bytes()[:-1])
    (checkpoints / ".unfinished-step-000008").mkdir()
    lines: list[str] = []
    record = train(home, prepared, STOPPED, lines.append)
    assert "passed over a checkpoint" in lines[0] and "optimizer.safetensors" in lines[0]
    assert lines[1].startswith("resumed at step 4 from checkpoint ")
    other = train(tmp_path / "other", prepared, STOPPED)
    assert record.files == other.files and record.metrics == other.metrics
