"""A look at data before any work: what of a sample would be read, mended, refused, passed over."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from whorl.core.ports import Field, Source
from whorl.core.reasons import documents_of, kind_of, table_rows
from whorl.core.sources import FileItem
from whorl.stages.prepare.facts import PROBE_BYTES, evenly, field_of

__all__ = ["Preview", "preview"]

SAMPLE_FILES = 24
SAMPLE_ROWS = 1000  # of a file, also where none can be read


@dataclass
class Preview:
    """Of the sources of a recipe: how much was looked at, and the reasons that were met."""

    num_files: int = 0  # that prepare would read
    num_sampled: int = 0
    num_documents: int = 0  # in the sample
    is_whole: bool = True  # no file was left out, and none given up
    is_read_out: bool = True  # all documents of the files that were looked at were counted
    reasons: Counter[str] = field(default_factory=Counter)

    @property
    def rows(self) -> list[dict[str, Any]]:
        return table_rows(self.reasons)


class _Enough(Exception):
    pass


def preview(fields: Mapping[str, Field], sources: Sequence[Source]) -> Preview:
    """Reads the beginnings of some files of each source. Raises DataError as prepare does."""
    seen = Preview()
    for source in sources:
        items = field_of(fields, source).items(source)
        files = [item for item in items if isinstance(item, FileItem)]
        readable = [item for item in files if item.is_read]
        few = len(readable) <= SAMPLE_FILES
        sample = readable if few else evenly(readable, SAMPLE_FILES)
        seen.is_whole &= few
        seen.num_files += len({item.path for item in readable})
        seen.num_sampled += len({item.path for item in sample})
        others = [item for item in files if not item.is_read]
        for item in [*sample, *others]:
            _look(seen, field_of(fields, source), source, item)
    return seen


def _look(seen: Preview, source_field: Field, source: Source, item: FileItem) -> None:
    num_refused = 0

    def reject(reason: str) -> None:
        nonlocal num_refused
        seen.reasons[reason] += 1
        num_refused += item.is_read and kind_of(reason) == "refused"
        if num_refused == SAMPLE_ROWS:
            raise _Enough

    num_bytes = 0
    try:
        for number, document in enumerate(documents_of(source_field, source, item, reject), 1):
            seen.num_documents += 1
            num_bytes += len(document.text or "")
            if num_bytes > PROBE_BYTES or number == SAMPLE_ROWS:
                seen.is_read_out = False
                return
    except _Enough:
        seen.is_whole = False
