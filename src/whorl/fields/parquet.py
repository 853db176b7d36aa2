"""Parquet files by pyarrow, which an extra brings: how many rows, and the rows one by one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any, BinaryIO

from whorl.core.errors import MissingExtra
from whorl.core.streams import MAX_EXPANSION, SourceFault

__all__ = ["count_rows", "parquet_rows"]

BATCH_ROWS = 256  # decoded at a time


def count_rows(path: str) -> int | None:
    """From the file's footer; None if it is damaged. Raises MissingExtra."""
    parquet = _pyarrow()
    try:
        return int(parquet.read_metadata(path).num_rows)
    except _damage():
        return None


def parquet_rows(
    content: BinaryIO, num_bytes: int, keys: Sequence[str]
) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """(number, values of keys; without any, of all columns) of each row.

    Raises SourceFault if the rest cannot be read.
    """
    parquet = _pyarrow()
    number = 0
    try:
        file = parquet.ParquetFile(content)
        names = file.schema_arrow.names
        columns = [key if key in names else key.partition(".")[0] for key in keys]
        for key, column in zip(keys, columns, strict=True):
            if column not in names:
                raise SourceFault(f"no key {key}", f"its columns are {', '.join(names[:8])}")
        metadata = file.metadata
        groups = [metadata.row_group(n).total_byte_size for n in range(metadata.num_row_groups)]
        if sum(groups) > MAX_EXPANSION * num_bytes:
            raise SourceFault(f"file expands more than {MAX_EXPANSION} times")
        for batch in file.iter_batches(BATCH_ROWS, columns=columns or None):
            for row in batch.to_pylist():
                yield number, row
                number += 1
    except _damage() as error:
        raise SourceFault("damaged parquet file") from error


def _damage() -> tuple[type[Exception], ...]:
    """What a damaged file raises."""
    from pyarrow import ArrowException

    return ArrowException, OSError, ValueError


def _pyarrow() -> ModuleType:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtra.of("pyarrow", "parquet", "a .parquet file") from error
    module: ModuleType = pyarrow.parquet
    return module
