"""Last pass, one task at a time: documents of a spill file to token ids in temporary files."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whorl.codecs.contract import CHAT, Tokens
from whorl.core.errors import DataError
from whorl.core.ports import Document
from whorl.core.reasons import Place, Reason
from whorl.stages.prepare import split
from whorl.stages.prepare.spill import SpillReader

__all__ = [
    "TOO_LONG",
    "TOO_LONG_WHOLE",
    "UNTRAINED",
    "EncodeTask",
    "Encoded",
    "Segments",
    "encode",
    "encode_with_folder",
]

UNTRAINED = "no trained token"
TOO_LONG = "conversation longer than a row"
TOO_LONG_WHOLE = "question and answer longer than a row"
NO_PAIR, CHOSEN_ALONE = "no preference pair", "of a preference pair only the chosen answer is used"

Segments = Sequence[tuple[NDArray[np.integer[Any]], NDArray[np.bool_]]]


@dataclass(frozen=True)
class EncodeTask:
    """Documents of one spill file and what becomes of each (split.TRAIN …)."""

    path: Path
    source_number: int
    field: str  # of the source
    offsets: NDArray[np.int64]
    actions: NDArray[np.int8]
    cut_share: float
    out: Path  # ids as u4 in .ids, masks as bytes in .mask
    row_ids: int  # ids of a row, which no chat nor other whole document may exceed
    pairs: bool  # whether pairs are learned from, and nothing else


@dataclass
class Encoded:
    """m encoded documents in the order of the spill file; arrays are [m]."""

    out: Path
    source_number: int
    is_heldout: NDArray[np.bool_]
    lengths: NDArray[np.int64]  # tokens
    firsts: NDArray[np.int64]  # tokens of the first chat of a pair, or of a whole document; 0: of
    # others, which may be cut
    num_bytes: NDArray[np.int64]  # of text in UTF-8, of a chat what is trained; 0 if it is none
    heldout_names: list[str]
    rejected: Counter[str]
    first_rejected: str  # its name and why; "" if none is
    longest: int  # tokens of the longest document that is longer than its row; 0 if none is

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
    tokens = tokens.of_field(task.field)
    lengths: list[tuple[int, int, int]] = []  # of all, of the first chat, bytes
    is_heldout: list[bool] = []
    names: list[str] = []
    rejected: Counter[str] = Counter()
    first_rejected, longest = "", 0
    with (
        SpillReader(task.path, task.offsets) as reader,
        task.out.with_suffix(".ids").open("wb") as ids_file,
        task.out.with_suffix(".mask").open("wb") as mask_file,
    ):
        for number in np.flatnonzero(task.actions != split.DROPPED).tolist():
            action = int(task.actions[number])
            for document, heldout in _split(reader.document(number), action, task.cut_share):
                segments, reason = _encoded(tokens, document, task, rejected)
                num_ids = sum(len(ids) for ids, _ in segments)
                if reason:
                    rejected[Reason(reason, "refused", Place(document.name))] += 1
                    first_rejected = first_rejected or f"{document.name}: {reason}"
                    is_long = reason in (TOO_LONG, TOO_LONG_WHOLE)
                    longest = max(longest, num_ids if is_long else 0)
                    continue
                for ids, mask in segments:
                    ids_file.write(ids.astype("<u4").tobytes())
                    mask_file.write(mask.tobytes())
                first_ids, first_mask = segments[0]
                num_bytes = _text_bytes(tokens, document, first_ids[first_mask])
                is_whole = document.whole or _is_chat(document)
                lengths.append((num_ids, len(first_ids) * is_whole, num_bytes))
                is_heldout.append(heldout)
                if heldout:
                    names.append(document.name)
    table = np.array(lengths, np.int64).reshape(-1, 3)
    return Encoded(
        task.out,
        task.source_number,
        np.array(is_heldout, np.bool_),
        table[:, 0].copy(),
        table[:, 1].copy(),
        table[:, 2].copy(),
        names,
        rejected,
        first_rejected,
        longest,
    )


def _is_chat(document: Document) -> bool:
    return any(part.codec == CHAT for part in document.parts)


def _encoded(
    tokens: Tokens, document: Document, task: EncodeTask, reasons: Counter[str]
) -> tuple[Segments, str]:
    """(the document's chats, or all of another one; why it cannot be used or "").

    A pair of chats, the chosen before the rejected, is one only where pairs are learned from.
    """
    is_chat = _is_chat(document)
    if task.pairs and (not is_chat or len(document.parts) != 2):
        return [], NO_PAIR
    if is_chat and len(document.parts) == 2 and not task.pairs:
        document = replace(document, parts=document.parts[:1])
        reasons[Reason(CHOSEN_ALONE, "mended", Place(document.name))] += 1
    try:
        segments = tokens.encode_segments(document)
    except DataError as error:
        if is_chat and tokens.contract.chat_template is None:
            raise  # no chat at all can be written
        return [], error.what if is_chat else "a codec cannot encode it"
    if not all(mask.any() for _, mask in segments):
        return segments, UNTRAINED
    if (is_chat or document.whole) and sum(len(ids) for ids, _ in segments) > task.row_ids:
        return segments, TOO_LONG if is_chat else TOO_LONG_WHOLE
    return segments, ""


def _text_bytes(tokens: Tokens, document: Document, trained: NDArray[np.integer[Any]]) -> int:
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
