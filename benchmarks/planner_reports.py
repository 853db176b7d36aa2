"""The planner against practitioners' reports and other planners' rows, for planner_accuracy.py."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from planner_scores import Result, table

from whorl.stages.plan.cluster.memory_rows import VERDICTS, predict_row_memory, verdict
from whorl.stages.plan.cluster.rows import PublishedRow, read_rows
from whorl.stages.plan.cluster.step import predict_rows
from whorl.stages.plan.lab.reports import read_reports
from whorl.stages.plan.lab.rows import FOLDER, report_rows

__all__ = ["left_out_lines", "report_lines"]


def _timed(rows: Sequence[PublishedRow]) -> list[Result]:
    rows = [row for row in rows if row.job is not None and row.measured]
    found = []
    for row, item in zip(rows, predict_rows(rows), strict=True):
        assert item and row.measured
        found.append(Result(row, *item, row.measured))
    return found


def _peaks(rows: Sequence[PublishedRow]) -> list[Result]:
    rows = [row for row in rows if row.job is not None and row.measured and not row.oom]
    return [Result(row, *predict_row_memory(row)[:3], row.measured or 0.0) for row in rows]


def report_lines() -> list[str]:
    """The section of the page: reports by kind of run, other planners' rows by source."""
    time = _timed(report_rows("tokens_per_s_per_device"))
    memory = _peaks(report_rows("peak_gib"))
    lines = [
        "## Practitioners' reports",
        "",
        "What people say of their own runs in issues, READMEs and logs (`reports.csv`): other",
        "software, smaller cards, adapters; what they leave out is assumed. Each row by constants",
        "that have not seen its source, though its software and its device may be others' too.",
        "The bytes that a software keeps, and the words of a report, were read with these rows in",
        "sight.",
        "",
        "Step time:",
        "",
        *table(time, lambda item: item.row.topic, "kind of run"),
        *table(time, lambda item: "all", "together"),
        "Peak memory:",
        "",
        *table(memory, lambda item: item.row.topic, "kind of run"),
        *table(memory, lambda item: "all", "together"),
        *_verdicts(),
        "Rows that could not be read as a job, with the reason:",
        "",
        *(f"- {reason}" for reason in dict.fromkeys(_refused())),
        "",
        "## Rows of other planners",
        "",
        "Measured rows that SimuMax and Primus publish beside their own predictions, by constants",
        "fitted without them.",
        "",
        *table(_timed(read_rows(FOLDER / "planners_rows.csv")), _source, "step time"),
        *table(_peaks(read_rows(FOLDER / "planners_rows_memory.csv")), _source, "peak memory"),
    ]
    return lines


def _source(item: Result) -> str:
    return item.row.source


def _verdicts() -> list[str]:
    """What is said of runs that failed for lack of memory, and of all that ran."""
    every = [item.row for item in read_reports(FOLDER / "reports.csv") if not item.served]
    runs = {(row.id, row.oom): row for row in every if row.job is not None}
    said = {key: verdict(row) for key, row in runs.items()}
    lines = [
        "Whether a run fits: it does where the whole interval of its memory fits, does not where",
        "the middle is beyond the device, and may not in between.",
        "",
        f"| reported | runs | {' | '.join(VERDICTS)} |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for title, oom in (("out of memory", True), ("ran", False)):
        found = [of for (_, failed), of in said.items() if failed == oom]
        counts = " | ".join(str(found.count(name)) for name in VERDICTS)
        lines.append(f"| {title} | {len(found)} | {counts} |")
    wrong = {"fits": True, "may not fit": True, "does not fit": False}
    doubtful = [f"{name} ({of})" for (name, oom), of in said.items() if wrong[of] == oom]
    return [*lines, "", f"Not as reported: {', '.join(doubtful)}.", ""]


def _refused() -> list[str]:
    return [item.row.refused for item in read_reports(FOLDER / "reports.csv") if item.row.refused]


def left_out_lines() -> list[str]:
    """Errors and intervals of all rows, by constants blind to their source, device or software."""
    lines = [
        "## Left out by source, by device, by software",
        "",
        "All rows, of tables, of other planners and of practitioners, each by constants fitted",
        "without any row of its source, its device, or its software and kind of model. What is",
        "left out counts equally, of peaks what has fewer than eight rows less. Where no row of a",
        "device or a software was fitted, the interval is wider by what these errors were, and the",
        "plan says so.",
        "",
        "| left out | rows | median error | p90 | inside the 90% interval |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for title, name in (("step time", "constants"), ("peak memory", "memory_constants")):
        for kind, found in _left_out(name).items():
            shares = (found[key] for key in ("median_error", "p90_error", "inside"))
            cells = " | ".join(f"{100 * share:.1f}%" for share in shares)
            lines.append(f"| {title}, {kind} | {found['rows']} | {cells} |")
    return [*lines, ""]


def _left_out(name: str) -> dict[str, Any]:
    text = (files("whorl.stages.plan.cluster") / f"{name}.json").read_text("utf-8")
    found: dict[str, Any] = json.loads(text)["left_out"]
    return found
