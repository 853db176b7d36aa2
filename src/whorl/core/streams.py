"""Bytes of source files with every size bounded: rows, pieces of text, decompression.

Nothing here holds more than one row (at most MAX_ROW_BYTES) or one piece in memory.
"""

from __future__ import annotations

import gzip
import io
import os
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

from whorl.core.errors import DataError, MissingExtra

__all__ = [
    "MAX_EXPANSION",
    "MAX_ROW_BYTES",
    "PIECE_BYTES",
    "WHOLE_BYTES",
    "SourceFault",
    "lines",
    "open_source",
    "pieces",
]

MAX_ROW_BYTES = 8 * 2**20  # a longer row of a jsonl file is rejected
MAX_EXPANSION = 200  # times that a compressed file may grow, once it gave FREE_BYTES
FREE_BYTES = 64 * 2**20
WHOLE_BYTES = 4 * 2**20  # a text file up to here is one document
PIECE_BYTES = 2**20  # a longer one becomes documents of about this size
BUFFER_BYTES = 2**20
ALIGN_BYTES = 64 * 2**10  # how far a cut looks for a line's end
ZSTD_BYTES = 1024  # given to the decompressor at a time: even a bomb makes only some MB of them
UTF8_CHAR_BYTES = 4


class SourceFault(Exception):
    """The rest of a file cannot be used; its text is the reason that is counted."""


class _Guarded(io.RawIOBase):
    """Decompressed bytes that stop when there are too many for what was read."""

    def __init__(self, decompressor: Any, raw: BinaryIO) -> None:
        super().__init__()
        self._decompressor, self._raw, self._given_bytes = decompressor, raw, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            count = int(self._decompressor.readinto(buffer))
        except (EOFError, OSError, zlib.error, ValueError) as error:
            raise SourceFault("damaged compressed file") from error
        except Exception as error:  # zstandard.ZstdError derives from Exception alone
            if type(error).__name__ != "ZstdError":
                raise
            raise SourceFault("damaged compressed file") from error
        self._given_bytes += count
        if self._given_bytes > max(FREE_BYTES, MAX_EXPANSION * self._raw.tell()):
            raise SourceFault(f"file expands more than {MAX_EXPANSION} times")
        return count


class _ZstdFrames:
    """Frames of a .zst file one after another; unlike the library's reader it minds a cut one."""

    def __init__(self, decompressor: Any, raw: BinaryIO) -> None:
        self._decompressor, self._raw = decompressor, raw
        self._frame: Any = None
        self._packed = self._given = b""

    def readinto(self, buffer: Any) -> int:
        """Raises EOFError if the file ends within a frame."""
        while not self._given:
            packed = self._packed or self._raw.read(ZSTD_BYTES)
            if not packed:
                if self._frame is not None:
                    raise EOFError
                return 0
            self._frame = self._frame or self._decompressor.decompressobj()
            self._given = self._frame.decompress(packed)
            self._packed = self._frame.unused_data
            if self._frame.eof:
                self._frame = None
        count = min(len(buffer), len(self._given))
        buffer[:count] = self._given[:count]
        self._given = self._given[count:]
        return count


@contextmanager
def open_source(path: str, root: str, num_bytes: int) -> Iterator[tuple[BinaryIO, BinaryIO]]:
    """(content, raw file) of a regular file below root, decompressed by its suffix.

    Raises SourceFault if it may not or cannot be read, DataError if its size is not num_bytes.
    """
    if not inside(path, root):
        raise SourceFault("link out of the source")
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise SourceFault("file cannot be read") from error
    with open(descriptor, "rb", buffering=BUFFER_BYTES) as raw:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode):
            raise SourceFault("not a regular file")
        if facts.st_size != num_bytes:
            raise DataError(
                f"{path} changed while it was being read",
                found=f"{facts.st_size:,} bytes",
                expected=f"{num_bytes:,}",
                do="run again when nothing writes to it",
            )
        with _decompressed(path, raw) as content:
            yield content, raw


def inside(path: str, root: str) -> bool:
    """Whether a path, links followed, lies in the folder root (or is root)."""
    real, base = os.path.realpath(path), os.path.realpath(root)
    return real == base or real.startswith(os.path.join(base, ""))


