"""Reusable readers of formats: text, and rows with keys from jsonl, csv, tsv and parquet.

A field lists items by `whorl.fields.files` and reads them here: `rows_of` where rows have keys,
`texts_of` where a file is text, `read_item` for either as plain text documents. What cannot be used
is rejected with a reason out of a small fixed set. Names are the file's with `@` and the byte a
row or piece begins at, in tables the row's number.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO, TypeVar

from whorl.core import streams
from whorl.core.errors import DataError
from whorl.core.ports import Document, Part
from whorl.core.sources import FileItem
from whorl.fields.parquet import parquet_rows

__all__ = ["read_item", "rows_of", "text_of", "texts_of"]

Reject = Callable[[str], None]
Row = Mapping[str, Any]
T = TypeVar("T")


def read_item(item: FileItem, reject: Reject, text_key: str = "text") -> Iterator[Document]:
    """Documents of text; calls reject(reason) for each row, piece or file it cannot use.

    text_key: key of the text in files of rows. Raises DataError if the file changed since the
    items were listed, MissingExtra if a package is missing that reads its format.
    """
    if item.kind in ("text", "rejected"):
        named = texts_of(item, reject)
    else:
        named = _texts_of_rows(item, reject, text_key)
    for name, text in named:
        yield Document(name, (Part("text", text),))


def _texts_of_rows(item: FileItem, reject: Reject, text_key: str) -> Iterator[tuple[str, str]]:
    for name, row in rows_of(item, [text_key], reject):
        try:
            yield name, text_of(row, text_key)
        except ValueError as error:
            reject(str(error))


def text_of(row: Row, key: str) -> str:
    """The text of a row. Raises ValueError whose text is the reason of the rejection."""
    if key not in row:
        raise ValueError(f"no key {key}")
    if not isinstance(row[key], str):
        raise ValueError(f"{key} is not a text")
    return _checked(row[key])


def texts_of(item: FileItem, reject: Reject) -> Iterator[tuple[str, str]]:
    """(name, text) of a text file, in pieces if it is long."""

    def read(content: BinaryIO) -> Iterator[tuple[str, str]]:
        for offset, data in streams.pieces(content, item.start, item.end):
            try:
                text = _checked(_decode(data))
            except ValueError as error:
                reject(str(error))
                continue
            yield item.name if offset is None else f"{item.name}@{offset}", text

    return _opened(item, reject, read)


def rows_of(item: FileItem, keys: Sequence[str], reject: Reject) -> Iterator[tuple[str, Row]]:
    """(name, row) of each row of an item. keys: those that a table must have and that are read."""

    def read(content: BinaryIO) -> Iterator[tuple[str, Row]]:
        if item.kind == "jsonl":
            rows = _jsonl(content, item, reject)
        elif item.kind == "parquet":
            rows = parquet_rows(content, item.num_bytes, keys)
        else:
            rows = _csv(content, "\t" if item.kind == "tsv" else ",", keys, reject)
        for place, row in rows:
            yield f"{item.name}@{place}", row

    return _opened(item, reject, read)


def _opened(
    item: FileItem, reject: Reject, read: Callable[[BinaryIO], Iterator[tuple[str, T]]]
) -> Iterator[tuple[str, T]]:
    """What `read` makes of the file's bytes; a fault in them is counted."""
    if item.kind == "rejected":
        reject(item.reason)
        return
    try:
        with streams.open_source(item.path, item.root, item.num_bytes) as (content, _):
            yield from read(content)
    except streams.SourceFault as fault:
        reject(str(fault))
    except OSError as error:
        raise DataError(f"cannot read {item.name}", found=error.strerror) from error


def _jsonl(content: BinaryIO, item: FileItem, reject: Reject) -> Iterator[tuple[int, Row]]:
    for offset, line in streams.lines(content, item.start, item.end):
        if line is None:
            reject(f"row longer than {streams.MAX_ROW_BYTES:,} bytes")
            continue
        if line.isspace():
            continue
        try:
            row = _json_object(line)
        except ValueError as error:
            reject(str(error))
            continue
        yield offset, row


def _json_object(line: bytes) -> Row:
    """Raises ValueError whose text is the reason of the rejection."""
    try:
        row = json.loads(line.decode("utf-8-sig"), parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise ValueError("not UTF-8") from error
    except RecursionError as error:
        raise ValueError("JSON nested too deeply") from error
    except _Constant as error:
        raise ValueError("NaN or Infinity in JSON") from error
    except ValueError as error:
        raise ValueError("not JSON") from error
    if not isinstance(row, dict):
        raise ValueError("JSON but not an object")
    return row


class _Constant(ValueError):
    pass


def _refuse_constant(name: str) -> None:
    raise _Constant(name)


def _csv(
    content: BinaryIO, delimiter: str, keys: Sequence[str], reject: Reject
) -> Iterator[tuple[int, Row]]:
    """Rows of a table whose first row names the columns."""
    csv.field_size_limit(streams.MAX_ROW_BYTES)
    reader = csv.reader(_decoded_lines(content), delimiter=delimiter, strict=True)
    try:
        header = next(reader, [])
        if missing := [key for key in keys if key not in header]:
            raise streams.SourceFault(f"no key {missing[0]}")
        if len(set(header)) < len(header):
            raise streams.SourceFault("two columns of one name")
        for number, values in enumerate(row for row in reader if row):
            if len(values) == len(header):
                yield number, dict(zip(header, values, strict=True))
            else:
                reject("row with more or fewer values than columns")
    except csv.Error as error:
        raise streams.SourceFault("not CSV from some row on") from error


def _decoded_lines(content: BinaryIO) -> Iterator[str]:
    for offset, line in streams.lines(content, 0, None):
        if line is None:
            raise streams.SourceFault(f"row longer than {streams.MAX_ROW_BYTES:,} bytes")
        try:
            yield line.decode("utf-8" if offset else "utf-8-sig")
        except UnicodeDecodeError as error:
            raise streams.SourceFault("not UTF-8 from some row on") from error


def _decode(data: bytes) -> str:
    encoding = "utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError("not UTF-8") from error


def _checked(text: str) -> str:
    """Raises ValueError on text that no tokenizer should see."""
    if not text or text.isspace():
        raise ValueError("empty")
    if "\0" in text:
        raise ValueError("NUL in text")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError("lone surrogate in text") from error
    return text
