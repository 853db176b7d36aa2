"""One prefix, read once, and many ways to go on from it: what candidates cost a model.

Axes: B rows, N candidates, T tokens of a row, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Branches", "CandidateScorer"]

MAX_ROWS = 64  # of a batch
MAX_LOGITS = 2**25  # of a batch: 128 MiB in float32

Floats = NDArray[np.float64]


class Branches(Protocol):
    """A model that keeps the keys and values of a prefix."""

    def begin(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """Read a prefix in place of the one before: logits [V] of what follows it."""
        ...

    def follow(self, ids_BT: NDArray[np.int64]) -> NDArray[np.float32]:
        """Logits [B, T, V] of what follows each id, every row after the prefix."""
        ...


class CandidateScorer:
    """The prefix is read once for the pieces of one question, and again for the next question.

    A question's pieces bring the same object as their prefix. An equal one of another question is
    read anew: else the time it takes would tell one caller what another asked.
    """

    def __init__(self, model: Branches) -> None:
        self._model = model
        self._prefix: Sequence[int] | None = None
        self._first_V: Floats = np.zeros(0)  # log-probabilities after the prefix

    def score(self, candidates: Sequence[Sequence[int]], prefix: Sequence[int]) -> list[Floats]:
        """The log-probability of each id of each candidate. prefix: at least one id."""
        if prefix is not self._prefix:
            self._prefix = None  # if reading fails, the one before is gone too
            self._first_V = _log_softmax(self._model.begin(prefix))
            self._prefix = prefix
        firsts_N = self._first_V[[ids[0] if len(ids) else 0 for ids in candidates]]
        found: list[Floats] = list(firsts_N[:, None])  # of one id each: thousands take no time
        for places in self._batches(candidates):
            longest = max(len(candidates[place]) for place in places)
            ids_BT = np.zeros((len(places), longest - 1), np.int64)
            for row, place in enumerate(places):
                before = candidates[place][:-1]
                ids_BT[row, : len(before)] = before
            logits_BTV = self._model.follow(ids_BT)
            for row, place in enumerate(places):
                targets = np.asarray(candidates[place][1:], np.int64)
                log_probs_TV = _log_softmax(logits_BTV[row, : len(targets)])
                others = log_probs_TV[np.arange(len(targets)), targets]
                found[place] = np.concatenate([found[place], others])
        return [scores[: len(ids)] for scores, ids in zip(found, candidates, strict=True)]

    def _batches(self, candidates: Sequence[Sequence[int]]) -> Iterator[list[int]]:
        """Places of the candidates of several ids, alike lengths together."""
        longer = [place for place, ids in enumerate(candidates) if len(ids) > 1]
        longer.sort(key=lambda place: -len(candidates[place]))
        while longer:
            per_row = (len(candidates[longer[0]]) - 1) * len(self._first_V)
            rows = max(1, min(MAX_ROWS, MAX_LOGITS // per_row))
            yield longer[:rows]
            del longer[:rows]


def _log_softmax(logits: NDArray[np.float32]) -> Floats:
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=-1, keepdims=True)
    wide -= np.log(np.exp(wide).sum(axis=-1, keepdims=True))
    return wide
