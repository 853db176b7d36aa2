"""Whole tensors in local folders: one per saved step, published by rename, verified when read.

    checkpoints/step-000100/model.safetensors      weights, fp32
                            optimizer.safetensors  state of the optimisers
                            history.safetensors    what every step before did
                            state.json             step, validations, digest of the work
                            manifest.json          size and BLAKE3 of the files above; written last

The newest two stay. An older one goes only after a newer one was read back whole.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load as tensors_of_bytes
from torch import Tensor

from whorl.core.clutter import is_clutter
from whorl.core.digests import read_sealed, write_sealed
from whorl.core.disk import disk_error, fsync_folder
from whorl.core.errors import RecordError
from whorl.core.records import FileEntry
from whorl.model.tensor_file import write_tensors

__all__ = ["Checkpoint", "LocalCheckpoints"]

MANIFEST, STATE = "manifest.json", "state.json"
TENSOR_FILES = ("model", "optimizer", "history")
STEP_FOLDER = re.compile(r"step-(\d{6,})")
UNFINISHED = ".unfinished-"  # being written, or being deleted
KEEP = 2


@dataclass(frozen=True)
class Checkpoint:
    """Everything a run needs to go on after `step` steps."""

    step: int  # steps done
    work_digest: str  # of the record this run will make: config and data
    model: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    history: Mapping[str, Tensor]
    validations: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class LocalCheckpoints:
    """The checkpoints of one run folder; used by the holder of its lock alone."""

    folder: Path
    log: Callable[[str], None]

    @classmethod
    def of(cls, run_folder: Path, log: Callable[[str], None]) -> LocalCheckpoints:
        """Those of a run folder; `log` is told of damaged ones."""
        return cls(run_folder / "checkpoints", log)

    def save(self, checkpoint: Checkpoint) -> str:
        """Write, read back, then drop all but the newest two; gives the digest.

        Raises ResourceError when the disk is full: nothing older was touched.
        """
        self._sweep()
        final = self.folder / f"step-{checkpoint.step:06d}"
        temporary = self.folder / f"{UNFINISHED}{final.name}"
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            self._fill(temporary, checkpoint)
            self._discard(final)
            os.rename(temporary, final)
            fsync_folder(self.folder)
        except OSError as error:
            raise disk_error(error, final) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        digest = _verified(final)["digest"]
        self._rotate()
        return str(digest)

    def newest(self, work_digest: str) -> tuple[Checkpoint, str] | None:
        """The newest one that is complete, undamaged and of this work, with its digest.

        Others are reported and passed over.
        """
        for path in self._folders():
            try:
                return _read(path, work_digest)
            except RecordError as error:
                self.log(f"passed over a checkpoint: {error}")
        return None

    def remove(self) -> None:
        """All of them: their run is done."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _fill(self, folder: Path, checkpoint: Checkpoint) -> None:
        for name in TENSOR_FILES:
            write_tensors(folder / f"{name}.safetensors", getattr(checkpoint, name))
        state = {
            "step": checkpoint.step,
            "work_digest": checkpoint.work_digest,
            "validations": list(checkpoint.validations),
        }
        write_sealed(folder / STATE, state)
        names = sorted(path.name for path in folder.iterdir())
        entries = {name: vars(FileEntry.of(folder / name)) for name in names}
        write_sealed(folder / MANIFEST, {"folder": f"step-{checkpoint.step:06d}", "files": entries})

    def _folders(self) -> list[Path]:
        """Newest first."""
        if not self.folder.is_dir():
            return []
        found = {
            int(match[1]): path
            for path in self.folder.iterdir()
            if path.is_dir() and (match := STEP_FOLDER.fullmatch(path.name))
        }
        return [found[step] for step in sorted(found, reverse=True)]

    def _rotate(self) -> None:
        """Delete what is older than the newest two that are whole, and what is damaged."""
        whole = 0
        for path in self._folders():
            if whole < KEEP:
                try:
                    _verified(path)
                    whole += 1
                    continue
                except RecordError as error:
                    self.log(f"deleted a damaged checkpoint: {error}")
            self._discard(path)

    def _discard(self, path: Path) -> None:
        """Out of sight by one rename, then deleted."""
        if path.exists():
            doomed = path.with_name(f"{UNFINISHED}old-{path.name}")
            shutil.rmtree(doomed, ignore_errors=True)
            os.rename(path, doomed)
            shutil.rmtree(doomed, ignore_errors=True)

    def _sweep(self) -> None:
        if self.folder.is_dir():
            for path in self.folder.glob(f"{UNFINISHED}*"):
                shutil.rmtree(path, ignore_errors=True)


def _verified(path: Path) -> dict[str, Any]:
    """The manifest, after every file was compared with it. Raises RecordError."""
    manifest = read_sealed(path / MANIFEST)
    try:
        if manifest["folder"] != path.name:
            raise RecordError(f"{path} holds another checkpoint", found=manifest["folder"])
        entries = {
            str(name): FileEntry(entry["size_bytes"], entry["blake3"], tuple(entry["chunks"]))
            for name, entry in manifest["files"].items()
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise RecordError(f"{path / MANIFEST} is not of a checkpoint", found=error) from error
    expected = {STATE, *(f"{name}.safetensors" for name in TENSOR_FILES)}
    if set(entries) != expected:
        raise RecordError(f"{path} is not a checkpoint", found=sorted(entries), expected=expected)
    for name, entry in entries.items():
        entry.check(path / name)
    present = {file.name for file in path.iterdir() if not is_clutter(file.name)}
    if strangers := sorted(present - expected - {MANIFEST}):
        raise RecordError(f"{path} holds files that are not part of it", found=strangers[:5])
    return manifest | {"digest": FileEntry.of(path / MANIFEST).blake3, "entries": entries}


def _read(path: Path, work_digest: str) -> tuple[Checkpoint, str]:
    manifest = _verified(path)
    state = read_sealed(path / STATE)
    if state["work_digest"] != work_digest:
        raise RecordError(
            f"{path} is of other work", found=state["work_digest"], expected=work_digest
        )
    tensors = {}
    for name in TENSOR_FILES:
        data = (path / f"{name}.safetensors").read_bytes()
        tensors[name] = tensors_of_bytes(data)
    checkpoint = Checkpoint(
        state["step"], work_digest, **tensors, validations=tuple(state["validations"])
    )
    return checkpoint, str(manifest["digest"])
