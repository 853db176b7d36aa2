"""Reusable readers of formats: text, and rows with keys from jsonl, csv, tsv and parquet.

A field lists items by `whorl.fields.files` and reads them here: `rows_of` where rows have keys,
`texts_of` where a file is text, `read_item` for either as plain text documents. What cannot be used
is rejected with a reason out of a small fixed set. Names are the file's with `@` and the byte a
row or piece begins at, in tables the row's number.
"""

from __future__ import annotations

import csv
import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO, TypeVar

from whorl.codecs.contract import CHAT
from whorl.core import streams
from whorl.core.encodings import guess, guessed, is_wide
from whorl.core.errors import DataError
from whorl.core.ports import Document, Part
from whorl.core.sources import FileItem
from whorl.fields.chat_shapes import is_chat_row
from whorl.fields.jsonl import Row, json_rows
from whorl.fields.parquet import parquet_rows
from whorl.fields.places import Places, Reject

__all__ = ["lines_of", "mended_text", "read_item", "rows_of", "text_of", "texts_of"]

T = TypeVar("T")
OTHER_DELIMITERS = (";", "\t", "|")  # of tables that do not use the usual one
MAX_NUL_SHARE = 0.01  # of a text file's signs; with more it is no text
CR_ALONE = re.compile("\r(?!\n)")  # how lines of a table may end
CR_LINES = re.compile("[^\r]*\r\n?|[^\r]+")
SURROGATES = re.compile("[\ud800-\udfff]")


def read_item(item: FileItem, reject: Reject, text_key: str = "text") -> Iterator[Document]:
    """Documents of text; calls reject(reason) for each row, piece or file it cannot use.

    text_key: key of the text in files of rows, with dots into objects in rows. Raises DataError if
    the file changed since the items were listed, MissingExtra if a package is missing that reads
    its format.
    """
    if item.kind == "text" or not item.is_read:
        named = texts_of(item, reject)
    else:
        named = _texts_of_rows(item, Places.of(item, reject), text_key)
    for name, text in named:
        yield Document(name, (Part("text", text),))


def _texts_of_rows(item: FileItem, places: Places, text_key: str) -> Iterator[tuple[str, str]]:
    for name, row in rows_of(item, [text_key], places):
        try:
            text = text_of(row, text_key)
            if not text.isspace() and text != (cleaned := mended_text(text, places)):
                text = cleaned
            yield name, _checked(text)
        except ValueError as error:
            places.refuse(*error.args)


def text_of(row: Row, key: str) -> str:
    """The text of a row; a key with dots reaches into objects, unless a key has that very name.

    Raises ValueError with the reason of the rejection, and what was found instead.
    """
    value: Any = row
    for part in [key] if key in row or "." not in key else key.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise ValueError(*_no_key(key, row))
        value = value[part]
    if not isinstance(value, str):
        kind = "null" if value is None else type(value).__name__
        raise ValueError(f"{key} is not a text", f"it is {kind}: give another text_key")
    return value


def _no_key(key: str, row: Row) -> tuple[str, str]:
    """(reason, what the row has instead and which of it to ask for)."""
    keys = [str(name)[:40] for name in row]
    has = f"it has {', '.join(keys[:8])}{' …' if len(keys) > 8 else ''}" if keys else "it is empty"
    if is_chat_row(row):
        told = f"{has}: write field: {CHAT}; text_key names one key of text"
        return f"no key {key}, but a chat", told
    texts = [name for name, value in row.items() if isinstance(value, str) and value.strip()]
    inner = [
        f"{name}.{below}"
        for name, value in row.items()
        if isinstance(value, Mapping)
        for below in value
        if isinstance(value[below], str)
    ]
    best = max(texts, key=lambda name: len(row[name]), default="") or next(iter(inner), "")
    return f"no key {key}", f"{has}: write text_key: {best}" if best else has


def texts_of(item: FileItem, reject: Reject) -> Iterator[tuple[str, str]]:
    """(name, text) of a text file, in pieces if it is long."""
    places = Places.of(item, reject)

    def read(opened: streams.Opened) -> Iterator[tuple[str, str]]:
        for offset, data in streams.pieces(opened.content, item.start, item.end):
            places.at(None)
            text = _decoded(data, opened, places)
            if text is None or (not text and opened.fault):
                continue
            try:
                if text.count("\0") > MAX_NUL_SHARE * len(text):
                    raise ValueError(*_nul_in_text(data))
                text = _checked(mended_text(text, places))
            except ValueError as error:
                places.refuse(*error.args)
                continue
            yield item.name if offset is None else f"{item.name}@{offset}", text

    return _opened(item, places, read)


