"""Records: what stages leave on disk, published by rename and verified as they are loaded.

    <home>/<recipe>/<stage>/<digest>/manifest.json   the record, immutable
    <home>/<recipe>/<stage>/<digest>/run.json        timings and environment, not hashed into it
    <home>/<recipe>/<stage>/<digest>.run/            the run folder: checkpoints, lock, logs

The digest is of (stage, schema version, logic version, config, input digests), so that the same
work is found again, never done twice. A record whose manifest is missing does not exist.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from whorl.core.clutter import is_clutter
from whorl.core.digests import (
    CHUNK_BYTES,
    digest_parts,
    digest_value,
    read_sealed,
    write_sealed,
)
from whorl.core.disk import DISK_ERRNOS, check_writable, disk_error, fsync_folder, make_folder
from whorl.core.errors import RecordError
from whorl.core.scratch import hold_scratch, is_abandoned

__all__ = [
    "SCHEMA_VERSION",
    "FileEntry",
    "Record",
    "RecordKey",
    "RecordStore",
    "RecordWriter",
]

SCHEMA_VERSION = 1
MANIFEST, RUN = "manifest.json", "run.json"
RECORD_NAME = re.compile(r"[0-9a-f]{32}")  # of its folder: the digest
SCRATCH_NAME = re.compile(r"[0-9a-f]{32}\.tmp-[0-9a-f]{8}-\d+")


@dataclass(frozen=True)
class RecordKey:
    """What a record is the result of; equal keys mean equal bytes."""

    stage: str
    config: Mapping[str, Any]
    inputs: Mapping[str, str] = field(default_factory=dict)  # role -> digest of a record or data
    logic_version: int = 1

    @property
    def digest(self) -> str:
        """32 hex digits, the name of the record's folder."""
        return digest_value(
            {
                "stage": self.stage,
                "schema_version": SCHEMA_VERSION,
                "logic_version": self.logic_version,
                "config": self.config,
                "inputs": self.inputs,
            }
        )[:32]


@dataclass(frozen=True)
class FileEntry:
    size_bytes: int
    blake3: str
    chunks: tuple[str, ...]

    @classmethod
    def of(cls, path: Path) -> FileEntry:
        whole, chunks, size_bytes = digest_parts(path)
        return cls(size_bytes, whole, chunks)

    def check(self, path: Path) -> None:
        """Raises RecordError naming the file and the first damaged chunk."""
        if not path.is_file():
            raise RecordError(f"{path} is missing", expected=f"{self.size_bytes:,} bytes")
        try:
            whole, chunks, size_bytes = digest_parts(path)
        except OSError as error:
            raise RecordError(f"{path} cannot be read", found=error.strerror) from error
        if (whole, size_bytes) == (self.blake3, self.size_bytes):
            return
        pairs = zip(chunks, self.chunks, strict=False)
        bad = [number for number, (found, expected) in enumerate(pairs) if found != expected]
        first = bad[0] if bad else min(len(chunks), len(self.chunks))
        raise RecordError(
            f"{path} is damaged in chunk {first} (bytes from {first * CHUNK_BYTES:,})",
            found=f"{size_bytes:,} bytes that do not match their BLAKE3 digest",
            expected=f"{self.size_bytes:,} bytes with digest {self.blake3[:16]}…",
            do="delete the record's folder and run the stage again",
        )


