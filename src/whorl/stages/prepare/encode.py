"""Last pass, one task at a time: documents of a spill file to token ids in temporary files."""

from __future__ import annotations

import functools
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from whorl.codecs.contract import CHAT, Tokens
from whorl.core.errors import DataError
from whorl.core.ports import Document
from whorl.stages.prepare import split
from whorl.stages.prepare.spill import SpillReader

__all__ = ["UNTRAINED", "EncodeTask", "Encoded", "encode", "encode_with_folder"]

UNTRAINED = "no trained token"


@dataclass(frozen=True)
class EncodeTask:
    """Documents of one spill file and what becomes of each (split.TRAIN …)."""

    path: Path
    source_number: int
    offsets: NDArray[np.int64]
    actions: NDArray[np.int8]
    cut_share: float
    out: Path  # ids as u4 in .ids, masks as bytes in .mask


@dataclass
class Encoded:
    """m encoded documents in the order of the spill file; arrays are [m]."""

    out: Path
    source_number: int
    is_heldout: NDArray[np.bool_]
    lengths: NDArray[np.int64]  # tokens
    num_bytes: NDArray[np.int64]  # of text in UTF-8, of a chat what is trained; 0 if it is none
    heldout_names: list[str]
    rejected: Counter[str]
    first_rejected: str  # its name and why; "" if none is

    def read(self) -> tuple[NDArray[np.uint32], NDArray[np.bool_]]:
        """(ids, masks) of all documents one after another."""
        ids = np.fromfile(self.out.with_suffix(".ids"), "<u4")
        return ids, np.fromfile(self.out.with_suffix(".mask"), np.bool_)

    def remove(self) -> None:
        """Delete the files, once they are packed."""
        for suffix in (".ids", ".mask"):
            self.out.with_suffix(suffix).unlink()


def encode(tokens: Tokens, task: EncodeTask) -> Encoded:
    """Run a task. Documents that codecs refuse, or without a trained token, count as rejected."""
    lengths: list[int] = []
    num_bytes: list[int] = []
    is_heldout: list[bool] = []
    names: list[str] = []
    rejected: Counter[str] = Counter()
    first_rejected = ""
    with (
        SpillReader(task.path, task.offsets) as reader,
        task.out.with_suffix(".ids").open("wb") as ids_file,
        task.out.with_suffix(".mask").open("wb") as mask_file,
    ):
        for number in np.flatnonzero(task.actions != split.DROPPED).tolist():
            action = int(task.actions[number])
            for document, heldout in _split(reader.document(number), action, task.cut_share):
                ids, mask, reason = _encoded(tokens, document)
                if reason:
                    rejected[reason] += 1
                    first_rejected = first_rejected or f"{document.name}: {reason}"
                    continue
                ids_file.write(ids.astype("<u4").tobytes())
                mask_file.write(mask.tobytes())
                lengths.append(len(ids))
                num_bytes.append(_text_bytes(tokens, document, ids[mask]))
                is_heldout.append(heldout)
                if heldout:
                    names.append(document.name)
    return Encoded(
        task.out,
        task.source_number,
        np.array(is_heldout, np.bool_),
        np.array(lengths, np.int64),
        np.array(num_bytes, np.int64),
        names,
        rejected,
        first_rejected,
    )


def _encoded(
    tokens: Tokens, document: Document
) -> tuple[NDArray[np.int64], NDArray[np.bool_], str]:
    """(ids, mask, why the document cannot be used or "")."""
    try:
        ids, mask = tokens.encode_arrays(document)
    except DataError as error:
        is_chat = any(part.codec == CHAT for part in document.parts)
        reason = error.what if is_chat else "a codec cannot encode it"
        return np.empty(0, np.int64), np.empty(0, np.bool_), reason
    return ids, mask, "" if mask.any() else UNTRAINED


def _text_bytes(tokens: Tokens, document: Document, trained: NDArray[np.int64]) -> int:
    if document.parts and document.parts[0].codec == CHAT:
        return len(tokens.decode(trained.tolist()).encode())
    return len((document.text or "").encode())


def _split(document: Document, action: int, cut_share: float) -> list[tuple[Document, bool]]:
    if action != split.CUT:
        return [(document, action == split.HELDOUT)]
    trained, heldout = split.cut_document(document, cut_share)
    return [(trained, False), (heldout, True)]


def encode_with_folder(folder: Path, task: EncodeTask) -> Encoded:
    """The same in a worker process, which loads the token contract once."""
    return encode(_loaded(folder), task)


@functools.lru_cache(maxsize=1)
def _loaded(folder: Path) -> Tokens:
    return Tokens.load(folder)
