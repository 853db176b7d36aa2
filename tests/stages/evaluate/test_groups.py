"""Scores of groups of documents: counted by hand, and together the score of all."""

from __future__ import annotations

import numpy as np
import pytest

from whorl.core.intervals import score_of
from whorl.core.metrics import ACCURACY, SLOT_F1, Metric
from whorl.core.ports import QualityMeasure, Score
from whorl.stages.evaluate.groups import MOST_GROUPS, scores_by_group

NAMES = ("1 en>es", "1 es>en", "2 en>es", "2 es>en", "3 es>en")


def score(name: str, metric: Metric, *values: float) -> Score:
    ones = np.ones(len(values))
    return score_of(name, QualityMeasure(metric, NAMES[: len(values)], np.array(values), ones))


def direction(name: str) -> str:
    return name.rpartition(" ")[2]


def test_each_group_has_the_mean_of_its_documents() -> None:
    scores = [score("ours", SLOT_F1, 10, 40, 20, 50, 60), score("copying", SLOT_F1, 1, 2, 3, 4, 6)]
    rows = scores_by_group("translation", direction, scores, samples=200, seed=0)
    found = {(row["name"], row["group"]): (row["value"], row["num_documents"]) for row in rows}
    assert found == {
        ("ours", "en>es"): (pytest.approx(15), 2),
        ("ours", "es>en"): (pytest.approx(50), 3),
        ("copying", "en>es"): (pytest.approx(2), 2),
        ("copying", "es>en"): (pytest.approx(4), 3),
    }
    assert all(row["low"] <= row["value"] <= row["high"] for row in rows)


def test_a_method_that_scored_a_part_alone_has_its_groups_alone() -> None:
    rows = scores_by_group(
        "games",
        direction,
        [score("all", ACCURACY, 1, 0, 1), score("one", ACCURACY, 1)],
        samples=50,
        seed=0,
    )
    assert {(row["name"], row["group"]) for row in rows} == {
        ("all", "en>es"),
        ("all", "es>en"),
        ("one", "en>es"),
    }


def test_one_group_is_no_table() -> None:
    scores = [score("ours", SLOT_F1, 1, 2, 3)]
    assert scores_by_group("text", lambda name: "all", scores, samples=50, seed=0) == []
    assert scores_by_group("text", None, scores, samples=50, seed=0) == []
    assert scores_by_group("text", lambda name: "", scores, samples=50, seed=0) == []


def test_documents_of_no_group_are_in_no_row() -> None:
    scores = [score("ours", SLOT_F1, 10, 40, 20)]
    rows = scores_by_group(
        "text", lambda name: "a" if name[0] == "1" else "", scores, samples=50, seed=0
    )
    (row,) = rows
    assert (row["group"], row["num_documents"], row["value"]) == ("a", 2, pytest.approx(25))


def test_of_too_many_groups_the_smallest_are_one() -> None:
    """Every document is in a row: 22 languages have 42 directions."""
    num_groups = MOST_GROUPS + 2
    names = tuple(f"{n}/{i}" for n in range(num_groups) for i in range(1 if n < 3 else 2))
    many = QualityMeasure(SLOT_F1, names, np.arange(len(names), dtype=float), np.ones(len(names)))
    rows = scores_by_group(
        "text", lambda name: name.partition("/")[0], [score_of("ours", many)], samples=50, seed=0
    )
    assert len(rows) == MOST_GROUPS and sum(row["num_documents"] for row in rows) == len(names)
    assert (rows[-1]["group"], rows[-1]["num_documents"]) == ("the other 3", 3)
    assert rows[-1]["value"] == pytest.approx(1)  # of 0, 1 and 2
    assert {row["group"] for row in rows[:-1]} == {f"{n}" for n in range(3, num_groups)}
