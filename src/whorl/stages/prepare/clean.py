"""First pass, one task at a time: read, normalise, filter, and leave documents in a spill file."""

from __future__ import annotations

from codecs import getincrementaldecoder
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from whorl.codecs.contract import CHAT, TEXT
from whorl.codecs.tokenizer import nfc
from whorl.core.digests import digest_bytes
from whorl.core.ports import Document, Field, Source
from whorl.core.reasons import REPETITION, documents_of, kind_of
from whorl.core.sources import FileItem
from whorl.stages.prepare.comparable import comparable, comparable_value, letters
from whorl.stages.prepare.filters import is_repetitive
from whorl.stages.prepare.shingles import NUM_BANDS, sketch
from whorl.stages.prepare.spill import content_digest, document_bytes

__all__ = [
    "LARGE_BYTES",
    "SPLITS",
    "CleanTask",
    "Cleaned",
    "clean",
    "clean_tasks",
    "is_little",
    "item_bytes",
]

TASK_BYTES = 4 * 2**20  # of items in one task; a constant, so that results do not depend on it
TASK_ITEMS = 1024
LARGE_BYTES = 2**20  # of text; what work on less leaves in memory is not worth another process
HEAD_BYTES = 1024
OTHER_ITEM_BYTES = 2**18  # what an item of unknown size counts
BATCH_BYTES = 2**18  # of text that is sketched together
BATCH_DOCUMENTS = 4096
SPLITS: tuple[str | None, ...] = (None, "train", "heldout")
DIGEST_BYTES = 32


@dataclass(frozen=True)
class CleanTask:
    """Items of one source, and where their documents go."""

    field: Field
    source: Source
    source_number: int
    items: Sequence[Any]
    path: Path
    max_repetition_ratio: float
    max_repeated_windows: float

    @property
    def num_bytes(self) -> int:
        return sum(item_bytes(item) for item in self.items)


@dataclass
class Cleaned:
    """What is known of the n documents of a spill file; arrays are [n] unless said."""

    path: Path
    source_number: int
    offsets: NDArray[np.int64]  # [n + 1], into the file
    digests: NDArray[np.uint8]  # [n, 32], of the content as it is compared
    bands: NDArray[np.uint64]  # [n, NUM_BANDS]
    has_windows: NDArray[np.bool_]
    num_bytes: NDArray[np.int64]  # of the text, else of the record
    is_text: NDArray[np.bool_]
    split: NDArray[np.int8]  # place in SPLITS
    codecs: frozenset[str]
    rejected: Counter[str] = field(default_factory=Counter)
    read_bytes: int = 0  # of text that was read, kept or not
    num_read: int = 0


def item_bytes(item: Any) -> int:
    return item.range_bytes if isinstance(item, FileItem) else OTHER_ITEM_BYTES


def is_little(items: Sequence[Any]) -> bool:
    """Whether items are few bytes of plain text, which no process of its own need read.

    Readers of whatever else import packages that stay: for a file of R of 109 kB about 100 MiB
    (1 December 2026).
    """
    return sum(map(item_bytes, items)) < LARGE_BYTES and all(map(_is_plain, items))


def _is_plain(item: Any) -> bool:
    """Whether a file begins as UTF-8 does; so does one that is not read."""
    if not isinstance(item, FileItem):
        return False
    if not item.is_read:
        return True
    try:
        with open(item.path, "rb") as file:
            head = file.read(HEAD_BYTES)
        getincrementaldecoder("utf-8")().decode(head)
    except (OSError, UnicodeDecodeError):
        return False
    return b"\0" not in head


def clean_tasks(
    source_number: int,
    source: Source,
    source_field: Field,
    items: Sequence[Any],
    folder: Path,
    limits: tuple[float, float],
) -> Iterator[CleanTask]:
    """Group consecutive items; the grouping depends on nothing but their sizes.

    limits: (zlib ratio, share of repeated windows) above which a text goes.
    """

    def task(number: int, group: Sequence[Any]) -> CleanTask:
        path = folder / f"clean-{source_number:03d}-{number:06d}"
        return CleanTask(source_field, source, source_number, group, path, *limits)

    group: list[Any] = []
    number = group_bytes = 0
    for item in items:
        if group and (group_bytes + item_bytes(item) > TASK_BYTES or len(group) == TASK_ITEMS):
            yield task(number, group)
            group, group_bytes, number = [], 0, number + 1
        group.append(item)
        group_bytes += item_bytes(item)
    if group:
        yield task(number, group)


