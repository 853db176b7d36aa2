"""Questions and scores as values of JSON: thousands of candidates a request, so numbers go as
bytes in base64."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Sequence
from itertools import chain, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whorl.core.scoring import Continuations, Scores

__all__ = ["questions_of", "questions_told", "scores_of", "scores_told"]


def questions_told(questions: Sequence[Continuations]) -> list[Any]:
    """[[prefix, ids, lengths], …]"""
    return [
        [
            [int(i) for i in prefix],
            _told(np.fromiter(chain.from_iterable(sequences), np.int64)),
            list(map(len, sequences)),
        ]
        for prefix, sequences in questions
    ]


def questions_of(told: Sequence[Any]) -> list[Continuations]:
    """What `questions_told` was given."""
    found = []
    for prefix, ids, lengths in told:
        flat = np.frombuffer(b64decode(ids), np.int64).tolist()
        found.append(Continuations(prefix, [flat[a:b] for a, b in _bounds(lengths)]))
    return found


def scores_told(scores: Sequence[Scores]) -> list[Any]:
    """[[values, lengths], …] Raises as numpy does on what is no array of numbers."""
    return [
        [_told(np.concatenate([np.zeros(0), *rows])), [len(row) for row in rows]] for rows in scores
    ]


def scores_of(told: Sequence[Any]) -> list[Scores]:
    """What `scores_told` was given."""
    found = []
    for values, lengths in told:
        flat = np.frombuffer(b64decode(values), np.float64).copy()
        found.append([flat[a:b] for a, b in _bounds(lengths)])
    return found


def _told(numbers: NDArray[Any]) -> str:
    return b64encode(numbers.tobytes()).decode()


def _bounds(lengths: Sequence[int]) -> list[tuple[int, int]]:
    return list(pairwise([0, *np.cumsum(lengths, dtype=np.int64).tolist()]))
