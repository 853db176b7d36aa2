"""The held-out documents one by one: what evaluation asks and the server continues.

heldout/documents.safetensors  ids and masks, one document behind the other
heldout/names.json             their names, and the field each is of
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whorl.core.digests import canonical_json, digest_bytes
from whorl.core.errors import RecordError
from whorl.core.ports import HeldoutDocument
from whorl.core.records import Record

__all__ = ["HeldoutDocuments", "write_heldout"]

DOCUMENTS, NAMES = "heldout/documents.safetensors", "heldout/names.json"


@dataclass(frozen=True)
class HeldoutDocuments:
    """Held-out documents one by one, as token ids."""

    names: tuple[str, ...]
    fields: tuple[str, ...]  # [n]: the field each is of
    offsets: NDArray[np.int64] = field(repr=False)  # [n + 1]
    all_ids: NDArray[np.int32] = field(repr=False)
    all_masks: NDArray[np.bool_] = field(repr=False)
    all_num_bytes: NDArray[np.int64] = field(repr=False)  # [n]

    @classmethod
    def open(cls, record: Record) -> HeldoutDocuments:
        """Raises RecordError if the files are damaged or do not fit each other."""
        from safetensors.numpy import load_file

        arrays: Mapping[str, NDArray[Any]] = load_file(record.file(DOCUMENTS))
        told = json.loads(record.file(NAMES).read_bytes())
        names, fields = told["names"], told["fields"]
        counts = [len(names), len(fields), len(arrays["offsets"]) - 1, len(arrays["num_bytes"])]
        if len(set(counts)) != 1:
            raise RecordError(f"{record.path / NAMES} does not fit {DOCUMENTS}", found=counts)
        return cls(
            tuple(names),
            tuple(fields),
            arrays["offsets"],
            arrays["ids"],
            arrays["loss_mask"].astype(np.bool_),
            arrays["num_bytes"],
        )

    def __len__(self) -> int:
        return len(self.names)

    def of_field(self, name: str) -> HeldoutDocuments:
        """Those of one field, in their order; none if it has none."""
        numbers = [number for number, field in enumerate(self.fields) if field == name]
        lengths = [len(self.ids(number)) for number in numbers]
        return HeldoutDocuments(
            tuple(self.names[number] for number in numbers),
            (name,) * len(numbers),
            np.cumsum([0, *lengths], dtype=np.int64),
            np.concatenate([self.all_ids[:0], *map(self.ids, numbers)]),
            np.concatenate([self.all_masks[:0], *map(self.mask, numbers)]),
            self.all_num_bytes[numbers],
        )

    def shuffled(self) -> list[int]:
        """All numbers in the order of a hash of the ids: the same whatever order they came in."""
        digests = [
            digest_bytes(np.ascontiguousarray(self.ids(number), "<i4").tobytes())
            for number in range(len(self))
        ]
        return sorted(range(len(self)), key=lambda number: (digests[number], number))

    def document(self, number: int) -> HeldoutDocument:
        """One document with everything known of it."""
        ids, mask = self.ids(number), self.mask(number)
        return HeldoutDocument(self.names[number], ids, mask, self.num_bytes(number))

    def ids(self, number: int) -> NDArray[np.int32]:
        """All ids of a document, what starts and ends it included: int32 [n]."""
        return self.all_ids[self.offsets[number] : self.offsets[number + 1]]

    def mask(self, number: int) -> NDArray[np.bool_]:
        """Which of them are trained targets: bool [n]."""
        return self.all_masks[self.offsets[number] : self.offsets[number + 1]]

    def num_bytes(self, number: int) -> int:
        """UTF-8 bytes of the document's text; 0 if it is not text."""
        return int(self.all_num_bytes[number])


def write_heldout(
    folder: Path,
    names: Sequence[str],
    ids: Sequence[NDArray[np.integer[Any]]],
    masks: Sequence[NDArray[np.bool_]],
    num_bytes: Sequence[int],
    fields: Sequence[str],
) -> None:
    """Write the files HeldoutDocuments reads, below a record's folder being filled."""
    from safetensors.numpy import save_file

    (folder / DOCUMENTS).parent.mkdir(parents=True, exist_ok=True)
    lengths = np.array([len(part) for part in ids], np.int64)
    arrays = {
        "ids": np.concatenate([np.empty(0, np.int32), *ids]).astype("<i4"),
        "loss_mask": np.concatenate([np.empty(0, np.uint8), *masks]).astype(np.uint8),
        "offsets": np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)]).astype("<i8"),
        "num_bytes": np.asarray(num_bytes, "<i8"),
    }
    save_file(arrays, folder / DOCUMENTS)
    told = canonical_json({"names": list(names), "fields": list(fields)})
    (folder / NAMES).write_text(told, encoding="utf-8")