def clean(task: CleanTask) -> Cleaned:
    """Run a task. Raises DataError from the field's reader."""
    collector = _Collector(task)
    with task.path.open("wb") as file:
        for item in task.items:
            for document in documents_of(task.field, task.source, item, collector.reject):
                collector.add(document, file)
        collector.write_batch(file)
    return collector.result()


class _Collector:
    """Documents of one task: a batch in memory, facts of those already written."""

    def __init__(self, task: CleanTask) -> None:
        self.task = task
        self.rejected: Counter[str] = Counter()
        self.codecs: set[str] = set()
        self.num_read = self.read_bytes = 0
        self.offsets = [0]
        self.rows: list[tuple[bytes, int, bool, int]] = []  # digest, bytes, is text, split
        self.bands: list[NDArray[np.uint64]] = []
        self.has_windows: list[NDArray[np.bool_]] = []
        self.batch: list[tuple[Document, bytes, bytes | None]] = []  # digest, letters of a text
        self.batch_bytes = 0

    def reject(self, reason: str) -> None:
        self.num_read += kind_of(reason) == "refused"
        self.rejected[reason] += 1

    def add(self, document: Document, file: BinaryIO) -> None:
        try:
            document = _normalised(document)
            text = document.text if document.parts else ""
            num_bytes = len((text or "").encode())
        except UnicodeEncodeError:
            self.reject("lone surrogate in text")
            return
        if text is not None:
            text = comparable(text)
            if not text:
                self.reject("empty")
                return
        self.num_read += 1
        self.read_bytes += num_bytes
        self.batch.append(
            (document, _digest(document, text), None if text is None else letters(text))
        )
        self.batch_bytes += num_bytes
        if self.batch_bytes >= BATCH_BYTES or len(self.batch) >= BATCH_DOCUMENTS:
            self.write_batch(file)

    def write_batch(self, file: BinaryIO) -> None:
        """Sketch, filter and write what is in the batch."""
        sketches = sketch([data or b"" for _, _, data in self.batch])
        kept: list[int] = []
        for number, (document, digest, data) in enumerate(self.batch):
            if data is not None and is_repetitive(
                data,
                float(sketches.repeated_share[number]),
                self.task.max_repetition_ratio,
                self.task.max_repeated_windows,
            ):
                self.rejected[REPETITION] += 1
                continue
            kept.append(number)
            record = document_bytes(document)
            file.write(record)
            self.offsets.append(self.offsets[-1] + len(record))
            num_bytes = len(record) if data is None else len((document.text or "").encode())
            self.rows.append((digest, num_bytes, data is not None, SPLITS.index(document.split)))
            self.codecs.update(
                TEXT if part.codec == CHAT else part.codec for part in document.parts
            )
        self.bands.append(sketches.bands[kept])
        self.has_windows.append(sketches.has_windows[kept])
        self.batch, self.batch_bytes = [], 0

    def result(self) -> Cleaned:
        digests = b"".join(row[0] for row in self.rows)
        return Cleaned(
            path=self.task.path,
            source_number=self.task.source_number,
            offsets=np.array(self.offsets, np.int64),
            digests=np.frombuffer(digests, np.uint8).reshape(-1, DIGEST_BYTES),
            bands=np.concatenate([np.empty((0, NUM_BANDS), np.uint64), *self.bands]),
            has_windows=np.concatenate([np.empty(0, np.bool_), *self.has_windows]),
            num_bytes=np.array([row[1] for row in self.rows], np.int64),
            is_text=np.array([row[2] for row in self.rows], np.bool_),
            split=np.array([row[3] for row in self.rows], np.int8),
            codecs=frozenset(self.codecs),
            rejected=self.rejected,
            read_bytes=self.read_bytes,
            num_read=self.num_read,
        )


def _normalised(document: Document) -> Document:
    """Text in NFC; the document itself if it is already."""
    parts = []
    for part in document.parts:
        if part.codec == "text" and isinstance(part.value, str):
            value = nfc(part.value)
            part = part if value == part.value else replace(part, value=value)
        parts.append(part)
    same = all(new is old for new, old in zip(parts, document.parts, strict=True))
    return document if same else replace(document, parts=tuple(parts))


def _digest(document: Document, compared: str | None) -> bytes:
    """32 bytes, equal for documents that are the same as they are compared.

    compared: of a document of text. Others are the same if their parts are.
    """
    if compared is not None:
        return bytes.fromhex(digest_bytes(compared.encode()))
    parts = [replace(part, value=comparable_value(part.value)) for part in document.parts]
    return content_digest(parts)
