"""`whorl plan --published`: every row of a file predicted, whatever it is a row of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from whorl.stages.plan.cluster.memory_rows import predict_row_memory, predict_row_oom
from whorl.stages.plan.cluster.rows import PublishedRow, read_rows, read_table
from whorl.stages.plan.cluster.step import RowFigures, predict_rows
from whorl.stages.plan.lab.reports import RunReport, ServedLoad, is_reports, read_reports
from whorl.stages.plan.lab.scores import published_report
from whorl.stages.plan.serving.choose import error_of, rates_of, room_for
from whorl.stages.plan.serving.times import ENGINES, ReplicaLoad, columns, constants, steady_state
from whorl.stages.plan.serving.work import decode_work, prefill_work

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
    answers = [_served(load, metric) for load in report.served]
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


def _served(load: ServedLoad, metric: str) -> tuple[float, float, float] | str:
    """(predicted, low, high) of ttft_ms, tpot_ms or tokens_per_s (of all users, output tokens).

    Why there is none, where the weights and one request's cache do not fit.
    """
    d, context = load.deployment, load.input_tokens + load.output_tokens
    room = room_for(d, context)
    if room < 1:
        gib = (d.weight_bytes + d.cache_bytes(context)) / 2**30
        return f"weights and one request's cache take {gib:.1f} GiB of each {d.device.name}"
    running = float(min(load.users, int(room)))
    asked = ReplicaLoad(
        engine=np.array([ENGINES.index(load.engine)]),
        running=np.array([running]),
        waiting=np.array([load.users - running]),
        output_tokens=np.array([float(load.output_tokens)]),
        burst=np.array([False]),
    )
    decode = columns([decode_work(d, running, load.input_tokens + load.output_tokens // 2)])
    prefill = columns([prefill_work(d, 1, load.input_tokens)])
    found = steady_state(decode, prefill, asked, constants()["values"])
    first, token = float(found.first_s[0]), float(found.token_s[0])
    error = error_of(d.device)
    if metric == "tokens_per_s":
        middle, high, low = rates_of(load.users, load.output_tokens, first, token, error)
        return middle, low, high
    name, value = ("first_s", first) if metric == "ttft_ms" else ("token_s", token)
    low, high = error[name]
    return 1e3 * value, 1e3 * value * low, 1e3 * value * high
