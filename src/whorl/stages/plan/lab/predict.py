"""`whorl plan --published`: every row of a file predicted, whatever it is a row of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from whorl.stages.plan.cluster.memory_rows import predict_row_memory, predict_row_oom
from whorl.stages.plan.cluster.rows import PublishedRow, read_rows, read_table
from whorl.stages.plan.cluster.step import RowFigures, predict_rows
from whorl.stages.plan.lab.reports import RunReport, is_reports, read_reports
from whorl.stages.plan.lab.scores import published_report
from whorl.stages.plan.lab.served import served_figures

__all__ = ["predict_published", "predict_reports"]

Answers = tuple[list[RowFigures | None], list[str | None]]  # of each row: figures, why not


def predict_published(path: Path) -> dict[str, Any]:
    """The document of `whorl plan --published`. Raises DataError if the file is no table.

    A row that cannot be predicted has its reason instead of figures.
    """
    _, columns = read_table(path)
    if is_reports(columns):
        reports = read_reports(path)
    else:
        reports = [RunReport(row) for row in read_rows(path)]
    return published_report([item.row for item in reports], *predict_reports(reports))


def predict_reports(reports: Sequence[RunReport]) -> Answers:
    """Figures of each report, low to high its 90% interval, never from what was measured."""
    found: list[RowFigures | None] = [None] * len(reports)
    refused: list[str | None] = [None] * len(reports)
    rows = [item.row for item in reports]
    timed = [row for row in rows if row.metric == "tokens_per_s_per_device"]
    rates = iter(predict_rows(timed))
    for index, item in enumerate(reports):
        row = item.row
        if row.metric == "tokens_per_s_per_device":
            found[index] = next(rates)
        elif item.served:
            found[index], refused[index] = _range(item, row.metric)
        elif row.job is not None:
            found[index], refused[index] = _memory(row)
    return found, refused


def _range(report: RunReport, metric: str) -> tuple[RowFigures | None, str | None]:
    """The middle of what the row may mean, from the lowest low to the highest high."""
    answers = [served_figures(load, metric) for load in report.served]
    figures = sorted(answer for answer in answers if not isinstance(answer, str))
    if not figures:
        reason = next(answer for answer in answers if isinstance(answer, str))
        return None, f"row {report.row.id}: {reason}"
    middle = figures[len(figures) // 2][0]
    return (middle, min(low for _, low, _ in figures), max(high for *_, high in figures)), None


def _memory(row: PublishedRow) -> tuple[RowFigures, str | None]:
    if row.metric == "oom":
        return predict_row_oom(row)
    *peak, refused = predict_row_memory(row)
    return (peak[0], peak[1], peak[2]), refused
