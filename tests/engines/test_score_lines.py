"""Questions and scores over the line between server and engine: every bit arrives."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whorl.core.scoring import Continuations, totals
from whorl.engines.score_lines import questions_of, questions_told, scores_of, scores_told

IDS = st.lists(st.integers(-(2**62), 2**62), max_size=4)
VALUES = st.lists(st.floats(width=64), max_size=4)


@given(st.lists(st.tuples(IDS, st.lists(IDS, max_size=5)), max_size=4))
def test_questions_arrive(asked: list[tuple[list[int], list[list[int]]]]) -> None:
    questions = [Continuations(*each) for each in asked]
    assert questions_of(json.loads(json.dumps(questions_told(questions)))) == questions


@given(st.lists(st.lists(VALUES, max_size=5), max_size=4))
def test_scores_arrive_bit_by_bit(values: list[list[list[float]]]) -> None:
    scores = [[np.array(row, np.float64) for row in rows] for rows in values]
    found = scores_of(json.loads(json.dumps(scores_told(scores))))
    assert [[row.tobytes() for row in rows] for rows in found] == [
        [row.tobytes() for row in rows] for rows in scores
    ]


@pytest.mark.parametrize("rows", [[], [[1.5]], [[1.0], [-2.0]], [[], [1.0, 2.0, 4.0]], [[3.0], []]])
def test_totals_are_sums(rows: list[list[float]]) -> None:
    assert totals([np.array(row) for row in rows]).tolist() == [sum(row) for row in rows]
