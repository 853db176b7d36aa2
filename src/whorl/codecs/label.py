"""A closed set of strings <-> one token each: answers, classes, moves, items, entities."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from whorl.core.digests import canonical_json
from whorl.core.errors import DataError, RecordError
from whorl.core.nearest import meant

__all__ = ["LabelCodec", "load"]

FILE = "labels.json"
SHOWN_LABELS = 12  # in an error


class LabelCodec:
    """Local id = place of the label in the list."""

    kind = "label"
    media_type = "application/x-choice"
    value_ids = 1

    def __init__(self, labels: Sequence[str], name: str = "label") -> None:
        """Raises DataError on an empty list or a label that comes twice."""
        if not labels or len(set(labels)) != len(labels):
            raise DataError(
                "a label codec needs distinct labels",
                found=f"{len(labels)} labels, {len(set(labels))} distinct",
            )
        self.name = name
        self.labels = tuple(labels)
        self.num_ids = len(self.labels)
        self._ids = {label: number for number, label in enumerate(self.labels)}

    @classmethod
    def fit(cls, values: Iterable[str], name: str = "label") -> LabelCodec:
        """The labels that occur, sorted. Raises DataError if there is none."""
        return cls(sorted(set(values)), name)

    def encode(self, value: Any) -> list[int]:
        """One id. Raises DataError, with the nearest label, on one that it was not fitted on."""
        number = self._ids.get(value) if isinstance(value, str) else None
        if number is None:
            more = "" if self.num_ids <= SHOWN_LABELS else f" … ({self.num_ids:,} in all)"
            near = meant(value, self.labels) if isinstance(value, str) else ""
            raise DataError(
                f"there is no {self.name} {str(value)[:80]!r}{near}",
                expected=", ".join(self.labels[:SHOWN_LABELS]) + more,
                do="add it to the training data",
            )
        return [number]

    def decode(self, ids: Sequence[int]) -> str:
        """The label; several joined by spaces."""
        return " ".join(self.labels[number] for number in ids)

    def to_bytes(self, value: Any) -> bytes:
        """The label in UTF-8. Raises DataError as `encode`."""
        return self.labels[self.encode(value)[0]].encode()

    def from_bytes(self, data: bytes) -> str:
        """Raises DataError on bytes that are no label."""
        return self.labels[self.encode(data.decode("utf-8", "replace"))[0]]

    def files(self) -> dict[str, bytes]:
        return {FILE: canonical_json({"labels": list(self.labels)}).encode()}


def load(name: str, files: Mapping[str, bytes]) -> LabelCodec:
    """The codec of these files. Raises RecordError if they are not its."""
    try:
        labels = json.loads(files[FILE])["labels"]
        if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
            raise TypeError("labels are not strings")
        return LabelCodec(labels, name)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise RecordError(f"codec {name} is not a label codec", found=error) from error