@dataclass(frozen=True)
class Record:
    """A complete record. Files are verified when their path is asked for."""

    path: Path
    stage: str
    digest: str
    config: Mapping[str, Any]
    inputs: Mapping[str, str]
    files: Mapping[str, FileEntry]
    metrics: Mapping[str, Any]

    @classmethod
    def load(cls, path: Path) -> Record:
        """Read and check the manifest (not yet the files). Raises RecordError."""
        value = read_sealed(path / MANIFEST)
        if value.get("schema_version") != SCHEMA_VERSION:
            raise RecordError(
                f"{path} is a record of another version of whorl",
                found=f"schema {value.get('schema_version')}",
                expected=f"schema {SCHEMA_VERSION}",
                do="delete it to have it made again",
            )
        try:
            key = RecordKey(
                value["stage"], value["config"], value["inputs"], value["logic_version"]
            )
            files = {
                _inner(name): FileEntry(
                    entry["size_bytes"], entry["blake3"], tuple(entry["chunks"])
                )
                for name, entry in value["files"].items()
            }
            record = cls(
                path, key.stage, key.digest, key.config, key.inputs, files, value["metrics"]
            )
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise RecordError(f"{path} is not a record of this version", found=error) from error
        if record.digest != path.name or record.stage != path.parent.name:
            raise RecordError(
                f"{path} holds another record",
                found=f"{record.stage}/{record.digest}",
                expected=f"{path.parent.name}/{path.name}",
                do="delete the folder: it was moved or copied there",
            )
        return record

    def file(self, name: str) -> Path:
        """Path of a file, verified now. Raises RecordError if damaged, missing or unlisted."""
        entry = self.files.get(name)
        if entry is None:
            raise RecordError(f"{self.path} has no file {name}", found=sorted(self.files))
        entry.check(self.path / name)
        return self.path / name

    def folder(self, name: str) -> Path:
        """Path of a sub-folder (a model folder …), all files below it verified now."""
        inside = [entry for entry in self.files if entry.startswith(f"{name}/")]
        if not inside:
            raise RecordError(f"{self.path} has no folder {name}", found=sorted(self.files))
        for entry in inside:
            self.file(entry)
        self._refuse_strangers(self.path / name)
        return self.path / name

    def verify(self) -> None:
        """Check every file, and that there is none beside them. Raises RecordError."""
        for name in self.files:
            self.file(name)
        _ = self.run
        self._refuse_strangers(self.path)

    def strangers(self, folder: Path | None = None, *, clutter: bool = False) -> list[str]:
        """Files of the record's folder, or of one below it, that are not part of the record.

        clutter: those that a file manager or a network disk left, too.
        """
        known = {*self.files, MANIFEST, RUN}
        found = {
            path.relative_to(self.path)
            for path in (folder or self.path).rglob("*")
            if path.is_symlink() or not path.is_dir()
        }
        names = {path.as_posix() for path in found if clutter or not is_clutter(path)}
        return sorted(names - known)

    def _refuse_strangers(self, folder: Path) -> None:
        if strangers := self.strangers(folder):
            raise RecordError(
                f"{self.path} holds files that are not part of it",
                found=strangers[:5],
                do="move them away: nothing unlisted is ever loaded",
            )

    @property
    def run(self) -> dict[str, Any]:
        """Timings and environment of the run that made this record.

        Raises RecordError when it is missing, damaged or belongs to another record.
        """
        path = self.path / RUN
        value = read_sealed(path)
        if (owner := value.pop("record", None)) != self.digest:
            raise RecordError(f"{path} is of another record", found=owner, expected=self.digest)
        return value


@dataclass
class RecordWriter:
    """A folder being filled; becomes a record when its context ends without an error."""

    path: Path  # write files below here
    metrics: dict[str, Any] = field(default_factory=dict)  # reproducible figures only
    run: dict[str, Any] = field(default_factory=dict)  # timings, environment


