"""The quality of a model on held-out documents, through an engine's `score` alone.

A document that is scored itself and longer than the window comes in windows that overlap by half,
each id once, with at least half a window of context wherever the document has it. The first
window begins with <|bos|>, the others amid the document, as rows do in training.

Where a task gives candidates, each is scored after the question.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from whorl.codecs.contract import Tokens
from whorl.codecs.parts import token_space
from whorl.core.context import NoProgress
from whorl.core.errors import DataError, RecordError, SpecError
from whorl.core.heldout import HeldoutDocuments
from whorl.core.metrics import Metric
from whorl.core.ports import (
    Choice,
    Engine,
    HeldoutDocument,
    Progress,
    QualityMeasure,
    Task,
)
from whorl.core.scoring import Continuations, score_together, totals
from whorl.core.tasks import ChoiceTask, WritingTask
from whorl.spec.resolved import MAX_DOCUMENTS
from whorl.stages.evaluate.generate import graded, num_cut, num_long, written

__all__ = ["Asked", "Window", "ask", "grades", "measure", "select_documents", "windows_of"]

Floats = NDArray[np.float64]
T = TypeVar("T")

BATCH_TOKENS = 32_768  # handed to the engine at once, so that progress is seen


@dataclass(frozen=True)
class Asked:
    """Held-out documents, what a task asks of each, and how it adds up."""

    task: Task
    documents: tuple[HeldoutDocument, ...]
    questions: tuple[Choice | None, ...]

    def num_cut(self, window: int) -> int:
        """How many questions lose ids at their beginning, to leave room for what answers them."""
        if isinstance(self.task, WritingTask):
            return num_cut(self.task, self.documents, window)
        questions = [question for question in self.questions if question is not None]
        return sum(len(each.prompt_ids) + _longest(each) > window for each in questions)

    def too_long(self, stop_ids: Sequence[int]) -> str:
        """What to say of right answers that no model may write to their end; "" if none is."""
        if not isinstance(self.task, WritingTask) or not (
            count := num_long(self.task, self.documents, stop_ids)
        ):
            return ""
        return (
            f"{count} of {len(self.documents)} right answers cannot be written to their end: "
            f"they have more than {self.task.max_tokens} tokens"
        )

    def judged(self, nats: Sequence[Floats]) -> QualityMeasure:
        """The measure of log-probabilities as `Task.judge` takes them, one array a document."""
        results = [
            self.task.judge(document, question, found)
            for document, question, found in zip(self.documents, self.questions, nats, strict=True)
        ]
        names = tuple(document.name for document in self.documents)
        numerator, denominator = np.array(results, np.float64).T
        return QualityMeasure(self.task.metric, names, numerator, denominator)


def ask(task: Task, tokens: Tokens, documents: HeldoutDocuments, numbers: Sequence[int]) -> Asked:
    """The questions of a task. Raises DataError on documents that it cannot ask."""
    space = token_space(tokens)
    asked = tuple(documents.document(number) for number in numbers)
    return Asked(task, asked, tuple(task.question(document, space) for document in asked))


@dataclass(frozen=True)
class Window:
    """ids[start:end] of a document, of which the ids from `first` on are counted."""

    start: int
    first: int
    end: int


def select_documents(
    documents: HeldoutDocuments, max_bytes: int, max_documents: int = MAX_DOCUMENTS
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
        if len(chosen) == max_documents:
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
    asked: Asked,
    *,
    window: int,
    progress: Progress | None = None,
) -> QualityMeasure:
    """Score what is asked. window: most ids of a sequence the engine is given.

    Raises RecordError if the engine serves another token contract, DataError if its scores are
    not finite or nothing stands before the candidates of a question.
    """
    _check_contract(engine, tokens)
    if isinstance(asked.task, WritingTask):
        task, documents = asked.task, asked.documents
        answers = written(engine, tokens, task, documents, window=window, progress=progress)
        return graded(task, task.metric, documents, answers, tokens)
    return asked.judged(_nats(engine, asked, window, progress or NoProgress()))


def grades(
    engine: Engine,
    tokens: Tokens,
    task: ChoiceTask,
    asked: Asked,
    *,
    window: int,
    progress: Progress | None = None,
) -> list[Mapping[Metric, tuple[float, float]]]:
    """Of each document the two numbers in each of the task's metrics. Raises as `measure`."""
    _check_contract(engine, tokens)
    found = _nats(engine, asked, window, progress or NoProgress())
    return [
        task.grades(document, question, nats)
        for document, question, nats in zip(asked.documents, asked.questions, found, strict=True)
    ]