@contextmanager
def _decompressed(path: str, raw: BinaryIO) -> Iterator[BinaryIO]:
    if path.endswith(".gz"):
        with gzip.GzipFile(fileobj=raw) as unzipped:
            yield io.BufferedReader(_Guarded(unzipped, raw), BUFFER_BYTES)
    elif path.endswith(".zst"):
        try:
            import zstandard
        except ImportError as error:
            raise MissingExtra.of("zstandard", "train", "a .zst file") from error
        frames = _ZstdFrames(zstandard.ZstdDecompressor(), raw)
        yield io.BufferedReader(_Guarded(frames, raw), BUFFER_BYTES)
    else:
        yield raw


def lines(stream: BinaryIO, start: int, end: int | None) -> Iterator[tuple[int, bytes | None]]:
    """(offset, line) of each line that begins in start <= offset < end; None: it is too long."""
    position = start
    if start > 0:
        stream.seek(start - 1)
        position = start - 1 + _skip_line(stream)
    while end is None or position < end:
        line = stream.readline(MAX_ROW_BYTES + 1)
        if not line:
            return
        offset, position = position, position + len(line)
        if len(line) > MAX_ROW_BYTES and not line.endswith(b"\n"):
            position += _skip_line(stream)
            yield offset, None
        else:
            yield offset, line


def _skip_line(stream: BinaryIO) -> int:
    """Read to the end of the line; gives the bytes passed over."""
    passed_bytes = 0
    while block := stream.readline(BUFFER_BYTES):
        passed_bytes += len(block)
        if block.endswith(b"\n"):
            break
    return passed_bytes


def pieces(stream: BinaryIO, start: int, end: int | None) -> Iterator[tuple[int | None, bytes]]:
    """(offset, bytes) of the documents of a text file; offset None: it is the whole file.

    The whole file if it has at most WHOLE_BYTES and no range is given, else pieces of about
    PIECE_BYTES that end at an empty line, a line's end or a character's end, in this order of
    preference. Ranges that touch (end of one = start of the next) join without gap or overlap.
    """
    if start == 0 and end is None:
        block = stream.read(WHOLE_BYTES + 1)
        if len(block) <= WHOLE_BYTES:
            yield None, block
            return
        yield from _cut(stream, block, 0, None)
        return
    first = _aligned(stream, start) if start else 0
    last = None if end is None else _aligned(stream, end)
    stream.seek(first)
    yield from _cut(stream, b"", first, last)


def _cut(
    stream: BinaryIO, rest: bytes, position: int, last: int | None
) -> Iterator[tuple[int, bytes]]:
    while True:
        room_bytes = PIECE_BYTES - len(rest)
        if last is not None:
            room_bytes = min(room_bytes, last - position - len(rest))
        block = rest + (stream.read(room_bytes) if room_bytes > 0 else b"")
        if not block:
            return
        if len(block) < PIECE_BYTES:  # the end of the file or range
            yield position, block
            return
        at = _cut_at(block)
        yield position, block[:at]
        position, rest = position + at, block[at:]


def _cut_at(block: bytes) -> int:
    half = PIECE_BYTES // 2
    for separator in (b"\n\n", b"\n"):
        at = block.rfind(separator, half, PIECE_BYTES)
        if at >= 0:
            return at + len(separator)
    for at in range(PIECE_BYTES, PIECE_BYTES - UTF8_CHAR_BYTES, -1):
        if at == len(block) or not _continues_char(block[at]):
            # The last character may be cut by the block's end: leave it to the next piece.
            return at if at < len(block) else _whole_chars(block)
    return PIECE_BYTES


def _whole_chars(block: bytes) -> int:
    """Length without a character that begins in the last bytes."""
    for back in range(1, UTF8_CHAR_BYTES):
        byte = block[-back]
        if not _continues_char(byte):
            return len(block) - back if byte >= 0xC0 else len(block)
    return len(block)


def _aligned(stream: BinaryIO, offset: int) -> int:
    """The first line's beginning from offset on, or a character's if no line ends near."""
    stream.seek(offset - 1)
    block = stream.read(ALIGN_BYTES)
    at = block.find(b"\n")
    if at >= 0:
        return offset + at
    for at in range(1, UTF8_CHAR_BYTES + 1):
        if at >= len(block) or not _continues_char(block[at]):
            return offset - 1 + at
    return offset


def _continues_char(byte: int) -> bool:
    return byte & 0xC0 == 0x80
