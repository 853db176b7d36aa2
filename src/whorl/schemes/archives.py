"""Archives unpacked safely: nothing outside the folder, no links, and no more than is bounded."""

from __future__ import annotations

import bz2
import gzip
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

from whorl.core.errors import DataError

__all__ = ["read_member", "unpack_tar", "unpack_zip"]

# By the first two bytes.
OPENERS: dict[bytes, Callable[..., Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZ": bz2.open,
    b"\xfd7": lzma.open,
}
DAMAGE = (zlib.error, lzma.LZMAError, EOFError, OSError)  # what decompressors raise

FREE_BYTES = 2**30  # an archive may always unpack to so much
MAX_EXPANSION = 200  # times its own size, beyond
MAX_FILES = 1_000_000
BLOCK_BYTES = 2**20

Member = tuple[str, IO[bytes] | None]  # name, content; None: neither a file nor a folder


def unpack_zip(path: Path, into: Path) -> int:
    """Unpack a zip file; gives how many links were passed over. Raises DataError."""

    def members(archive: zipfile.ZipFile) -> Iterator[Member]:
        for info in archive.infolist():
            kind = info.external_attr >> 28  # the file type of Unix, if the archive says it
            if not info.is_dir():
                yield info.filename, archive.open(info) if kind in (0, 8) else None

    try:
        with zipfile.ZipFile(path) as archive:
            return _write(members(archive), into, path)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, *DAMAGE) as error:
        if isinstance(error, OSError) and error.filename is not None:
            raise
        raise DataError(f"{path.name} is not a whole zip file", found=error) from error


def unpack_tar(path: Path, into: Path, *, strip: int = 0) -> int:
    """Unpack a (compressed) tar file without the first `strip` folders of each name."""

    def members(archive: tarfile.TarFile) -> Iterator[Member]:
        for info in archive:
            name = "/".join(PurePosixPath(info.name).parts[strip:])
            if not info.isdir():
                yield name or info.name, archive.extractfile(info) if info.isfile() else None

    try:
        with _opened(path) as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
            skipped = _write(members(archive), into, path)
            _read_to_end(stream, path)
            return skipped
    except (tarfile.TarError, *DAMAGE) as error:
        if isinstance(error, OSError) and error.filename is not None:
            raise
        raise DataError(f"{path.name} is not a whole tar file", found=error) from error


def _opened(path: Path) -> IO[bytes]:
    """The bytes of a tar file, decompressed."""
    with path.open("rb") as file:
        start = file.read(2)
    return cast(IO[bytes], OPENERS.get(start, open)(path, "rb"))


def _read_to_end(stream: IO[bytes], path: Path) -> None:
    """What ends a compressed stream says whether it was whole. Raises what decompressors do."""
    left_bytes = FREE_BYTES
    while block := stream.read(BLOCK_BYTES):
        left_bytes -= len(block)
        if left_bytes < 0:
            raise DataError(f"{path.name} unpacks to too much", found="filling after its end")


def read_member(path: Path, limit_bytes: int = BLOCK_BYTES) -> str:
    """The text of a small unpacked file; "" if it is not there."""
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        return file.read(limit_bytes).decode("utf-8", "replace")


def _write(members: Iterator[Member], into: Path, archive: Path) -> int:
    left_bytes = max(FREE_BYTES, MAX_EXPANSION * archive.stat().st_size)
    skipped = 0
    for number, (name, content) in enumerate(members):
        if content is None:
            skipped += 1
            continue
        with closing(content):
            target = _inside(name, into, archive)
            target.parent.mkdir(parents=True, exist_ok=True)
            if number >= MAX_FILES or target.exists():
                what = "too many files" if number >= MAX_FILES else f"{name} twice"
                raise DataError(f"{archive.name} is not unpacked", found=what)
            with target.open("xb") as file:
                while block := content.read(BLOCK_BYTES):
                    left_bytes -= len(block)
                    if left_bytes < 0:
                        raise DataError(
                            f"{archive.name} unpacks to too much",
                            expected=f"at most {MAX_EXPANSION} times its size",
                        )
                    file.write(block)
    return skipped


def _inside(name: str, into: Path, archive: Path) -> Path:
    """Where a member goes. Raises DataError on a name that leads out of the folder."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts or "\0" in name:
        raise DataError(
            f"{archive.name} holds a file outside of its folder",
            found=repr(name),
            do="do not use this archive",
        )
    return into.joinpath(*path.parts)
