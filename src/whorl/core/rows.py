"""Token rows: how `prepare` leaves tokens on disk, and how the trainer reads them back.

    rows.json                      what there is: see RowsIndex
    rows/train-00000.rows …        fixed-size rows of seq_len + 1 ids, little endian
    heldout/heldout.rows           the held-out documents as rows, for the validation loss
    heldout/documents.safetensors  the held-out documents one by one
    heldout/names.json             their names, and the field each is of

A document's ids are cut into rows one document after another. One that is cut by a row's end
continues in the next row with its last id repeated first (not trained there), so that every
trained id is a target exactly once. Chats are never cut: each stands whole in a row, and of a pair
the chosen one right before the rejected one. Attention and positions restart at each segment start.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from whorl.core import order
from whorl.core.digests import canonical_json
from whorl.core.errors import DataError, RecordError
from whorl.core.mixture import Mixture
from whorl.core.records import Record
from whorl.core.validation import first_problem

__all__ = [
    "RowBatch",
    "RowSet",
    "RowWriter",
    "RowsIndex",
    "ShardEntry",
    "SourceRows",
    "row_dtype",
]

INDEX = "rows.json"
BUFFER_ROWS = 256  # rows held in memory while writing


def row_dtype(seq_len: int, vocab_size: int) -> np.dtype[Any]:
    """One row: ids [seq_len + 1], then two bit fields of as many bits, lowest bit first."""
    num_bytes = (seq_len + 1 + 7) // 8
    ids = "<u2" if vocab_size <= 65_536 else "<u4"
    return np.dtype(
        [
            ("ids", ids, (seq_len + 1,)),
            ("loss_mask", "u1", (num_bytes,)),
            ("segment_starts", "u1", (num_bytes,)),
        ]
    )


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ShardEntry(_Frozen):
    file: str
    num_rows: int


class SourceRows(_Frozen):
    """Rows of one source: consecutive, from first_row on."""

    field: str
    first_row: int
    num_rows: int
    trained_tokens: int
    share: float | None = None  # of the trained tokens; None: as much as there is


class RowsIndex(_Frozen):
    """The content of rows.json."""

    seq_len: int
    vocab_size: int
    num_rows: int
    dtype: str  # of ids: "<u2" or "<u4"
    shards: tuple[ShardEntry, ...]
    trained_tokens: int
    sources: tuple[SourceRows, ...] = ()
    heldout_rows: ShardEntry | None = None
    heldout_trained_tokens: int = 0

    def save(self, folder: Path) -> None:
        (folder / INDEX).write_text(canonical_json(self.model_dump()), encoding="utf-8")


@dataclass(frozen=True)
class RowBatch:
    """n rows of T = seq_len inputs, as arrays of T + 1 positions.

    ids: int64 [n, T+1]; loss_mask: bool [n, T+1], position t is predicted from t-1 and trained;
    segment_starts: bool [n, T+1], a document or its continuation begins at t.
    """

    ids: NDArray[np.int64]
    loss_mask: NDArray[np.bool_]
    segment_starts: NDArray[np.bool_]

    def is_padding(self, pad_id: int) -> NDArray[np.bool_]:
        """bool [n, T+1]: the last segment of a row, if nothing of it is trained or another id.

        pad_id may have a meaning inside documents.
        """
        from_here = np.cumsum(self.segment_starts[:, ::-1], axis=1)[:, ::-1]
        is_last = np.asarray(from_here == self.segment_starts, np.bool_)
        is_used = is_last & ((self.ids != pad_id) | self.loss_mask)
        return np.asarray(is_last & ~is_used.any(axis=1, keepdims=True), np.bool_)


@dataclass(frozen=True)
class RowSet:
    """Rows of a record, mapped from disk; every shard was verified when this was opened."""

    index: RowsIndex
    shards: tuple[NDArray[Any], ...] = field(repr=False)
    _mixtures: dict[int, Mixture] = field(default_factory=dict, repr=False)  # by seed

    @classmethod
    def open(cls, record: Record) -> RowSet:
        """The training rows. Raises RecordError naming the damaged file and chunk."""
        index = _read_index(record)
        return cls(index, tuple(_map_shard(record, index, shard) for shard in index.shards))

    @classmethod
    def heldout(cls, record: Record) -> RowSet:
        """The held-out rows. Raises RecordError if there are none or they are damaged."""
        index = _read_index(record)
        if index.heldout_rows is None:
            raise RecordError(f"{record.path} has no held-out rows")
        return cls(index, (_map_shard(record, index, index.heldout_rows),))

    @property
    def seq_len(self) -> int:
        return self.index.seq_len

    @property
    def vocab_size(self) -> int:
        return self.index.vocab_size

    @property
    def num_rows(self) -> int:
        return sum(len(shard) for shard in self.shards)

    def read(self, row_numbers: NDArray[np.int64]) -> RowBatch:
        """The rows of these numbers, in this order. Raises DataError on a number out of range."""
        numbers = np.asarray(row_numbers, np.int64)
        if numbers.size and (numbers.min() < 0 or numbers.max() >= self.num_rows):
            raise DataError(
                "there is no such row",
                found=f"rows {numbers.min()}..{numbers.max()}",
                expected=f"0..{self.num_rows - 1}",
            )
        ends = np.cumsum([len(shard) for shard in self.shards])
        which = np.searchsorted(ends, numbers, side="right")
        rows = np.empty(len(numbers), row_dtype(self.seq_len, self.vocab_size))
        for number in np.unique(which):
            here = which == number
            first = ends[number] - len(self.shards[number])
            rows[here] = self.shards[number][numbers[here] - first]
        width = self.seq_len + 1
        bits = [_unpack(rows[name], width) for name in ("loss_mask", "segment_starts")]
        return RowBatch(rows["ids"].astype(np.int64), *bits)

    def rows_of_step(self, step: int, rows_per_step: int, seed: int) -> NDArray[np.int64]:
        """Row numbers of a step's global batch; sources that have shares are mixed by them."""
        if (mixture := self.mixture(seed)) is not None:
            return mixture.rows_of_step(step, rows_per_step)
        return order.rows_of_step(step, rows_per_step, self.num_rows, seed)

    def mixture(self, seed: int) -> Mixture | None:
        """The mixture of the sources; None if they have no shares: all rows are one then."""
        sources = self.index.sources
        if len(sources) < 2 or sources[0].share is None:
            return None
        if seed not in self._mixtures:
            counts = [np.bitwise_count(shard["loss_mask"]).sum(axis=1) for shard in self.shards]
            trained = np.concatenate(counts).astype(np.int64)
            tokens = [trained[s.first_row : s.first_row + s.num_rows] for s in sources]
            self._mixtures[seed] = Mixture(tokens, [s.share or 0.0 for s in sources], seed)
        return self._mixtures[seed]