def _check_contract(engine: Engine, tokens: Tokens) -> None:
    if engine.contract_digest != tokens.contract.digest:
        raise RecordError(
            f"engine {engine.name} serves a model of other tokens",
            found=f"contract {engine.contract_digest[:16]}…",
            expected=f"{tokens.contract.digest[:16]}…",
            do="evaluate a model on the record of prepare it was trained on",
        )


def _nats(engine: Engine, asked: Asked, window: int, shown: Progress) -> list[Floats]:
    """Of each document the log-probabilities that its task judges."""
    shown.start(f"score with {engine.name}", len(asked.documents), "documents")
    nats = [np.zeros(0)] * len(asked.documents)
    plain = [place for place, question in enumerate(asked.questions) if question is None]
    for place, found in _score_documents(engine, asked.documents, plain, window, shown):
        nats[place] = _finite(found, engine)
    chosen = [
        (place, _continuations(question, window))
        for place, question in enumerate(asked.questions)
        if question is not None
    ]
    for batch in _batches(chosen, [_num_ids(question) for _, question in chosen]):
        scores = score_together(engine, [question for _, question in batch])
        for (place, _), of_each in zip(batch, scores, strict=True):
            nats[place] = _finite(totals(of_each), engine)
            shown.advance()
    shown.finish()
    return nats


def _score_documents(
    engine: Engine,
    documents: Sequence[HeldoutDocument],
    places: Sequence[int],
    window: int,
    progress: Progress,
) -> Iterator[tuple[int, Floats]]:
    """(place, log-probability of each trained id) of the documents at some places."""
    parts = {place: list(windows_of(len(documents[place].ids), window)) for place in places}
    work = [(place, part) for place in places for part in parts[place]]
    work.sort(key=lambda item: item[1].start - item[1].end)  # alike lengths together, long first
    found = {place: np.zeros(len(documents[place].ids)) for place in places}
    for batch in _batches(work, [part.end - part.start for _, part in work]):
        sequences = [documents[place].ids[part.start : part.end].tolist() for place, part in batch]
        for (place, part), scores in zip(batch, engine.score(sequences), strict=True):
            found[place][part.first : part.end] = scores[part.first - part.start - 1 :]
            progress.advance(1 / len(parts[place]))
    for place in places:
        yield place, found[place][documents[place].mask]


def _continuations(question: Choice, window: int) -> Continuations:
    """A question's candidates, after its last ids that fit.

    Raises DataError if there is none: what comes first in a sequence has no probability.
    """
    num_ids, longest = len(question.prompt_ids), _longest(question)
    prompt = list(question.prompt_ids[max(0, num_ids + longest - window) :])
    if not prompt:
        raise DataError(
            "nothing stands before the candidates of a question",
            found=f"{num_ids} ids before, candidates of up to {longest}, a window of {window}",
            expected="at least one id, such as <|bos|>",
            do="raise evaluate.window" if num_ids else "use tokens with start ids",
        )
    return Continuations(prompt, question.candidates)


def _num_ids(question: Continuations) -> int:
    return len(question.prefix) + sum(map(len, question.sequences))


def _longest(question: Choice) -> int:
    """Ids of the longest candidate."""
    return max(len(candidate) for candidate in question.candidates)


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
