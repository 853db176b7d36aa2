"""Two labels side by side <-> two tokens: moves from a square to a square."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from whorl.core.digests import canonical_json
from whorl.core.errors import DataError, RecordError

__all__ = ["PairCodec", "load"]

FILE = "labels.json"
SHOWN_LABELS = 12  # in an error


class PairCodec:
    """A value is the text of two labels, one behind the other: e2e4 of e2 and e4.

    Local ids are places in the list of labels, whichever of the two a label is.
    """

    kind = "label-pair"
    media_type = "application/x-choice"
    value_ids = 2

    def __init__(self, labels: Sequence[str], width: int, name: str = "pair") -> None:
        """width: signs of the first label of a value. Raises DataError on labels that come twice,
        or of which none is as wide."""
        self.name, self.width, self.labels = name, width, tuple(labels)
        self.num_ids = len(self.labels)
        self._ids = {label: number for number, label in enumerate(self.labels)}
        if len(self._ids) != self.num_ids or width not in map(len, self.labels):
            raise DataError(
                f"a codec of pairs needs distinct labels, some of {width} signs",
                found=f"{self.num_ids} labels, {len(self._ids)} distinct",
            )

    def encode(self, value: Any) -> list[int]:
        """Two ids. Raises DataError on what is no two labels."""
        parts = (value[: self.width], value[self.width :]) if isinstance(value, str) else ()
        ids = [self._ids[part] for part in parts if part in self._ids]
        if len(ids) != self.value_ids:
            raise DataError(
                f"there is no {self.name} {str(value)[:80]!r}",
                expected=f"two of {', '.join(self.labels[:SHOWN_LABELS])} … side by side",
                do="correct it, or add it to the training data",
            )
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The labels side by side, also of a single one; of several values joined by spaces."""
        labels = [self.labels[number] for number in ids]
        pairs = range(0, len(labels), self.value_ids)
        return " ".join("".join(labels[at : at + self.value_ids]) for at in pairs)

    def shown(self, ids: Sequence[int]) -> str:
        """What these ids are, in words."""
        return self.decode(ids)

    def to_bytes(self, value: Any) -> bytes:
        """The value in UTF-8. Raises DataError as `encode`."""
        return self.decode(self.encode(value)).encode()

    def from_bytes(self, data: bytes) -> str:
        """Raises DataError on bytes that are no value."""
        return self.decode(self.encode(data.decode("utf-8", "replace")))

    def files(self) -> dict[str, bytes]:
        return {FILE: canonical_json({"labels": list(self.labels), "width": self.width}).encode()}


def load(name: str, files: Mapping[str, bytes]) -> PairCodec:
    """The codec of these files. Raises RecordError if they are not its."""
    try:
        told = json.loads(files[FILE])
        labels, width = told["labels"], told["width"]
        if not all(isinstance(label, str) for label in labels) or not isinstance(width, int):
            raise TypeError("labels are not strings, or their width is no number")
        return PairCodec(labels, width, name)
    except (KeyError, TypeError, ValueError, RecursionError, DataError) as error:
        raise RecordError(f"codec {name} is not a codec of pairs", found=error) from error
