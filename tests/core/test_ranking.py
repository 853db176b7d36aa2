"""Ranks and what they are worth, beside scipy's ranks and scikit-learn's figures."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="needs the extra train")

from scipy.stats import rankdata
from sklearn.metrics import label_ranking_average_precision_score, ndcg_score

from whorl.core.errors import DataError
from whorl.core.metrics import ACCURACY, HITS_AT_10, MRR, NDCG_AT_10
from whorl.core.ports import HeldoutDocument, TokenSpace
from whorl.core.ranking import RankTask, measures_of_ranks, rank_of


@pytest.mark.parametrize("seed", range(8))
def test_ranks_are_scipys_with_ties_shared_and_the_excluded_taken_out(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 6, 30).astype(float)
    right, excluded = 7, rng.choice(30, 9, replace=False).tolist()
    kept = [place for place in range(30) if place == right or place not in excluded]
    expected = rankdata(-scores[kept], method="average")[kept.index(right)]
    assert rank_of(scores, right, excluded) == expected
    assert rank_of(np.zeros(135), 3) == 68  # a model that says nothing stands in the middle


def test_metrics_of_ranks_are_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    scores, rights = rng.normal(size=(200, 40)), rng.integers(0, 40, 200)
    truth = np.eye(40)[rights]
    ranks = [rank_of(row, int(right)) for row, right in zip(scores, rights, strict=True)]
    names = [str(number) for number in range(200)]
    mrr, hits, ndcg = measures_of_ranks(names, ranks, [MRR, HITS_AT_10, NDCG_AT_10])
    assert mrr.value == pytest.approx(label_ranking_average_precision_score(truth, scores))
    assert ndcg.value == pytest.approx(ndcg_score(truth, scores, k=10))
    top = np.argsort(-scores, axis=1)[:, :10]
    found = np.mean([right in row for right, row in zip(rights, top, strict=True)])
    assert hits.value == pytest.approx(float(found)) and 0.2 < hits.value < 0.3


def test_what_stands_behind_the_answer_is_known_and_not_ranked() -> None:
    ids = np.array([1, 16, 30, 20, 17, 19, 2])  # <bos> a question, the answer 20, known: 17, 19
    mask = np.array([False, False, False, True, False, False, False])
    document = HeldoutDocument("d", ids, mask, 0)
    task = RankTask()
    space = TokenSpace({"entity": range(16, 22), "relation": range(30, 33)}, lambda parts: [])
    question = task.question(document, space)
    assert question.prompt_ids == (1, 16, 30) and question.right == 4
    assert [tuple(each) for each in question.candidates] == [(i,) for i in range(16, 22)]
    nats = np.log(np.array([0.1, 0.3, 0.05, 0.3, 0.2, 0.05]))
    assert task.rank(document, question, nats) == 1 and task.judge(document, question, nats) == (
        1,
        1,
    )
    nats[0] = -0.1  # one that is not known comes before it
    assert task.judge(document, question, nats) == (0.5, 1)
    with pytest.raises(DataError, match="accuracy"):
        task.gain(ACCURACY, 1)
