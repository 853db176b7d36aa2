"""The tasks that most fields need: how probable is the text, which answer is best, what is written.

Another package writes its own `whorl.core.ports.Task` in its field's file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import log

import numpy as np
from numpy.typing import NDArray

from whorl.core.errors import DataError
from whorl.core.metrics import ACCURACY, BITS_PER_BYTE, F1, Grade, Metric
from whorl.core.ports import Choice, Grammar, HeldoutDocument, TokenSpace

__all__ = ["ChoiceTask", "ClassTask", "LikelihoodTask", "WritingTask"]


@dataclass(frozen=True)
class LikelihoodTask:
    """Bits of a document's trained ids over the bytes of its text."""

    name: str = "likelihood"
    metric: Metric = BITS_PER_BYTE
    prompts: tuple[str, ...] = ()
    checker: str = ""
    check: Callable[[str, str], bool] | None = None  # (prompt, completion) -> well formed

    def question(self, document: HeldoutDocument, space: TokenSpace) -> Choice | None:
        """None: nothing is chosen. Raises DataError if the document is no text."""
        if not document.num_bytes:
            raise DataError(
                f"{self.metric} needs text", found=f"{document.name}, which is not text"
            )
        return None

    def judge(
        self, document: HeldoutDocument, question: Choice | None, nats: NDArray[np.float64]
    ) -> tuple[float, float]:
        return -float(nats.sum()) / log(2), float(document.num_bytes)

    def accepts(self, prompt: str, completion: str) -> bool | None:
        return None if self.check is None else self.check(prompt, completion)


@dataclass(frozen=True)
class ChoiceTask:
    """The answer is the document's last trained id that is not special, one id of its codec."""

    name: str = "choice"
    metric: Metric = ACCURACY
    prompts: tuple[str, ...] = ()
    checker: str = ""
    further: tuple[Metric, ...] = ()  # of the same answers; a task that has any says `grades`
    # Of a document's name the group whose score is told by itself too.
    group: Callable[[str], str] | None = None

    def question(self, document: HeldoutDocument, space: TokenSpace) -> Choice:
        """Raises DataError if no trained id is of a codec."""
        for place in np.flatnonzero(document.mask)[::-1].tolist():
            answer = int(document.ids[place])
            for ids in space.ranges.values():
                if answer in ids:
                    prompt = tuple(int(i) for i in document.ids[:place])
                    return Choice(prompt, tuple((i,) for i in ids), ids.index(answer))
        raise DataError(f"held-out document {document.name} has no answer")

    def judge(
        self, document: HeldoutDocument, question: Choice | None, nats: NDArray[np.float64]
    ) -> tuple[float, float]:
        """(1 if the most probable answer is the right one, else 0; 1)."""
        assert question is not None
        return float(int(nats.argmax()) == question.right), 1.0

    def grades(
        self, document: HeldoutDocument, question: Choice | None, nats: NDArray[np.float64]
    ) -> Mapping[Metric, tuple[float, float]]:
        """What `judge` says, in each of the task's metrics."""
        return {self.metric: self.judge(document, question, nats)}

    def accepts(self, prompt: str, completion: str) -> bool | None:
        return None


@dataclass(frozen=True)
class ClassTask(ChoiceTask):
    """Which class is it? Judged by accuracy, and by F1 of the same answers."""

    name: str = "class"
    further: tuple[Metric, ...] = (F1,)

    def grades(
        self, document: HeldoutDocument, question: Choice | None, nats: NDArray[np.float64]
    ) -> Mapping[Metric, tuple[float, float]]:
        assert question is not None
        guess = int(nats.argmax())
        answers = float(guess), float(question.right)
        return {self.metric: (float(guess == question.right), 1.0), F1: answers}


@dataclass(frozen=True)
class WritingTask:
    """The answer is written by the model and graded beside the right one, the document's last turn.

    Engines are asked for the grammar where they can hold to it.
    """

    grade: Callable[[str, str], Mapping[Metric, Grade]]  # (answer, right one)
    name: str = "writing"
    metric: Metric = ACCURACY
    further: tuple[Metric, ...] = ()  # of the same answers
    max_tokens: int = 256
    grammar: Grammar | None = None
    prompts: tuple[str, ...] = ()
    checker: str = ""
    check: Callable[[str, str], bool] | None = None  # (prompt, completion) -> well formed
    # Of a metric that is of some documents alone: which they are, by their names.
    where: Mapping[Metric, Callable[[str], bool]] = field(default_factory=dict)
    # Of a document's name the group whose score is told by itself too.
    group: Callable[[str], str] | None = None

    def is_of(self, metric: Metric, document_name: str) -> bool:
        """Whether a document counts in a metric."""
        return metric not in self.where or self.where[metric](document_name)

    def question(self, document: HeldoutDocument, space: TokenSpace) -> Choice | None:
        """None: there are no candidates. Raises DataError if nothing stands before the answer."""
        if not document.mask.any() or document.mask[0]:
            raise DataError(f"held-out document {document.name} asks nothing")
        return None

    def judge(
        self, document: HeldoutDocument, question: Choice | None, nats: NDArray[np.float64]
    ) -> tuple[float, float]:
        """Raises DataError: probabilities say nothing of what is written."""
        raise DataError(f"{self.metric} of task {self.name} is that of answers that are written")

    def accepts(self, prompt: str, completion: str) -> bool | None:
        return None if self.check is None else self.check(prompt, completion)