def _read_index(record: Record) -> RowsIndex:
    path = record.file(INDEX)
    try:
        return RowsIndex.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise RecordError(f"{path} is not an index of rows", found=first_problem(error)) from error


def _map_shard(record: Record, index: RowsIndex, shard: ShardEntry) -> NDArray[Any]:
    path = record.file(shard.file)
    dtype = row_dtype(index.seq_len, index.vocab_size)
    if path.stat().st_size != shard.num_rows * dtype.itemsize:
        raise RecordError(
            f"{path} does not fit its index",
            found=f"{path.stat().st_size:,} bytes",
            expected=f"{shard.num_rows:,} rows of {dtype.itemsize:,} bytes",
        )
    if not shard.num_rows:
        return np.empty(0, dtype)
    return np.memmap(path, dtype, mode="r", shape=(shard.num_rows,))


def _unpack(bits: NDArray[np.uint8], width: int) -> NDArray[np.bool_]:
    return np.unpackbits(bits, axis=1, count=width, bitorder="little").astype(np.bool_)


# ------------------------------------------------------------------ writing


@dataclass
class RowWriter:
    """Packs documents into rows and rows into files `<prefix>-00000.rows` … below a folder.

    Bytes depend only on the documents and where `end_row` is called. A row of which nothing is
    trained (the middle of a long prompt) is left out and counted.
    """

    folder: Path
    prefix: str
    seq_len: int
    vocab_size: int
    pad_id: int
    rows_per_shard: int | None  # None: one file `<prefix>.rows`
    shards: list[ShardEntry] = field(default_factory=list)
    trained_tokens: int = 0
    num_rows: int = 0
    untrained_rows: int = 0  # left out
    _used: int = 0  # positions filled in the last row of the buffer
    _count: int = 0  # rows begun in the buffer
    _file: BinaryIO | None = None

    def __post_init__(self) -> None:
        shape = (BUFFER_ROWS, self.seq_len + 1)
        self._ids = np.full(shape, self.pad_id, np.int64)
        self._mask = np.zeros(shape, np.bool_)
        self._starts = np.zeros(shape, np.bool_)

    def add(self, ids: NDArray[np.integer[Any]], mask: NDArray[np.bool_]) -> None:
        """Append a document: ids [n], mask [n]; the first id is never a target."""
        width, total, done = self.seq_len + 1, len(ids), 0
        while total:
            if self._count == 0 or self._used == width:
                self._begin_row()
            row, at = self._count - 1, self._used
            take = min(width - at, total - done)
            self._ids[row, at : at + take] = ids[done : done + take]
            self._mask[row, at : at + take] = mask[done : done + take]
            self._mask[row, at] = False
            self._starts[row, at] = True
            self._used += take
            self.trained_tokens += int(self._mask[row, at : at + take].sum())
            done += take
            if done == total:
                return
            done -= 1  # the last id comes again first in the next row, untrained

    def add_whole(
        self, segments: Sequence[tuple[NDArray[np.integer[Any]], NDArray[np.bool_]]]
    ) -> None:
        """Append what may not be cut, side by side in one row; all of it must fit into a row."""
        total = sum(len(ids) for ids, _ in segments)
        assert total <= self.seq_len + 1
        if self._count and self._used + total > self.seq_len + 1:
            self.end_row()
        for ids, mask in segments:
            self.add(ids, mask)

    def end_row(self) -> None:
        """Fill the row with padding, so that the next document begins a new one."""
        if self._count and self._used < self.seq_len + 1:
            self._starts[self._count - 1, self._used] = True
            self._used = self.seq_len + 1
        self._leave_out_untrained()

    def close(self) -> None:
        """Write what is left. At least one shard exists afterwards, perhaps of no rows."""
        self.end_row()
        self._flush()
        if not self.shards:
            self._open_shard()
        if self._file is not None:
            self._file.close()
            self._file = None

    def _leave_out_untrained(self) -> None:
        """Take back the last row, which is full, if nothing of it is trained."""
        if self._count and not self._mask[self._count - 1].any():
            self._count, self.num_rows = self._count - 1, self.num_rows - 1
            self.untrained_rows += 1
            self._ids[self._count], self._starts[self._count] = self.pad_id, False

    def _begin_row(self) -> None:
        self._leave_out_untrained()
        if self._count == BUFFER_ROWS:
            self._flush()
        self._count += 1
        self._used = 0
        self.num_rows += 1

    def _flush(self) -> None:
        done = 0
        while done < self._count:
            if self._file is None or self.shards[-1].num_rows == self.rows_per_shard:
                self._open_shard()
            assert self._file is not None
            entry = self.shards[-1]
            take = self._count - done
            if self.rows_per_shard is not None:
                take = min(take, self.rows_per_shard - entry.num_rows)
            part = slice(done, done + take)
            rows = np.empty(take, row_dtype(self.seq_len, self.vocab_size))
            rows["ids"] = self._ids[part]
            rows["loss_mask"] = np.packbits(self._mask[part], axis=1, bitorder="little")
            rows["segment_starts"] = np.packbits(self._starts[part], axis=1, bitorder="little")
            self._file.write(rows.tobytes())
            self.shards[-1] = ShardEntry(file=entry.file, num_rows=entry.num_rows + take)
            done += take
        self._count = self._used = 0
        self._ids[:], self._mask[:], self._starts[:] = self.pad_id, False, False

    def _open_shard(self) -> None:
        if self._file is not None:
            self._file.close()
        numbered = "" if self.rows_per_shard is None else f"-{len(self.shards):05d}"
        name = f"{self.prefix}{numbered}.rows"
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("wb")
        self.shards.append(ShardEntry(file=name, num_rows=0))


# ------------------------------------------------------------------ held-out documents
