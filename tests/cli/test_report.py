"""Tables of the report: what they say, and what they do not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from whorl.cli.console import OUT
from whorl.cli.report import print_report, print_scores


@pytest.fixture
def printed() -> Callable[[Callable[[], None]], str]:
    def capture(work: Callable[[], None]) -> str:
        with OUT.capture() as captured:
            work()
        return " ".join(captured.get().split())

    return capture


def score(name: str, value: float, low: float | None, high: float | None) -> dict[str, Any]:
    found = {"name": name, "kind": "model", "metric": "bits_per_byte", "value": value}
    return {**found, "low": low, "high": high, "num_documents": 1 if low is None else 50}


def test_intervals_are_spoken_of_where_there_are_some(
    printed: Callable[[Callable[[], None]], str],
) -> None:
    many = printed(lambda: print_scores([score("int8", 1.5, 1.4, 1.6)]))
    assert "95% intervals over documents" in many and "1.400 … 1.600" in many
    one = printed(lambda: print_scores([score("int8", 1.5, None, None)]))
    assert "95% intervals" not in one and "no intervals of so few documents" in one


def test_plan_against_actual_says_what_is_inside(
    printed: Callable[[Callable[[], None]], str],
) -> None:
    row = {"what": "train_s", "predicted": 60.0, "low": 50.0, "high": 70.0, "actual": 65.0}
    report = {"recipe": "mine", "stages": [], "plan_vs_actual": [{**row, "within": True}]}
    text = printed(lambda: print_report(report))
    for part in ("start-up", "steps", "validations", "checkpoints"):
        assert part in text
