"""Prefixes, read once, and many ways to go on from each: what candidates cost a model.

Axes: Q prefixes, B rows, N candidates, T tokens of a row, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from whorl.core.scoring import Continuations, Scores

__all__ = ["MAX_LOGITS", "Branches", "CandidateScorer"]

MAX_ROWS = 64  # of a batch
MAX_LOGITS = 2**25  # of a batch: 128 MiB in float32

Floats = NDArray[np.float64]


class Branches(Protocol):
    """A model that keeps the keys and values of prefixes."""

    def begin(self, ids_QT: NDArray[np.int64]) -> NDArray[np.float32]:
        """Read prefixes in place of those before: logits [Q, V] of what follows each."""
        ...

    def follow(self, after_B: NDArray[np.int64], ids_BT: NDArray[np.int64]) -> NDArray[np.float32]:
        """Logits [B, T, V] of what follows each id. after_B: the prefix that a row goes on from."""
        ...


class _Path(NamedTuple):
    """Ids after a prefix, which several candidates may begin with."""

    question: int
    ids: tuple[int, ...]


class CandidateScorer:
    """A prefix is read once for the pieces of one question, and again for the next question.

    A question's pieces bring the same object as their prefix. An equal one of another question is
    read anew: else the time it takes would tell one caller what another asked. What candidates of a
    question begin with alike is read once too.
    """

    def __init__(self, model: Branches) -> None:
        self._model = model
        self._prefix: Sequence[int] | None = None  # of the last question, if it came alone
        self._first_QV: Floats = np.zeros((0, 0))  # log-probabilities after the prefixes

    def score(self, questions: Sequence[Continuations]) -> list[Scores]:
        """The log-probability of each id of each candidate. Prefixes: alike long, at least one id.

        What a question gets does not depend on which others came with it, but for rounding.
        """
        alone = questions[0].prefix if len(questions) == 1 else None
        if alone is None or alone is not self._prefix:
            self._prefix = None  # if reading fails, the one before is gone too
            ids_QT = np.array([each.prefix for each in questions], np.int64)
            self._first_QV = _log_softmax(self._model.begin(ids_QT))
            self._prefix = alone
        found: list[Scores] = []
        for first_V, each in zip(self._first_QV, questions, strict=True):
            firsts_N = first_V[[ids[0] if len(ids) else 0 for ids in each.sequences]]
            found.append(list(firsts_N[:, None]))  # of one id each: thousands take no time
        self._add_others(questions, found)
        return [
            mine
            if all(len(ids) == 1 for ids in each.sequences)
            else [nats[: len(ids)] for nats, ids in zip(mine, each.sequences, strict=True)]
            for mine, each in zip(found, questions, strict=True)
        ]

    def _add_others(self, questions: Sequence[Continuations], found: list[Scores]) -> None:
        """Behind the first id's value those of the others."""
        sharing: dict[_Path, list[int]] = {}  # places of the candidates
        for number, each in enumerate(questions):
            for place, ids in enumerate(each.sequences):
                if len(ids) > 1:
                    sharing.setdefault(_Path(number, tuple(ids[:-1])), []).append(place)
        for paths in self._batches(list(sharing)):
            ids_BT = np.zeros((len(paths), len(paths[0].ids)), np.int64)
            for row, path in enumerate(paths):
                ids_BT[row, : len(path.ids)] = path.ids
            after_B = np.array([path.question for path in paths], np.int64)
            logits_BTV = self._model.follow(after_B, ids_BT)
            for row, path in enumerate(paths):
                log_probs_TV = _log_softmax(logits_BTV[row, : len(path.ids)])
                mine, sequences = found[path.question], questions[path.question].sequences
                for place in sharing[path]:
                    targets = np.asarray(sequences[place][1:], np.int64)
                    others = log_probs_TV[np.arange(len(targets)), targets]
                    mine[place] = np.concatenate([mine[place], others])

    def _batches(self, paths: list[_Path]) -> Iterator[list[_Path]]:
        """Alike lengths together, the longest first."""
        paths.sort(key=lambda path: -len(path.ids))
        while paths:
            per_row = len(paths[0].ids) * self._first_QV.shape[1]
            rows = max(1, min(MAX_ROWS, MAX_LOGITS // per_row))
            yield paths[:rows]
            del paths[:rows]


def _log_softmax(logits: NDArray[np.float32]) -> Floats:
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=-1, keepdims=True)
    wide -= np.log(np.exp(wide).sum(axis=-1, keepdims=True))
    return wide