def _decoded(data: bytes, opened: streams.Opened, places: Places) -> str | None:
    """None: it is not UTF-8, which is told. What is cut off within a sign loses that sign."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if opened.fault and error.end == len(data):
            return data[: error.start].decode("utf-8-sig")
        line_start = data.rfind(b"\n", 0, error.start) + 1
        line = data.count(b"\n", 0, error.start) + 1
        places.at(line, error.start - line_start + 1).refuse_bytes(data)
        return None


def _nul_in_text(data: bytes) -> tuple[str, ...]:
    """What a file with many NULs may be: UTF-16 without its mark, or no text."""
    name = guess(data)
    if not name:
        return ("NUL in text", "no text: take it out of the source")
    return f"NUL in text, looks like {name}", f"write encoding: {name.lower()} in the data entry"


def rows_of(item: FileItem, keys: Sequence[str], reject: Reject) -> Iterator[tuple[str, Row]]:
    """(name, row) of each row of an item. keys: those that a table must have; (): all are read."""
    places = Places.of(item, reject)

    def read(opened: streams.Opened) -> Iterator[tuple[str, Row]]:
        if item.kind != "parquet" and is_wide(head := streams.head_of(opened.content)):
            raise streams.SourceFault(*_nul_in_text(head))
        if item.kind == "jsonl":
            rows = json_rows(opened.content, places)
        elif item.kind == "parquet":
            rows = parquet_rows(opened.content, item.num_bytes, keys)
        else:
            rows = _csv(opened.content, "\t" if item.kind == "tsv" else ",", keys, places)
        for place, row in rows:
            yield f"{item.name}@{place}", row

    return _opened(item, places, read)


def lines_of(item: FileItem, reject: Reject) -> Iterator[str]:
    """The lines of a text file that are not empty, without their ends; `reject` is told where."""
    places = Places.of(item, reject)

    def read(opened: streams.Opened) -> Iterator[tuple[str, str]]:
        if is_wide(head := streams.head_of(opened.content)):
            raise streams.SourceFault(*_nul_in_text(head))
        for number, line in enumerate(_decoded_lines(opened.content, places), 1):
            if text := line.strip("\r\n"):
                places.at(number)
                yield item.name, text

    return (text for _, text in _opened(item, places, read))


def _opened(
    item: FileItem, places: Places, read: Callable[[streams.Opened], Iterator[tuple[str, T]]]
) -> Iterator[tuple[str, T]]:
    """What `read` makes of the file's bytes; a fault in them is counted."""
    if not item.is_read:
        places.refuse_item()
        return
    encoding = None if item.kind == "parquet" else item.encoding
    try:
        with streams.open_source(item.path, item.root, item.num_bytes, encoding) as opened:
            yield from read(opened)
            if opened.fault:
                places.at(None).refuse(opened.fault)
    except streams.SourceFault as fault:
        places.refuse(*fault.args)
    except OSError as error:
        raise DataError(f"cannot read {item.name}", found=error.strerror) from error


def _csv(
    content: BinaryIO, delimiter: str, keys: Sequence[str], places: Places
) -> Iterator[tuple[int, Row]]:
    """Rows of a table whose first row names the columns."""
    csv.field_size_limit(streams.MAX_ROW_BYTES)
    lines = _decoded_lines(content, places)
    first = next(lines, "")
    delimiter = _delimiter(first, delimiter, keys)
    reader = csv.reader(itertools.chain([first], lines), delimiter=delimiter, strict=True)
    try:
        header = next(reader, [])
        places.at(1)
        if missing := [key for key in keys if key not in header]:
            raise streams.SourceFault(f"no key {missing[0]}", _other_columns(header))
        if len(set(header)) < len(header):
            raise streams.SourceFault("two columns of one name")
        for number, values in enumerate(row for row in reader if row):
            places.at(reader.line_num)
            if len(values) == len(header):
                yield number, dict(zip(header, values, strict=True))
            else:
                found = f"{len(values)} of {len(header)} columns"
                places.refuse("row with more or fewer values than columns", found)
    except csv.Error as error:
        places.at(reader.line_num)
        raise streams.SourceFault("not CSV from some row on") from error


def _delimiter(first: str, usual: str, keys: Sequence[str]) -> str:
    """The sign between columns: the usual one, or another with which the first row has the keys."""
    for sign in (usual, *OTHER_DELIMITERS):
        try:
            header = next(csv.reader([first], delimiter=sign, strict=True), [])
        except csv.Error:
            continue
        if len(header) > 1 and all(key in header for key in keys):
            return sign
    return usual


def _other_columns(header: Sequence[str]) -> str:
    return f"its columns are {', '.join(header[:8])}: write text_key: one of them"


def _decoded_lines(content: BinaryIO, places: Places) -> Iterator[str]:
    for number, (offset, line) in enumerate(streams.lines(content, 0, None), 1):
        if line is None:
            raise streams.SourceFault(streams.too_long())
        try:
            text = line.decode("utf-8" if offset else "utf-8-sig")
            yield from CR_LINES.findall(text) if CR_ALONE.search(text) else [text]
        except UnicodeDecodeError as error:
            places.at(number, error.start + 1)
            words, hint = guessed(line)
            raise streams.SourceFault(f"{words}, from some row on", hint) from error


def mended_text(text: str, places: Places) -> str:
    """A text without NUL, and with a mark in place of half a surrogate pair."""
    if "\0" in text:
        text = text.replace("\0", "")
        places.mend("NUL taken out of the text")
    try:
        text.encode()
    except UnicodeEncodeError:
        text = SURROGATES.sub("\ufffd", text)
        places.mend("half a sign (lone surrogate) replaced in the text")
    return text


def _checked(text: str) -> str:
    """Raises ValueError on text that says nothing."""
    if not text or text.isspace():
        raise ValueError("empty")
    return text
