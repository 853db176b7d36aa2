"""The document of published rows: order, reasons, and scores against a hand-made table."""

from __future__ import annotations

import pytest

from whorl.stages.plan.cluster.rows import PublishedRow
from whorl.stages.plan.lab.scores import published_report, render_scores


def row(
    number: int, measured: float | None, source: str = "lab", **changes: object
) -> PublishedRow:
    fields = {"id": f"r{number}", "source": source, "metric": "peak_gib", "job": None}
    return PublishedRow(**(fields | {"refused": None, "measured": measured} | changes))  # type: ignore[arg-type]


def test_rows_keep_their_order_and_reasons() -> None:
    rows = [row(2, 10.0), row(1, None, "other"), row(3, 5.0, refused="column tp is empty")]
    report = published_report(
        rows, [(11.0, 9.0, 12.0), (1.0, 1.0, 1.0), None], [None, "full", None]
    )
    assert report["rows"] == [
        {
            "id": "r2",
            "metric": "peak_gib",
            "predicted": 11.0,
            "low": 9.0,
            "high": 12.0,
            "refused": None,
        },
        {
            "id": "r1",
            "metric": "peak_gib",
            "predicted": 1.0,
            "low": 1.0,
            "high": 1.0,
            "refused": "full",
        },
        {
            **{"id": "r3", "metric": "peak_gib", "predicted": None, "low": None, "high": None},
            "refused": "column tp is empty",
        },
    ]
    assert list(report["by_source"]) == ["lab", "other"]


def test_scores_by_hand() -> None:
    """Predicted/measured: 1.1, 0.8, 1.0, 1.4; errors 10, 20, 0, 40%; three of four inside."""
    predicted = [11.0, 8.0, 10.0, 14.0]
    rows = [row(n, 10.0) for n in range(4)]
    rows += [row(4, None), row(5, 10.0, refused="no"), row(6, 80.0, oom=True)]
    found = [(p, 0.6 * p, 1.3 * p) for p in predicted] + [(1.0, 1.0, 1.0), None, (1.0, 1.0, 1.0)]
    report = published_report(rows, found, [None] * 7)
    scores = report["by_source"]["lab"]
    assert scores["rows"] == 7 and scores["predicted"] == 6 and scores["measured"] == 4
    assert scores["median_error"] == pytest.approx(0.15)
    assert scores["p90_error"] == pytest.approx(0.2 + 0.7 * 0.2)  # between the third and fourth
    assert scores["bias"] == pytest.approx(0.05)
    assert scores["coverage"] == pytest.approx(1.0)
    found[3] = (14.0, 12.0, 15.0)
    report = published_report(rows, found, [None] * 7)
    assert report["by_source"]["lab"]["coverage"] == pytest.approx(0.75)
    assert render_scores(report).row_count == 1
