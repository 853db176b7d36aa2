"""Several questions scored together: each is a prefix and the sequences that may follow it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Continuations", "Scores", "score_together", "totals"]

Scores = list[NDArray[np.float64]]  # log-probabilities, an array a sequence


class Continuations(NamedTuple):
    """What `Engine.score` is asked about one prefix."""

    prefix: Sequence[int]
    sequences: Sequence[Sequence[int]]


class _Scorer(Protocol):
    """An engine, or what an engine is made of."""

    def score(self, sequences: Sequence[Sequence[int]], prefix: Sequence[int] = ()) -> Scores: ...


def score_together(engine: _Scorer, questions: Sequence[Continuations]) -> list[Scores]:
    """Of each question what `Engine.score` gives. Raises as it does.

    An engine that reads several prefixes at once has a method `score_together` of these questions;
    others are asked one after another.
    """
    together: Any = getattr(engine, "score_together", None)
    if together is None:
        return [engine.score(each.sequences, each.prefix) for each in questions]
    found: list[Scores] = together(questions)
    return found


def totals(scores: Scores) -> NDArray[np.float64]:
    """[N]: the log-probability of each sequence as a whole."""
    if scores and all(len(nats) == 1 for nats in scores):  # thousands are common
        return np.concatenate(scores)
    return np.array([nats.sum() for nats in scores], np.float64)
