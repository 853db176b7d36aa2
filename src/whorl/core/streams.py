"""Bytes of source files with every size bounded: decompression, encodings, rows, pieces of text.

Nothing here holds more than one row (at most MAX_ROW_BYTES) or one piece in memory.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import os
import stat
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

from whorl.core.encodings import encoding_of
from whorl.core.errors import DataError, MissingExtra

__all__ = [
    "MAX_EXPANSION",
    "MAX_ROW_BYTES",
    "PIECE_BYTES",
    "WHOLE_BYTES",
    "Opened",
    "SourceFault",
    "head_of",
    "inside",
    "lines",
    "open_source",
    "pieces",
    "too_long",
]

MAX_ROW_BYTES = 8 * 2**20  # a longer row of a file of rows is rejected
MAX_EXPANSION = 200  # times that a compressed file may grow, once it gave FREE_BYTES
FREE_BYTES = 64 * 2**20
WHOLE_BYTES = 4 * 2**20  # a text file up to here is one document
PIECE_BYTES = 2**20  # a longer one becomes documents of about this size
BUFFER_BYTES = 2**20
ALIGN_BYTES = 64 * 2**10  # how far a cut looks for a line's end
ZSTD_BYTES = 1024  # given to the decompressor at a time: even a bomb makes only some MB of them
UTF8_CHAR_BYTES = 4
HEAD_BYTES = 2**16  # of the beginning, from which kind and encoding are seen
MAX_LAYERS = 3  # of compression, one inside another
DAMAGED = "compressed file is cut or damaged, what came before was read"
DAMAGE = (EOFError, OSError, zlib.error, lzma.LZMAError, ValueError)


class SourceFault(Exception):
    """A file, or the rest of one, cannot be used; its text is the reason that is counted."""


@dataclass
class Opened:
    """A file that is being read: UTF-8 without its compression, if it is not binary."""

    raw: BinaryIO  # as it is on disk
    content: BinaryIO
    fault: str = ""  # why the content ends before the file does

    @property
    def is_plain(self) -> bool:
        """Whether the content is the file as it is: places in one are places in the other."""
        return self.content is self.raw


class _Guarded(io.RawIOBase):
    """Decompressed bytes. They end at the first fault, or when they are too many, which is told.

    read1 gives what comes next, as much as is there, and raises where the file is damaged.
    """

    def __init__(self, read1: Callable[[int], bytes], opened: Opened) -> None:
        super().__init__()
        self._read1, self._opened, self._given_bytes = read1, opened, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self._opened.fault:
            return 0
        try:
            data = self._read1(len(buffer))
        except Exception as error:  # zstandard.ZstdError derives from Exception alone
            if not isinstance(error, DAMAGE) and type(error).__name__ != "ZstdError":
                raise
            self._opened.fault = DAMAGED
            return 0
        self._given_bytes += len(data)
        if self._given_bytes > max(FREE_BYTES, MAX_EXPANSION * self._opened.raw.tell()):
            self._opened.fault = f"file expands more than {MAX_EXPANSION} times"
            return 0
        buffer[: len(data)] = data
        return len(data)


class _Zstd:
    """Frames of a .zst file one after another; unlike the library's reader it minds a cut one."""

    def __init__(self, packed: BinaryIO) -> None:
        try:
            import zstandard
        except ImportError as error:
            raise MissingExtra.of("zstandard", "train", "a .zst file") from error
        self._decompressor, self._stream = zstandard.ZstdDecompressor(), packed
        self._frame: Any = None
        self._packed = self._given = b""

    def read1(self, count: int) -> bytes:
        """Raises EOFError if the file ends within a frame."""
        while not self._given:
            packed = self._packed or self._stream.read(ZSTD_BYTES)
            if not packed:
                if self._frame is not None:
                    raise EOFError
                return b""
            self._frame = self._frame or self._decompressor.decompressobj()
            self._given = self._frame.decompress(packed)
            self._packed = self._frame.unused_data
            if self._frame.eof:
                self._frame = None
        given, self._given = self._given[:count], self._given[count:]
        return given


class _Transcoded(io.RawIOBase):
    """Text of another encoding as UTF-8. It ends where the bytes are not of it, which is told."""

    def __init__(self, source: BinaryIO, encoding: str, opened: Opened) -> None:
        super().__init__()
        self._source, self._encoding, self._opened = source, encoding, opened
        self._decoder = codecs.getincrementaldecoder(encoding)()
        self._given, self._ended = b"", False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._given and not self._ended:
            data = self._source.read(ALIGN_BYTES)
            self._ended = not data
            self._given = self._decoded(data).encode("utf-8", "replace")
        count = min(len(buffer), len(self._given))
        buffer[:count] = self._given[:count]
        self._given = self._given[count:]
        return count

    def _decoded(self, data: bytes) -> str:
        try:
            return self._decoder.decode(data, not data)
        except UnicodeDecodeError as error:
            self._ended = True
            self._opened.fault = self._opened.fault or f"not {self._encoding} from some place on"
            return error.object[: error.start].decode(self._encoding, "ignore")


MAGIC: dict[bytes, Callable[[BinaryIO], Any]] = {  # what a compressed file begins with
    b"\x1f\x8b\x08": lambda packed: gzip.GzipFile(fileobj=packed),
    b"\x28\xb5\x2f\xfd": _Zstd,
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\0": lzma.LZMAFile,
}
BZ2_BLOCK = b"1AY&SY"  # of the first block, after the level: a text may begin with BZh


@contextmanager
def open_source(
    path: str, root: str, num_bytes: int, encoding: str | None = ""
) -> Iterator[Opened]:
    """A regular file below root; text is decompressed by its first bytes and made UTF-8.

    encoding: what a recipe says of files that are not UTF-8; None: the file is no text.
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
        opened = Opened(raw, raw)
        if encoding is not None:
            _unpack(opened)
            _transcode(opened, encoding)
        yield opened


def too_long() -> str:
    """Why a row that does not end in time is refused."""
    return f"row longer than {MAX_ROW_BYTES:,} bytes"


def inside(path: str, root: str) -> bool:
    """Whether a path, links followed, lies in the folder root (or is root)."""
    real, base = os.path.realpath(path), os.path.realpath(root)
    return real == base or real.startswith(os.path.join(base, ""))


def head_of(stream: BinaryIO) -> bytes:
    """What comes next, as much as is buffered, without taking it."""
    head: bytes = stream.peek(HEAD_BYTES)[:HEAD_BYTES]  # type: ignore[attr-defined]
    return head


def _unpack(opened: Opened) -> None:
    """Off with the compression, also with one inside another, whatever the file's name says."""
    for _ in range(MAX_LAYERS):
        head = head_of(opened.content)
        magic = next((mark for mark in MAGIC if head.startswith(mark)), None)
        if magic is None or (magic == b"BZh" and head[4:10] != BZ2_BLOCK):
            return
        unpacked = MAGIC[magic](opened.content)
        opened.content = io.BufferedReader(_Guarded(unpacked.read1, opened), BUFFER_BYTES)


def _transcode(opened: Opened, given: str) -> None:
    encoding, mark_bytes = encoding_of(head_of(opened.content), given)
    if encoding:
        opened.content.read(mark_bytes)
        transcoded = _Transcoded(opened.content, encoding, opened)
        opened.content = io.BufferedReader(transcoded, BUFFER_BYTES)


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
