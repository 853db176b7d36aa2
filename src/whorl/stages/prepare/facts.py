"""What a recipe's data is, before any work: a digest of its content, and how much text it holds.

The digest is of relative names and bytes, not of where the data lies. Both functions run in
seconds on gigabytes and do not need torch.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from whorl.core import streams
from whorl.core.digests import digest_bytes, digest_value
from whorl.core.errors import DataError, SpecError
from whorl.core.ports import Field, Source
from whorl.core.reasons import documents_of
from whorl.core.sources import PASSED_OVER, DatasetItem, FileItem, SourceIndex
from whorl.stages.prepare.spill import document_bytes

__all__ = ["data_digest", "evenly", "field_of", "releases_of", "text_bytes"]

SAMPLE_PLACES = 128
PROBE_BYTES = 2**18  # read of an item to see how much text its bytes give
UNPACKED_BYTES = 2**23  # of a compressed file, to see how far it expands
MAX_COUNTED_DOCUMENTS = 100_000
MAX_TEXTLESS = 256  # documents without any text, after which no more of an item is looked at


def field_of(fields: Mapping[str, Field], source: Source) -> Field:
    """Raises SpecError if no such field is known."""
    if source.field not in fields:
        raise SpecError(
            f"there is no field {source.field}",
            expected=", ".join(sorted(fields)) or "a field",
            do="correct the data's field in the recipe",
        )
    return fields[source.field]


def data_digest(
    fields: Mapping[str, Field],
    sources: Sequence[Source],
    workers: int | None = None,
    index: SourceIndex | None = None,
) -> str:
    """Digest of what all sources contain: 64 hex digits; equal for equal content.

    index: remembers the digests of files, so that unchanged ones are not read again.
    Raises DataError when a source is missing or empty or a file changes meanwhile.
    """
    index = index or SourceIndex()
    workers = workers or min(8, (os.cpu_count() or 1) + 1)
    values: list[dict[str, Any]] = []
    for source in sources:
        field = field_of(fields, source)
        items = field.items(source)
        files = {
            item.name: item
            for item in items
            if isinstance(item, FileItem) and item.kind != PASSED_OVER
        }
        readable = [item.path for item in files.values() if item.is_read]
        name = f"{source.field} {source.path}"
        digests = index.digests(name, readable, workers)
        content: list[Any] = [
            [item.name, digests.get(item.path, item.reason)] for item in files.values()
        ]
        content += [
            item.identity
            if isinstance(item, DatasetItem)
            else _documents_digest(field, source, item)
            for item in items
            if not isinstance(item, FileItem)
        ]
        value = {"field": source.field, "options": dict(source.options), "content": content}
        values.append({**value, "encoding": source.encoding} if source.encoding else value)
    return digest_value(values)


def _documents_digest(field: Field, source: Source, item: Any) -> str:
    """For items that are no files of ours: the documents themselves."""
    reasons: list[str] = []
    documents = [
        digest_bytes(document_bytes(document))
        for document in documents_of(field, source, item, reasons.append)
    ]
    return digest_value([documents, reasons])


def text_bytes(fields: Mapping[str, Field], sources: Sequence[Source]) -> int:
    """UTF-8 bytes of all text, estimated from an even sample of the files.

    Raises DataError when a source is missing or empty.
    """
    return sum(_text_bytes(field_of(fields, source), source) for source in sources)


def _text_bytes(field: Field, source: Source) -> int:
    items = field.items(source)
    files = [item for item in items if isinstance(item, FileItem) and item.is_read]
    read_bytes = given_bytes = 0
    for item in evenly(files, SAMPLE_PLACES):
        consumed_bytes, text = _probe(field, source, item)
        read_bytes += consumed_bytes
        given_bytes += len(text.encode())
    of_files = sum(item.range_bytes for item in files) * given_bytes // max(1, read_bytes)
    known = sum(item.text_bytes for item in items if isinstance(item, DatasetItem))
    others = [item for item in items if not isinstance(item, FileItem | DatasetItem)]
    return of_files + known + _counted(field, source, others)


def releases_of(sources: Sequence[Source]) -> list[Mapping[str, Any]]:
    """What was fetched for sources and for those that their options name."""
    others = [other for source in sources for mine in source.others.values() for other in mine]
    return [each.release for each in (*sources, *others) if each.release is not None]


def evenly(items: Sequence[FileItem], places: int) -> list[FileItem]:
    """At most `places` items, at even distances of bytes."""
    total_bytes = sum(item.range_bytes for item in items)
    chosen, passed_bytes, next_place = [], 0, 0
    for item in items:
        passed_bytes += item.range_bytes
        if item.range_bytes and passed_bytes * places >= next_place * total_bytes:
            chosen.append(item)
            next_place = passed_bytes * places // max(1, total_bytes) + 1
    return chosen


def _probe(field: Field, source: Source, item: FileItem) -> tuple[int, str]:
    """(bytes of the file that were read, the text they gave) of an item's beginning."""
    texts, given_bytes = [], 0
    for document in documents_of(field, source, item, lambda reason: None):
        text = document.text or ""
        texts.append(text)
        given_bytes += len(text.encode())
        if given_bytes >= PROBE_BYTES or (not given_bytes and len(texts) == MAX_TEXTLESS):
            break
    else:
        return item.range_bytes, "\n".join(texts)
    if item.num_rows:
        return item.range_bytes * len(texts) // item.num_rows, "\n".join(texts)
    return _consumed_bytes(item, len(texts), given_bytes), "\n".join(texts)


def _consumed_bytes(item: FileItem, num_rows: int, text_bytes: int) -> int:
    """Bytes of the file that about num_rows rows (or the first pieces) of so much text take."""
    try:
        encoding = None if item.kind == "parquet" else item.encoding
        with streams.open_source(item.path, item.root, item.num_bytes, encoding) as opened:
            content, raw = opened.content, opened.raw
            if opened.is_plain:
                content.seek(item.start)
            first_bytes = row_bytes = len(content.readline(streams.MAX_ROW_BYTES))
            if num_rows == 1 or first_bytes < text_bytes:  # else all rows stand in one line
                for _ in range(num_rows - 1):
                    row_bytes += len(content.readline(streams.MAX_ROW_BYTES))
                row_bytes = max(row_bytes, text_bytes)  # rows of a table may have several lines
            else:
                row_bytes = text_bytes
            if opened.is_plain:
                return row_bytes
            # Enough more that what lies in buffers does not matter.
            unpacked_bytes = row_bytes + len(content.read(UNPACKED_BYTES))
            return max(1, raw.tell() * row_bytes // max(1, unpacked_bytes))
    except (streams.SourceFault, DataError):
        return item.range_bytes


def _counted(field: Field, source: Source, items: Sequence[Any]) -> int:
    """Of items of unknown size: that of their (first) documents."""
    total_bytes = 0
    for count, document in enumerate(_documents(field, source, items)):
        if count == MAX_COUNTED_DOCUMENTS:
            break
        total_bytes += len((document.text or "").encode())
    return total_bytes


def _documents(field: Field, source: Source, items: Sequence[Any]) -> Iterator[Any]:
    for item in items:
        yield from documents_of(field, source, item, lambda reason: None)
