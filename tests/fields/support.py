"""What tests of fields share."""

from __future__ import annotations

from collections import Counter

from whorl.core.ports import Document, Field, Source

__all__ = ["read_all"]


def read_all(field: Field, source: Source) -> tuple[list[Document], Counter[str]]:
    """(documents of a source, how often each reason was told)."""
    reasons: Counter[str] = Counter()
    documents = [
        document
        for item in field.items(source)
        for document in field.read(source, item, lambda reason: reasons.update([reason]))
    ]
    return documents, reasons
