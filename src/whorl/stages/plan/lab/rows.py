"""Every published row: tables of projects, rows of other planners, reports of practitioners."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from whorl.stages.plan.cluster.rows import Metric, PublishedRow, read_rows
from whorl.stages.plan.lab.reports import read_reports

__all__ = ["FOLDER", "memory_rows", "report_rows", "time_rows"]

FOLDER = Path(str(files("whorl.stages.plan.cluster"))) / "published"


def report_rows(metric: Metric) -> list[PublishedRow]:
    """Practitioners' rows of one metric that have a job."""
    rows = (item.row for item in read_reports(FOLDER / "reports.csv"))
    return [row for row in rows if row.job is not None and row.metric == metric]


def time_rows() -> list[PublishedRow]:
    """Steps that were timed, of all three kinds."""
    rows = [*read_rows(FOLDER / "train_perf.csv"), *read_rows(FOLDER / "planners_rows.csv")]
    rows = [row for row in rows if row.job is not None and row.measured]
    return rows + [row for row in report_rows("tokens_per_s_per_device") if row.measured]


def memory_rows() -> list[PublishedRow]:
    """Peaks that were measured, and runs out of memory of the tables."""
    rows = read_rows(FOLDER / "train_memory.csv") + read_rows(FOLDER / "planners_rows_memory.csv")
    rows = [row for row in rows if row.job is not None and (row.measured or row.oom)]
    return rows + [row for row in report_rows("peak_gib") if row.measured]
