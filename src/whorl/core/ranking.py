"""Ranking: where the right answer stands among all candidates, and what is made of its rank.

Candidates that are scored alike share the mean of their ranks: neither a model that says the same
of everything nor the order of a vocabulary gains by it (Berrendorf et al., arXiv 2002.06914).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import log2
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whorl.core.errors import DataError
from whorl.core.metrics import HITS_AT_10, MRR, NDCG_AT_10, Metric
from whorl.core.ports import Choice, HeldoutDocument, QualityMeasure
from whorl.core.tasks import ChoiceTask

__all__ = ["RankTask", "measures_of_ranks", "rank_of"]

TOP = 10
GAINS: Mapping[Metric, Callable[[float], float]] = {  # of a rank, from 1 on
    MRR: lambda rank: 1 / rank,
    HITS_AT_10: lambda rank: float(rank <= TOP),
    NDCG_AT_10: lambda rank: 1 / log2(1 + rank) if rank <= TOP else 0.0,
}


def rank_of(scores: NDArray[np.floating[Any]], right: int, excluded: Sequence[int] = ()) -> float:
    """The rank of candidate `right` by its score, from 1 on; halves where others are scored alike.

    scores: [n], higher is better. excluded: candidates that are not ranked, such as answers that
    are right too; the right one is ranked even if it is among them.
    """
    ranked = np.ones(len(scores), np.bool_)
    ranked[list(excluded)] = False
    ranked[right] = False
    others, mine = scores[ranked], scores[right]
    return 1 + float((others > mine).sum()) + float((others == mine).sum()) / 2


def measures_of_ranks(
    names: Sequence[str], ranks: Sequence[float], metrics: Sequence[Metric]
) -> list[QualityMeasure]:
    """What ranks, one a document, are worth in each metric of ranks."""
    ones = np.ones(len(ranks))
    return [
        QualityMeasure(metric, tuple(names), np.array([GAINS[metric](r) for r in ranks]), ones)
        for metric in metrics
    ]


@dataclass(frozen=True)
class RankTask(ChoiceTask):
    """All ids of the answer's codec are ranked, but those that stand behind it in the document.

    The answer is the last trained id, as in ChoiceTask. What follows it, context that no model
    reads before it answers, is what is right too or known already, and is left out of the ranking.
    """

    name: str = "rank"
    metric: Metric = MRR
    further: tuple[Metric, ...] = (HITS_AT_10,)  # of the same ranks

    def rank(
        self, document: HeldoutDocument, question: Choice | None, nats: NDArray[np.float64]
    ) -> float:
        """The right candidate's rank."""
        assert question is not None
        behind = document.ids[len(question.prompt_ids) + 1 :].tolist()
        first = int(question.candidates[0][0])  # a codec's ids are a range
        known = {int(i) - first for i in behind if 0 <= i - first < len(question.candidates)}
        return rank_of(nats, question.right, sorted(known))

    def judge(
        self, document: HeldoutDocument, question: Choice | None, nats: NDArray[np.float64]
    ) -> tuple[float, float]:
        return self.gain(self.metric, self.rank(document, question, nats)), 1.0

    def grades(
        self, document: HeldoutDocument, question: Choice | None, nats: NDArray[np.float64]
    ) -> Mapping[Metric, tuple[float, float]]:
        rank = self.rank(document, question, nats)
        return {metric: (self.gain(metric, rank), 1.0) for metric in (self.metric, *self.further)}

    def gain(self, metric: Metric, rank: float) -> float:
        """What a rank is worth. Raises DataError on a metric that is not of ranks."""
        if metric not in GAINS:
            raise DataError(f"{metric} is not made of a rank", expected=", ".join(map(str, GAINS)))
        return GAINS[metric](rank)
