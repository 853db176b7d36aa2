"""What sources are made of: items of files, items of data sets, and the sealed index of digests.

    <home>/sources/index/<digest of the source's name>   the files of one source and their digests

Hashing gigabytes takes seconds, so the digest of a file is remembered with its size, times and
inode, and taken again only when one of them changed. It stays a function of the content alone.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from whorl.core.digests import digest_bytes, digest_file, write_bytes
from whorl.core.errors import DataError, ResourceError

__all__ = ["PASSED_OVER", "REJECTED", "DatasetItem", "FileItem", "SourceIndex"]

RACY_NS = 2 * 10**9  # a file changed so shortly before it was hashed may change again unnoticed
INDEX = "index"
CANNOT_READ = "file cannot be read"
REJECTED, PASSED_OVER = "rejected", "passed over"  # kinds of items that are not read

Stamp = tuple[int, int, int, int]  # size in bytes, mtime and ctime in ns, inode


@dataclass(frozen=True)
class FileItem:
    """A file or a range of its bytes; small and picklable. name is relative to the source."""

    path: str
    root: str
    name: str
    kind: str  # of format: "text", "jsonl" …; REJECTED: not read; PASSED_OVER: not meant to be
    num_bytes: int  # of the whole file
    start: int = 0
    end: int | None = None  # None: to the end of the file
    reason: str = ""  # why it is not read
    num_rows: int | None = None  # if the format says so
    encoding: str = ""  # of text that is not UTF-8, as the recipe says
    count: int = 1  # of the files that are passed over for this reason; this is the first
    hint: str = ""  # what would have it read

    @property
    def is_read(self) -> bool:
        return self.kind not in (REJECTED, PASSED_OVER)

    @property
    def range_bytes(self) -> int:
        return (self.num_bytes if self.end is None else self.end) - self.start


@dataclass(frozen=True)
class DatasetItem:
    """A part of a data set that is no file of the user's; known without being decoded."""

    number: int  # which part
    identity: str  # package, version, the data set's digest, part: equal for equal documents
    text_bytes: int = 0  # UTF-8 of the text of its documents
    is_made: bool = False  # computed at some cost, not read: a plan looks at a few


@dataclass
class SourceIndex:
    """Digests of files by their stamps, remembered below `folder`; None remembers nothing."""

    folder: Path | None = None
    log: Callable[[str], None] = lambda line: None

    def digests(self, name: str, paths: Iterable[str], workers: int) -> dict[str, str]:
        """path -> 64 hex digits, or why there are none, for all files of the source `name`.

        Raises DataError when a file changes while it is hashed.
        """
        known = self._load(name)
        found: dict[str, tuple[Stamp, str]] = {}
        todo: list[str] = []
        result: dict[str, str] = {}
        for path in paths:
            entry = known.get(path)
            if entry is not None and entry[0] == _stamp(path):
                found[path], result[path] = entry, entry[1]
            else:
                todo.append(path)
        with ThreadPoolExecutor(workers) as pool:
            for path, (stamp, digest) in zip(todo, pool.map(_hashed, todo), strict=True):
                result[path] = digest
                if stamp is not None:
                    found[path] = (stamp, digest)
        if found != known:
            self._save(name, found)
        return result

    def _path(self, name: str) -> Path:
        assert self.folder is not None
        return self.folder / INDEX / digest_bytes(name.encode("utf-8", "surrogatepass"))[:32]

    def _load(self, name: str) -> dict[str, tuple[Stamp, str]]:
        """What is known; nothing, with a notice, when the index is damaged.

        Sealed by its bytes: `read_sealed`, which writes JSON again to compare it, takes five times
        as long for 100,000 files, and every command waits for this.
        """
        if self.folder is None or not (path := self._path(name)).exists():
            return {}
        try:
            seal, _, body = path.read_bytes().partition(b"\n")
            if seal.decode() != digest_bytes(body):
                raise ValueError("its content does not match its digest")
            return {
                key: ((size, mtime, ctime, inode), digest)
                for key, size, mtime, ctime, inode, digest in json.loads(body)
            }
        except (OSError, ValueError) as error:
            self.log(f"the index of source {name} is damaged ({error}): its files are hashed again")
            return {}

    def _save(self, name: str, entries: dict[str, tuple[Stamp, str]]) -> None:
        if self.folder is None:
            return
        path = self._path(name)
        rows = [[key, *stamp, digest] for key, (stamp, digest) in entries.items()]
        body = json.dumps(rows, separators=(",", ":")).encode()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(path, digest_bytes(body).encode() + b"\n" + body)
        except (OSError, ResourceError) as error:  # it only saves time
            self.log(f"the index of source {name} is not kept ({error})")


def _stamp(path: str) -> Stamp | None:
    try:
        facts = Path(path).stat()
    except OSError:
        return None
    return facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino


def _hashed(path: str) -> tuple[Stamp | None, str]:
    """(stamp, or None if it is too young to be trusted; digest, or why there is none)."""
    start_ns, before = time.time_ns(), _stamp(path)
    try:
        digest = digest_file(Path(path))
    except OSError:
        return None, CANNOT_READ
    if before is None or _stamp(path) != before:
        raise DataError(
            f"{path} changed while it was being read", do="run again when nothing writes to it"
        )
    is_young = max(before[1], before[2]) > start_ns - RACY_NS
    return None if is_young else before, digest
