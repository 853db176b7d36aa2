"""The quality of answers that a model writes: asked through an engine, graded by the task.

A question is all of a held-out document before its last turn that is trained; answers are greedy.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from whorl.codecs.contract import Tokens
from whorl.core.collect import run_requests
from whorl.core.context import NoProgress
from whorl.core.errors import DataError, SpecError
from whorl.core.measures import measure_of
from whorl.core.metrics import Metric
from whorl.core.ports import (
    Engine,
    GenerateRequest,
    HeldoutDocument,
    Progress,
    QualityMeasure,
)
from whorl.core.tasks import WritingTask

__all__ = ["graded", "num_cut", "num_long", "written"]


def graded(
    task: WritingTask,
    metric: Metric,
    documents: Sequence[HeldoutDocument],
    answers: Sequence[str],
    tokens: Tokens,
) -> QualityMeasure:
    """The measure of answers in one of the task's metrics, of those documents that count in it.

    Raises DataError if none does.
    """
    names, grades = [], []
    for document, answer in zip(documents, answers, strict=True):
        if task.is_of(metric, document.name):
            right = tokens.decode(_turns(document)[1]).strip()
            names.append(document.name)
            grades.append(task.grade(answer, right)[metric])
    if not names:
        raise DataError(f"no held-out document counts in {metric}", do="hold out more documents")
    return measure_of(metric, names, grades)


def written(
    engine: Engine,
    tokens: Tokens,
    task: WritingTask,
    documents: Sequence[HeldoutDocument],
    *,
    window: int,
    progress: Progress | None = None,
) -> list[str]:
    """The model's answers, in the documents' order.

    window: most ids of question and answer. An engine that keeps its answers (it says which it
    `knows`) is only asked for the others. Raises EngineError if a request fails or nothing comes.
    """
    shown = progress or NoProgress()
    grammar = task.grammar
    if grammar is not None and "grammar" in engine.unable:  # asked only then: it opens the engine
        grammar = None
    with_grammar = " under a grammar" if grammar else ""
    requests = [
        GenerateRequest(
            request_id=f"written-{number}",
            prompt_ids=tuple(_turns(document)[0][-_room(task, window) :]),
            max_tokens=task.max_tokens,
            stop_ids=tokens.contract.stop_ids,
            grammar=grammar,
        )
        for number, document in enumerate(documents)
    ]
    knows = getattr(engine, "knows", lambda request: False)
    known, new = list[GenerateRequest](), list[GenerateRequest]()
    for request in requests:
        (known if knows(request) else new).append(request)
    beside = f", {len(known):,} of {len(requests):,} known from before" if known else ""
    shown.start(f"answers of {engine.name}{with_grammar}{beside}", len(new), "documents")
    found = dict(zip(known, run_requests(engine, known), strict=True))
    found |= zip(new, run_requests(engine, new, on_end=shown.advance), strict=True)
    answers = [found[request] for request in requests]
    shown.finish()
    stops = {*tokens.contract.stop_ids}
    kept = ([i for i in answer.token_ids if i not in stops] for answer in answers)
    return [tokens.decode(ids).strip() for ids in kept]


def num_cut(task: WritingTask, documents: Sequence[HeldoutDocument], window: int) -> int:
    """How many questions lose ids at their beginning, to leave room for the answers."""
    return sum(len(_turns(document)[0]) > _room(task, window) for document in documents)


def num_long(
    task: WritingTask, documents: Sequence[HeldoutDocument], stop_ids: Sequence[int]
) -> int:
    """How many right answers have more ids before what ends them than a model may write."""
    stops, count = {*stop_ids}, 0
    for document in documents:
        before_end = itertools.takewhile(lambda i: i not in stops, _turns(document)[1])
        count += sum(1 for _ in before_end) > task.max_tokens
    return count


def _room(task: WritingTask, window: int) -> int:
    """Ids of a question that fit beside an answer. Raises SpecError if there is room for none."""
    if window <= task.max_tokens:
        raise SpecError(
            f"task {task.name} writes answers of up to {task.max_tokens} tokens",
            found=f"a window of {window} for question and answer together",
            do="raise train.seq_len",
        )
    return window - task.max_tokens


def _turns(document: HeldoutDocument) -> tuple[list[int], list[int]]:
    """(ids before the last trained turn, that turn's)."""
    last = int(np.flatnonzero(document.mask)[-1])
    untrained = np.flatnonzero(~document.mask[:last])
    first = int(untrained[-1]) + 1 if len(untrained) else 0
    return document.ids[:first].tolist(), document.ids[first : last + 1].tolist()