@dataclass(frozen=True)
class RecordStore:
    """All records of one recipe."""

    home: Path
    recipe: str

    def folder(self, stage: str) -> Path:
        return self.home / self.recipe / stage

    def run_path(self, key: RecordKey) -> Path:
        """Where the mutable folder of running work beside the record is, if there is one."""
        return self.folder(key.stage) / f"{key.digest}.run"

    def run_folder(self, key: RecordKey) -> Path:
        """`run_path`, made if missing. Raises ResourceError."""
        path = self.run_path(key)
        make_folder(path)
        return path

    def check_writable(self) -> None:
        """Raises ResourceError unless records can be written: asked before any work."""
        own = self.home / self.recipe
        check_writable(own if own.is_dir() else self.home)

    def find(self, key: RecordKey) -> Record | None:
        """The complete record of this key, fully verified; None if it was never finished.

        Raises RecordError if it exists but is damaged: never silently made again.
        """
        path = self.folder(key.stage) / key.digest
        if not (path / MANIFEST).exists():
            return None
        record = Record.load(path)
        record.verify()
        return record

    def published(self, key: RecordKey) -> Record:
        """The record that was written a moment ago. Raises RecordError if it is not there."""
        if (record := self.find(key)) is None:
            raise RecordError(f"{self.folder(key.stage) / key.digest} is gone since it was written")
        return record

    def all(self, stage: str) -> Iterator[Path]:
        """Folders of finished records of a stage, oldest first."""
        folder = self.folder(stage)
        if folder.is_dir():
            written_ns: dict[Path, int] = {}
            for manifest in folder.glob(f"*/{MANIFEST}"):
                with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                    if RECORD_NAME.fullmatch(manifest.parent.name):  # others are not whorl's
                        written_ns[manifest.parent] = manifest.stat().st_mtime_ns
            yield from sorted(written_ns, key=lambda path: (written_ns[path], path.name))

    def newest(self, stage: str) -> Record | None:
        """The newest record that is complete and verified; damaged ones are passed over."""
        for path in reversed(list(self.all(stage))):
            try:
                record = Record.load(path)
                record.verify()
            except RecordError:
                continue
            return record
        return None

    def leftovers(self, stage: str) -> list[Path]:
        """Temporary folders whose writer is gone; `write` removes those of its own key."""
        found = sorted(self.folder(stage).glob("*.tmp-*"))
        return [path for path in found if SCRATCH_NAME.fullmatch(path.name) and is_abandoned(path)]

    @contextmanager
    def write(self, key: RecordKey) -> Iterator[RecordWriter]:
        """Fill a temporary folder; on success fsync, write the manifest last, rename.

        On an error the temporary folder is removed and nothing is published. Raises ResourceError
        when the disk is full or cannot be written; other errors of the caller pass through.
        """
        final = self.folder(key.stage) / key.digest
        temporary: Path | None = None
        descriptor = -1
        started_s = time.monotonic()
        try:
            for path in final.parent.glob(f"{key.digest}.tmp-*"):
                is_abandoned(path, remove=True)
            temporary, descriptor = hold_scratch(final)
            writer = RecordWriter(temporary)
            yield writer
            writer.run.setdefault("wall_s", round(time.monotonic() - started_s, 3))
            self._commit(key, writer, final)
        except OSError as error:
            if not self._is_ours(error):
                raise
            raise disk_error(error, final) from error
        finally:
            if temporary is not None:
                shutil.rmtree(temporary, ignore_errors=True)
                os.close(descriptor)

    def _is_ours(self, error: OSError) -> bool:
        """Whether the disk of this home failed, not some other file of the stage's own."""
        if error.errno not in DISK_ERRNOS:
            return False
        if not isinstance(error.filename, str):
            return True
        path, home = Path(error.filename).resolve(), self.home.resolve()
        return path.is_relative_to(home) or home.is_relative_to(path)

    def _commit(self, key: RecordKey, writer: RecordWriter, final: Path) -> None:
        write_sealed(writer.path / RUN, {**writer.run, "record": key.digest})
        inside = sorted(writer.path.rglob("*"))
        if links := [str(path) for path in inside if path.is_symlink()]:
            raise RecordError("a record cannot hold links", found=links[:5], do="copy the files")
        paths = [p for p in inside if p.is_file() and not is_clutter(p.relative_to(writer.path))]
        names = [path.relative_to(writer.path).as_posix() for path in paths]
        entries = {name: vars(FileEntry.of(writer.path / name)) for name in names if name != RUN}
        for path in paths:
            _fsync(path)
        for path in inside:
            if path.is_dir():
                fsync_folder(path)
        value = {
            "stage": key.stage,
            "schema_version": SCHEMA_VERSION,
            "logic_version": key.logic_version,
            "config": key.config,
            "inputs": key.inputs,
            "files": entries,
            "metrics": writer.metrics,
        }
        write_sealed(writer.path / MANIFEST, value)
        _publish(writer.path, final)
        for folder in (final.parent, final.parent.parent, self.home):
            fsync_folder(folder)


def _publish(temporary: Path, final: Path) -> None:
    """Rename; a whole record that is there already stays: same key, same bytes."""
    try:
        os.rename(temporary, final)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        if not (final / MANIFEST).exists():  # somebody's files that stayed: set aside
            os.rename(final, final.with_name(f"{final.name}.left-{secrets.token_hex(4)}"))
            os.rename(temporary, final)


def _inner(name: str) -> str:
    """A file name of a manifest. Raises ValueError if it leads out of the record."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or str(path) != name:
        raise ValueError(f"file name {name!r}")
    return name


def _fsync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
