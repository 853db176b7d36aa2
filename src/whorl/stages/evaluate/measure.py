"""The quality of a model on held-out documents, through an engine's `score` alone.

Bits per byte: a document longer than the window is scored in windows that overlap by half, each
token once, with at least half a window of context wherever the document has it. The first
window begins with <|bos|>, the others amid the document, as rows do in training.

Accuracy: the answer is the document's last trained id that is not special; the model's answer is
the most probable id of the same codec after what comes before it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import log
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from whorl.codecs.contract import CodecEntry, Tokens
from whorl.core.context import NoProgress
from whorl.core.errors import DataError, RecordError, SpecError
from whorl.core.metrics import BITS_PER_BYTE, Metric
from whorl.core.ports import Engine, Progress, QualityMeasure
from whorl.core.rows import HeldoutDocuments

__all__ = ["Window", "measure", "select_documents", "windows_of"]

Floats = NDArray[np.float64]
T = TypeVar("T")

BATCH_TOKENS = 32_768  # handed to the engine at once, so that progress is seen
MAX_CANDIDATES = 4_096  # ids among which an answer is chosen; each is scored
MAX_DOCUMENTS = 5_000  # scored, however short


@dataclass(frozen=True)
class Window:
    """ids[start:end] of a document, of which the ids from `first` on are counted."""

    start: int
    first: int
    end: int


def select_documents(
    documents: HeldoutDocuments, max_bytes: int, max_documents: int | None = None
) -> list[int]:
    """Numbers of whole documents in the order of a hash of their ids, up to max_bytes of text.

    One that does not fit any more is passed over for later ones; there is always at least one.
    Documents without text count no bytes. Raises DataError if there are none.
    """
    if not len(documents):
        raise DataError("there are no held-out documents", do="raise prepare.heldout_share")
    chosen: list[int] = []
    left_bytes = max_bytes
    for number in documents.shuffled():
        if len(chosen) == (max_documents or MAX_DOCUMENTS):
            break
        if chosen and documents.num_bytes(number) > left_bytes:
            continue
        chosen.append(number)
        left_bytes -= documents.num_bytes(number)
    return chosen


def windows_of(num_ids: int, window: int) -> Iterator[Window]:
    """Windows of at most `window` ids, each half a window after the one before.

    Raises SpecError on a window of fewer than two ids.
    """
    if window < 2:
        raise SpecError("evaluate.window is too small", found=window, expected="at least 2")
    stride = max(1, window // 2)
    start, first = 0, 1
    while first < num_ids:
        end = min(num_ids, start + window)
        yield Window(start, first, end)
        start, first = start + stride, end


def measure(
    engine: Engine,
    tokens: Tokens,
    documents: HeldoutDocuments,
    numbers: Sequence[int],
    *,
    metric: Metric,
    window: int,
    progress: Progress | None = None,
) -> QualityMeasure:
    """Score the documents of these numbers. window: most ids of a sequence the engine is given.

    Raises RecordError if the engine serves another token contract, DataError on documents that
    this metric does not fit.
    """
    if engine.contract_digest != tokens.contract.digest:
        raise RecordError(
            f"engine {engine.name} serves a model of other tokens",
            found=f"contract {engine.contract_digest[:16]}…",
            expected=f"{tokens.contract.digest[:16]}…",
            do="evaluate a model on the record of prepare it was trained on",
        )
    shown = progress or NoProgress()
    shown.start(f"score with {engine.name}", len(numbers), "documents")
    if metric is BITS_PER_BYTE:
        found = _bits(engine, documents, numbers, window, shown)
    else:
        found = _answers(engine, tokens, documents, numbers, window, shown)
    shown.finish()
    names = tuple(documents.names[number] for number in numbers)
    return QualityMeasure(metric, names, *found)


def _bits(
    engine: Engine,
    documents: HeldoutDocuments,
    numbers: Sequence[int],
    window: int,
    progress: Progress,
) -> tuple[Floats, Floats]:
    """(bits, bytes) of each document."""
    work = [
        (place, part)
        for place, number in enumerate(numbers)
        for part in windows_of(len(documents.ids(number)), window)
    ]
    work.sort(key=lambda item: item[1].start - item[1].end)  # alike lengths together, long first
    bits = np.zeros(len(numbers))
    for batch in _batches(work, [part.end - part.start for _, part in work]):
        sequences = [
            documents.ids(numbers[place])[part.start : part.end].tolist() for place, part in batch
        ]
        for (place, part), scores in zip(batch, engine.score(sequences), strict=True):
            counted = documents.mask(numbers[place])[part.first : part.end]
            nats = scores[part.first - part.start - 1 :][counted]
            bits[place] -= nats.sum() / log(2)
            progress.advance(1 / _num_windows(documents, numbers[place], window))
    num_bytes = np.array([documents.num_bytes(number) for number in numbers], np.float64)
    if not num_bytes.all():
        raise DataError(
            "bits per byte needs text",
            found=f"{int((num_bytes == 0).sum())} held-out documents without text",
        )
    return _finite(bits, engine), num_bytes


def _num_windows(documents: HeldoutDocuments, number: int, window: int) -> int:
    return sum(1 for _ in windows_of(len(documents.ids(number)), window))


def _answers(
    engine: Engine,
    tokens: Tokens,
    documents: HeldoutDocuments,
    numbers: Sequence[int],
    window: int,
    progress: Progress,
) -> tuple[Floats, Floats]:
    """(1 where the model's answer is right, ones)."""
    right = np.zeros(len(numbers))
    questions = [_question(documents, number, tokens) for number in numbers]
    lengths = [(at + 1) * (entry.id_end - entry.id_start) for at, entry in questions]
    for batch in _batches(list(range(len(numbers))), lengths):
        sequences = []
        for place in batch:
            at, entry = questions[place]
            ids = documents.ids(numbers[place])[max(0, at + 1 - window) : at].tolist()
            sequences += [[*ids, answer] for answer in range(entry.id_start, entry.id_end)]
        scores = iter(engine.score(sequences))
        for place in batch:
            at, entry = questions[place]
            last = [next(scores)[-1] for _ in range(entry.id_start, entry.id_end)]
            best = int(np.argmax(_finite(np.array(last), engine)))
            right[place] = entry.id_start + best == documents.ids(numbers[place])[at]
            progress.advance()
    return right, np.ones(len(numbers))


def _question(documents: HeldoutDocuments, number: int, tokens: Tokens) -> tuple[int, CodecEntry]:
    """(place of the answer's id, the codec it is one of)."""
    ids, mask = documents.ids(number), documents.mask(number)
    for at in np.flatnonzero(mask)[::-1].tolist():
        for entry in tokens.contract.codecs:
            if entry.id_start <= ids[at] < entry.id_end:
                if entry.id_end - entry.id_start > MAX_CANDIDATES:
                    raise DataError(
                        "accuracy needs an answer out of a small set",
                        found=f"{entry.id_end - entry.id_start:,} ids of codec {entry.name}",
                        expected=f"at most {MAX_CANDIDATES:,}",
                    )
                return at, entry
    raise DataError(f"held-out document {documents.names[number]} has no answer")


def _batches(work: Sequence[T], lengths: Sequence[int]) -> Iterator[list[T]]:
    """Runs of work of about BATCH_TOKENS tokens."""
    batch: list[T] = []
    num_tokens = 0
    for item, length in zip(work, lengths, strict=True):
        if batch and num_tokens + length > BATCH_TOKENS:
            yield batch
            batch, num_tokens = [], 0
        batch.append(item)
        num_tokens += length
    if batch:
        yield batch


def _finite(values: Floats, engine: Engine) -> Floats:
    """Raises DataError when an engine gave NaN or minus infinity."""
    if not np.isfinite(values).all():
        raise DataError(
            f"engine {engine.name} gave scores that are not finite",
            do="check the model: its weights may hold NaN",
        )
    return values
