"""What the report says of baselines that are ahead."""

from __future__ import annotations

from typing import Any

import pytest

from whorl.stages.improve.report import losses_to


def score(name: str, kind: str, value: float, metric: str = "bits_per_byte") -> dict[str, Any]:
    return {"field": "text", "name": name, "kind": kind, "value": value, "metric": metric}


SCORES = [
    score("int8", "model", 1.4),
    score("f32", "model", 1.39),
    score("xz", "baseline", 1.2),
    score("5-gram", "baseline", 1.5),
]


def test_a_baseline_that_is_ahead_is_named_and_one_behind_is_not() -> None:
    pair = {"field": "text", "first": "int8", "second": "xz", "better": "xz"}
    pairs = [pair | {"difference": 1.4 - 1.2}]
    assert losses_to(SCORES, pairs) == ["xz is better: 1.200 against 1.400 (int8)"]


def test_of_a_method_of_some_documents_the_model_s_value_is_of_those() -> None:
    """The model has 43 on all, 60 on those that apertium translates: it is ahead there."""
    scores = [score("int8", "model", 43.0, "chrf"), score("apertium", "baseline", 54.0, "chrf")]
    pair = {"field": "text", "first": "int8", "second": "apertium", "better": "int8"}
    assert losses_to(scores, [pair | {"difference": 6.0}]) == []
    (line,) = losses_to(scores, [pair | {"difference": -20.0, "better": "apertium"}])
    assert "54.0 against 34.0" in line


def test_doubt_is_said() -> None:
    pair = {
        "field": "text",
        "first": "int8",
        "second": "xz",
        "difference": 1.4 - 1.2,
        "low": -0.1,
        "high": 0.5,
        "better": None,
    }
    (line,) = losses_to(SCORES, [pair])
    assert line.endswith("which may be chance: the paired interval holds no difference too")


def test_where_there_is_no_interval_none_is_spoken_of() -> None:
    """As of one document."""
    pair = {
        "field": "text",
        "first": "int8",
        "second": "xz",
        "difference": 1.4 - 1.2,
        "low": None,
        "high": None,
        "better": None,
    }
    (line,) = losses_to(SCORES, [pair])
    assert "no interval" in line and "holds no difference" not in line


@pytest.mark.parametrize(("svc", "lines"), [(0.99, 1), (0.97, 0), (0.98, 0)])
def test_for_accuracy_more_is_better(svc: float, lines: int) -> None:
    scores = [score("int8", "model", 0.98, "accuracy"), score("SVC", "baseline", svc, "accuracy")]
    assert len(losses_to(scores, [])) == lines


def test_baselines_are_compared_within_their_field() -> None:
    digits = [score("int8", "model", 0.5, "accuracy"), score("SVC", "baseline", 0.9, "accuracy")]
    lines = losses_to([*SCORES, *(row | {"field": "digits"} for row in digits)], [])
    assert lines == [
        "text: xz is better: 1.200 against 1.400 (int8)",
        "digits: SVC is better: 0.900 against 0.500 (int8)",
    ]
