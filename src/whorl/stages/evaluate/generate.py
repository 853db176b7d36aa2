"""The quality of answers that a model writes: asked through an engine, graded by the task.

A question is all of a held-out document before its last turn that is trained; answers are greedy.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np

from whorl.codecs.contract import Tokens
from whorl.core.context import NoProgress
from whorl.core.errors import EngineError
from whorl.core.metrics import Metric
from whorl.core.ports import (
    Engine,
    GenerateRequest,
    HeldoutDocument,
    Progress,
    QualityMeasure,
    TokenEvent,
)
from whorl.core.tasks import WritingTask

__all__ = ["graded", "num_cut", "written"]

TIMEOUT_S = 600.0  # without any token of any answer


def graded(
    task: WritingTask,
    metric: Metric,
    documents: Sequence[HeldoutDocument],
    answers: Sequence[str],
    tokens: Tokens,
) -> QualityMeasure:
    """The measure of answers in one of the task's metrics."""
    rights = [_turns(document)[1] for document in documents]
    grades = [
        task.grade(answer, tokens.decode(right).strip())[metric]
        for answer, right in zip(answers, rights, strict=True)
    ]
    numerator, denominator = np.array(grades, np.float64).T
    names = tuple(document.name for document in documents)
    return QualityMeasure(metric, names, numerator, denominator)


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

    window: most ids of question and answer. Raises EngineError if a request fails or nothing comes.
    """
    shown = progress or NoProgress()
    grammar = None if "grammar" in engine.unable else task.grammar
    with_grammar = " under a grammar" if grammar else ""
    shown.start(f"answers of {engine.name}{with_grammar}", len(documents), "documents")
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
    answers = _answers(engine, requests, shown)
    shown.finish()
    return [tokens.decode(ids).strip() for ids in answers]


def num_cut(task: WritingTask, documents: Sequence[HeldoutDocument], window: int) -> int:
    """How many questions lose ids at their beginning, to leave room for the answers."""
    return sum(len(_turns(document)[0]) > _room(task, window) for document in documents)


def _room(task: WritingTask, window: int) -> int:
    """Ids of a question that fit beside an answer."""
    return max(1, window - task.max_tokens)


def _turns(document: HeldoutDocument) -> tuple[list[int], list[int]]:
    """(ids before the last trained turn, that turn's)."""
    last = int(np.flatnonzero(document.mask)[-1])
    untrained = np.flatnonzero(~document.mask[:last])
    first = int(untrained[-1]) + 1 if len(untrained) else 0
    return document.ids[:first].tolist(), document.ids[first : last + 1].tolist()


def _answers(
    engine: Engine, requests: Sequence[GenerateRequest], progress: Progress
) -> list[list[int]]:
    """Ids of each answer, without those that ended it."""
    answers: dict[str, list[int]] = {request.request_id: [] for request in requests}
    errors: list[str] = []
    ended, told = threading.Semaphore(0), threading.Event()

    def on_event(event: TokenEvent) -> None:
        answers[event.request_id] += event.token_ids
        told.set()
        if event.finish_reason is not None:
            if event.finish_reason != "stop" and event.finish_reason != "length":
                errors.append(event.error or event.finish_reason)
            ended.release()

    for request in requests:
        engine.submit(request, on_event)
    for _ in requests:
        while not ended.acquire(timeout=TIMEOUT_S):
            if not told.is_set():
                for request in requests:
                    engine.cancel(request.request_id)
                raise EngineError("the engine did not answer", expected=f"within {TIMEOUT_S:.0f} s")
            told.clear()
        progress.advance()
    if errors:
        raise EngineError("a question was not answered", found=errors[0])
    stops = {request.request_id: set(request.stop_ids) for request in requests}
    return [[i for i in ids if i not in stops[name]] for name, ids in answers.items()]
