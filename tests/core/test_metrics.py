"""Metrics are objects: a new one, from outside, is added up, ordered and shown as it says."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from whorl.core.errors import RecordError
from whorl.core.intervals import interval_of, paired_interval
from whorl.core.metrics import ACCURACY, BITS_PER_BYTE, BUILT_IN, Metric, find_metric
from whorl.core.ports import QualityMeasure
from whorl.stages.compress.run import loss_of_quality
from whorl.stages.improve.report import losses_to

OUTSIDE = '''
"""The root of the mean squared error, in metres."""
import numpy as np
from whorl.core.metrics import Metric


class RootMeanSquare(Metric):
    def total(self, numerator, denominator, axis=-1):
        return np.sqrt(super().total(numerator, denominator, axis))

    def shown(self, value):
        return f"{100 * value:.0f} cm"


METRIC = RootMeanSquare("rms_error", "m", higher_is_better=False)
OTHER = Metric("another", "m", higher_is_better=True)
'''


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Metric]:
    """The metric of an installed package."""
    (tmp_path / "outside_metric.py").write_text(OUTSIDE)
    info = tmp_path / "outside_metric-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: outside_metric\nVersion: 1.0\n")
    points = "rms_error = outside_metric:METRIC\nmisnamed = outside_metric:OTHER\n"
    (info / "entry_points.txt").write_text(f"[whorl.metrics]\n{points}")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    yield find_metric("rms_error")
    sys.modules.pop("outside_metric", None)


def measured(metric: Metric, errors: list[float]) -> QualityMeasure:
    squares = np.square(np.array(errors))
    return QualityMeasure(metric, tuple(map(str, errors)), squares, np.ones(len(errors)))


def test_built_in_metrics_are_found_by_their_names() -> None:
    assert all(find_metric(name) is metric for name, metric in BUILT_IN.items())
    assert (BITS_PER_BYTE.sign, ACCURACY.sign) == (-1, 1)
    assert str(BITS_PER_BYTE) == "bits per byte"
    with pytest.raises(RecordError, match=r"entry point group whorl\.metrics"):
        find_metric("meteor")


def test_a_metric_from_outside_decides_how_documents_add_up(outside: Metric) -> None:
    errors = [2.0, 4.0, 4.0, 8.0]
    found = measured(outside, errors)
    assert found.value == pytest.approx(5.0)  # sqrt((4 + 16 + 16 + 64) / 4)
    interval = interval_of(found, samples=500)
    assert interval.value == pytest.approx(5.0)
    assert interval.low is not None and interval.high is not None
    assert 2 <= interval.low < 5 < interval.high <= 8
    doubled = QualityMeasure(outside, found.document_names, 4 * found.numerator, found.denominator)
    assert paired_interval(doubled, found).value == pytest.approx(5.0)
    loss = loss_of_quality(doubled, found)
    assert loss.value == pytest.approx(1.0)
    assert (loss.low, loss.high) == (pytest.approx(1.0), pytest.approx(1.0))


def test_a_metric_from_outside_is_ordered_and_shown_in_reports(
    outside: Metric, capsys: pytest.CaptureFixture[str]
) -> None:
    from whorl.cli.report import print_scores

    def score(name: str, kind: str, value: float) -> dict[str, Any]:
        return {
            "field": "f",
            "name": name,
            "kind": kind,
            "value": value,
            "metric": "rms_error",
        }

    scores = [score("ours", "model", 0.5), score("theirs", "baseline", 0.25)]
    assert losses_to(scores, []) == ["theirs is better: 25 cm against 50 cm (ours)"]
    print_scores(scores)
    shown = capsys.readouterr().out
    assert "held-out rms error" in shown
    assert shown.index("25 cm") < shown.index("50 cm")


def test_an_entry_point_that_is_another_metric_is_refused(outside: Metric) -> None:
    with pytest.raises(RecordError, match=r"is not the metric misnamed; found: .*another"):
        find_metric("misnamed")
