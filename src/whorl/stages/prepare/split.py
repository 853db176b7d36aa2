"""Which documents are held out: by a hash of their content and the seed, after deduplication.

Per source: the documents whose hash falls below the share. If they are none, or too few bytes for
one validation row, the next ones by hash follow, as long as they leave most of the source to
train on. Of a source that is one single text, the last part is held out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from whorl.core.errors import DataError
from whorl.core.ports import Document, Part

__all__ = [
    "CUT",
    "DROPPED",
    "HELDOUT",
    "TRAIN",
    "SourceDocuments",
    "choose_heldout",
    "cut_document",
    "split_hashes",
]

DROPPED, TRAIN, HELDOUT, CUT = 0, 1, 2, 3  # CUT: the last part is held out, the rest trained
MAX_HELDOUT_BYTES = 64 * 2**20  # of a source: more would measure no better
MAX_EXTRA_SHARE = 0.3  # of a source's bytes, held out only to fill a validation row
MIN_CUT_SHARE, MAX_CUT_SHARE = 0.01, 0.5  # of a single text


@dataclass(frozen=True)
class SourceDocuments:
    """Documents of one source that may be split: [n] each."""

    hashes: NDArray[np.float64]
    num_bytes: NDArray[np.int64]


def split_hashes(digests: NDArray[np.uint8], seed: int) -> NDArray[np.float64]:
    """A number in [0, 1) per document from its digest [n, 32] and the seed."""
    key = blake3(f"whorl split {seed}".encode()).digest()
    words = [int.from_bytes(blake3(row.tobytes(), key=key).digest(8), "little") for row in digests]
    return np.array(words, np.float64) / 2.0**64


def choose_heldout(
    documents: SourceDocuments, share: float, wanted_bytes: int, single_text: bool
) -> NDArray[np.int8]:
    """TRAIN, HELDOUT or CUT for each document of a source.

    wanted_bytes: what is wanted for validation, if the source is large enough. single_text:
    a single document may be cut. Raises DataError on a single document that is no text.
    """
    count = len(documents.hashes)
    if count == 1:
        if not single_text:
            raise DataError(
                "a source has one usable document, and it is no text that could be cut",
                expected="at least two documents, one of them to hold out",
            )
        return np.array([CUT], np.int8)
    result = np.full(count, TRAIN, np.int8)
    total_bytes = int(documents.num_bytes.sum())
    share = min(share, MAX_HELDOUT_BYTES / max(1, total_bytes))
    result[documents.hashes < share] = HELDOUT
    if (result == HELDOUT).all() and count:
        result[np.argmax(documents.hashes)] = TRAIN
    ranked = np.argsort(documents.hashes, kind="stable")
    held_bytes = int(documents.num_bytes[result == HELDOUT].sum())
    for place in ranked.tolist():
        if held_bytes >= wanted_bytes or result[place] == HELDOUT:
            continue
        if held_bytes + documents.num_bytes[place] <= MAX_EXTRA_SHARE * total_bytes:
            result[place] = HELDOUT
            held_bytes += int(documents.num_bytes[place])
    if count and not (result == HELDOUT).any():  # every one is large: hold out the smallest
        result[np.argmin(documents.num_bytes)] = HELDOUT
    return result


def cut_document(document: Document, share: float) -> tuple[Document, Document]:
    """(trained, held out): the last part of a text of one document, at the end of a line,
    a sentence or a word if there is one near. Both are parts of the whole, which they join to."""
    text = document.text or ""
    share = min(MAX_CUT_SHARE, max(MIN_CUT_SHARE, share))
    at = len(text) - max(1, int(len(text) * share))
    for separators in ("\n", "。！？.!?", " "):
        ends = [text.rfind(mark, len(text) // 4, at) for mark in separators]
        if max(ends) >= 0:
            at = max(ends) + 1
            break
    name = document.name
    return (
        Document(name, (Part("text", text[:at]),)),
        Document(f"{name} (its end)", (Part("text", text[at:]),)),
    )
