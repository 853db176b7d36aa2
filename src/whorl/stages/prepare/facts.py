"""What a recipe's data is, before any work: a digest of its content, its size, a sample.

The digest is of relative names and bytes, not of where the data lies. Both functions run in
seconds on gigabytes and do not need torch.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whorl.core.digests import digest_bytes, digest_file, digest_value
from whorl.core.errors import DataError, SpecError
from whorl.core.ports import Field, Source
from whorl.stages.prepare import streams
from whorl.stages.prepare.readers import Item
from whorl.stages.prepare.spill import document_bytes

__all__ = ["DataFacts", "data_digest", "data_facts", "field_of"]

SAMPLE_BYTES = 2**20  # of text drawn evenly
SAMPLE_PLACES = 128
PROBE_BYTES = 2**18  # read of an item to see how much text its bytes give
UNPACKED_BYTES = 2**23  # of a compressed file, to see how far it expands
MAX_COUNTED_DOCUMENTS = 100_000


@dataclass(frozen=True)
class DataFacts:
    """num_bytes: on disk; text_bytes: UTF-8 of text, estimated; num_documents: None if unknown.

    sample: about 1 MiB of text drawn evenly from all sources, "" if there is no text.
    """

    num_bytes: int
    num_files: int
    text_bytes: int
    num_documents: int | None
    sample: str


def field_of(fields: Mapping[str, Field], source: Source) -> Field:
    """Raises SpecError if no such field is known."""
    if source.field not in fields:
        raise SpecError(
            f"there is no field {source.field}", expected=", ".join(sorted(fields)) or "a field"
        )
    return fields[source.field]


def data_digest(
    fields: Mapping[str, Field], sources: Sequence[Source], workers: int | None = None
) -> str:
    """Digest of what all sources contain: 64 hex digits; equal for equal content.

    Raises DataError when a source is missing or empty or a file cannot be read.
    """
    values: list[dict[str, Any]] = []
    with ThreadPoolExecutor(workers or min(8, (os.cpu_count() or 1) + 1)) as pool:
        for source in sources:
            field = field_of(fields, source)
            items = field.items(source)
            if all(isinstance(item, Item) for item in items):
                firsts = list({item.name: item for item in items}.values())
                content: list[Any] = list(pool.map(_file_facts, firsts))
            else:
                content = [_documents_digest(field, source, item) for item in items]
            values.append({"field": source.field, "text_key": source.text_key, "content": content})
    return digest_value(values)


def _file_facts(item: Item) -> list[str]:
    if item.kind == "rejected":
        return [item.name, item.reason]
    try:
        return [item.name, digest_file(Path(item.path))]
    except OSError:
        return [item.name, "file cannot be read"]


def _documents_digest(field: Field, source: Source, item: Any) -> str:
    """For items that are no files of ours: the documents themselves."""
    reasons: list[str] = []
    documents = [
        digest_bytes(document_bytes(document))
        for document in field.read(source, item, reasons.append)
    ]
    return digest_value([documents, reasons])


def data_facts(fields: Mapping[str, Field], sources: Sequence[Source]) -> DataFacts:
    """Size and sample of all sources. Raises DataError when a source is missing or empty."""
    parts = [_source_facts(field_of(fields, source), source, len(sources)) for source in sources]
    counts = [part.num_documents for part in parts]
    known = [count for count in counts if count is not None]
    return DataFacts(
        sum(part.num_bytes for part in parts),
        sum(part.num_files for part in parts),
        sum(part.text_bytes for part in parts),
        sum(known) if len(known) == len(counts) else None,
        "\n".join(part.sample for part in parts if part.sample),
    )


def _source_facts(field: Field, source: Source, num_sources: int) -> DataFacts:
    items = field.items(source)
    sample_bytes = SAMPLE_BYTES // max(1, num_sources)
    if not all(isinstance(item, Item) for item in items):
        return _counted(field, source, items, sample_bytes)
    files = [item for item in items if item.kind != "rejected"]
    chosen = _evenly(files, SAMPLE_PLACES)
    room_bytes = max(1, sample_bytes // max(1, len(chosen)))
    texts, read_bytes, given_bytes = [], 0, 0
    for item in chosen:
        consumed_bytes, text = _probe(field, source, item)
        read_bytes += consumed_bytes
        given_bytes += len(text.encode())
        texts.append(text[:room_bytes])
    total_bytes = sum(item.range_bytes for item in files)
    text_bytes = int(total_bytes * given_bytes / max(1, read_bytes))
    num_files = len({item.name for item in files})
    return DataFacts(total_bytes, num_files, text_bytes, None, "\n".join(texts))


def _evenly(items: Sequence[Item], places: int) -> list[Item]:
    """At most `places` items, at even distances of bytes."""
    total_bytes = sum(item.range_bytes for item in items)
    chosen, passed_bytes, next_place = [], 0, 0
    for item in items:
        passed_bytes += item.range_bytes
        if item.range_bytes and passed_bytes * places >= next_place * total_bytes:
            chosen.append(item)
            next_place = passed_bytes * places // max(1, total_bytes) + 1
    return chosen


def _probe(field: Field, source: Source, item: Item) -> tuple[int, str]:
    """(bytes of the file that were read, the text they gave) of an item's beginning."""
    texts, given_bytes = [], 0
    for document in field.read(source, item, lambda reason: None):
        text = document.text or ""
        texts.append(text)
        given_bytes += len(text.encode())
        if given_bytes >= PROBE_BYTES:
            break
    else:
        return item.range_bytes, "\n".join(texts)
    if item.kind == "text" and not item.path.endswith((".gz", ".zst")):
        return given_bytes, "\n".join(texts)
    return _consumed_bytes(item, len(texts)), "\n".join(texts)


def _consumed_bytes(item: Item, num_rows: int) -> int:
    """Bytes of the file that about num_rows rows (or the first pieces) take."""
    try:
        with streams.open_source(item.path, item.root, item.num_bytes) as (content, raw):
            if content is raw:
                content.seek(item.start)
            row_bytes = sum(len(content.readline(streams.MAX_ROW_BYTES)) for _ in range(num_rows))
            if content is raw:
                return row_bytes
            # Enough more that what lies in buffers does not matter.
            unpacked_bytes = row_bytes + len(content.read(UNPACKED_BYTES))
            return max(1, raw.tell() * row_bytes // max(1, unpacked_bytes))
    except (streams.SourceFault, DataError):
        return item.range_bytes


def _counted(field: Field, source: Source, items: Sequence[Any], sample_bytes: int) -> DataFacts:
    """Facts of a source whose items are no files: its documents, read once."""
    count, content_bytes, text_bytes, texts, left_bytes = 0, 0, 0, [], sample_bytes
    for document in _documents(field, source, items):
        count += 1
        content_bytes += len(document_bytes(document))
        if document.text:
            text_bytes += len(document.text.encode())
            if left_bytes > 0:
                texts.append(document.text[:left_bytes])
                left_bytes -= len(texts[-1])
        if count == MAX_COUNTED_DOCUMENTS:
            return DataFacts(content_bytes, 0, text_bytes, None, "\n".join(texts))
    return DataFacts(content_bytes, 0, text_bytes, count, "\n".join(texts))


def _documents(field: Field, source: Source, items: Sequence[Any]) -> Iterator[Any]:
    ignore: Callable[[str], None] = lambda reason: None  # noqa: E731
    for item in items:
        yield from field.read(source, item, ignore)
