"""A sample of each source: whole items in a shuffled order, until there is enough of it."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from blake3 import blake3

from whorl.core.ports import Document, Source
from whorl.core.ports import Field as DataField
from whorl.core.reasons import documents_of
from whorl.core.sources import PASSED_OVER

__all__ = ["Read", "Sample", "read_sample"]

# Of all sources together, in equal parts: what is not looked at in one is not there for another.
MAX_READ_BYTES = 64 * 2**20
MAX_READ_DOCUMENTS = 200_000
# Of each source.
MAX_MADE_DOCUMENTS = 500  # computed, not read: a drive takes half a second
MAX_ARRAY_BYTES = 8 * 2**20  # of sounds and images, each of which costs time to read or to make

Sample = Sequence[tuple[int, Document]]  # number of the source, document


@dataclass
class Read:
    """What was read of the sources. factors: of each, its items over those looked at."""

    documents: list[tuple[int, Document]] = field(default_factory=list)
    factors: list[float] = field(default_factory=list)
    num_heldout: int = 0
    read_share: float = 1.0  # of all items
    reasons: Counter[str] = field(default_factory=Counter)
    bytes_read: list[int] = field(default_factory=list)  # of each source

    @property
    def num_documents(self) -> float:
        """Of all there are: items that were not looked at have as many as the others."""
        return sum(self.factors[number] for number, _ in self.documents)

    @property
    def num_bytes(self) -> float:
        """Of the text of all there are, in UTF-8."""
        return sum(a * b for a, b in zip(self.factors, self.bytes_read, strict=True))


def read_sample(fields: Mapping[str, DataField], sources: Sequence[Source], seed: int) -> Read:
    """Exact copies count once, also in two sources; held-out documents are counted, not kept."""
    read, seen = Read(), set[bytes]()
    num_items, num_looked = 0, 0
    for number, source in enumerate(sources):
        source_field = fields[source.field]
        items = [
            item for item in source_field.items(source) if getattr(item, "kind", "") != PASSED_OVER
        ]
        random.Random(seed).shuffle(items)
        looked = _read_source(read, number, source_field, source, items, len(sources), seen)
        read.factors.append(len(items) / looked if looked else 1.0)
        num_items, num_looked = num_items + len(items), num_looked + looked
    read.read_share = num_looked / num_items if num_items else 1.0
    return read


def _read_source(
    read: Read,
    number: int,
    source_field: DataField,
    source: Source,
    items: Sequence[object],
    num_sources: int,
    seen: set[bytes],
) -> int:
    """How many items were looked at until there was enough."""
    num_documents, num_bytes, array_bytes, looked = 0, 0, 0, 0
    for item in items:
        is_made = getattr(item, "is_made", False)
        most = MAX_MADE_DOCUMENTS if is_made else MAX_READ_DOCUMENTS / num_sources
        is_much = num_bytes > MAX_READ_BYTES / num_sources or array_bytes > MAX_ARRAY_BYTES
        if is_much or num_documents >= most:
            break
        looked += 1
        for document in documents_of(
            source_field, source, item, lambda told: read.reasons.update([told])
        ):
            if document.split == "heldout":
                read.num_heldout += 1
                continue
            data = (document.text or "").encode("utf-8", "replace")
            key = blake3(data).digest()
            if data and key in seen:
                continue
            seen.add(key)
            read.documents.append((number, document))
            num_documents, num_bytes = num_documents + 1, num_bytes + len(data)
            array_bytes += sum(int(getattr(part.value, "nbytes", 0)) for part in document.parts)
    read.bytes_read.append(num_bytes)
    return looked
