"""Predictions of published rows as one document, and how far they are from what was measured."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.table import Table

from whorl.stages.plan.cluster.rows import PublishedRow
from whorl.stages.plan.cluster.step import RowFigures
from whorl.stages.plan.output.text import table

__all__ = ["published_report", "render_scores"]

SCORES = ("source", "rows", "predicted", "median error", "p90", "bias", "in 90%")
SHORT = {"tokens_per_s_per_device": "tokens/s", "peak_gib": "GiB", "oom": "out of memory"}
SHORT |= {"ttft_ms": "first token", "tpot_ms": "next tokens", "tokens_per_s": "tokens/s of all"}


def published_report(
    rows: Sequence[PublishedRow],
    figures: Sequence[RowFigures | None],
    refusals: Sequence[str | None],
) -> dict[str, Any]:
    """{"rows": [...], "by_source": {...}, "by_topic": [...]}; measured columns make scores alone.

    A row that is no job has null figures and its reason; one whose job does not fit the memory
    keeps its figures and has the reason too.
    """
    listed = []
    for row, figure, refused in zip(rows, figures, refusals, strict=True):
        predicted, low, high = figure or (None, None, None)
        listed.append(
            {
                "id": row.id,
                "metric": row.metric,
                "predicted": predicted,
                "low": low,
                "high": high,
                "refused": row.refused or refused,
            }
        )
    sources = dict.fromkeys(row.source for row in rows)
    by_source = {}
    for source in sources:
        inside = [index for index, row in enumerate(rows) if row.source == source]
        by_source[source] = _scores([rows[i] for i in inside], [figures[i] for i in inside])
    kinds = dict.fromkeys((row.topic, row.metric) for row in rows if row.topic)
    by_topic = []
    for topic, metric in kinds:
        inside = [i for i, row in enumerate(rows) if (row.topic, row.metric) == (topic, metric)]
        of = [rows[i] for i in inside], [figures[i] for i in inside]
        entry = {"topic": topic, "metric": metric, **_scores(*of)}
        by_topic.append(entry | (_verdicts(*of) if metric == "oom" else {}))
    return {"rows": listed, "by_source": by_source, "by_topic": by_topic}


def _scores(rows: Sequence[PublishedRow], figures: Sequence[RowFigures | None]) -> dict[str, Any]:
    """Relative errors, predicted over measured minus one; null where nothing was measured."""
    pairs = [
        (figure, row.measured)
        for row, figure in zip(rows, figures, strict=True)
        if figure is not None and row.measured and row.metric != "oom" and not row.oom
    ]
    errors = [figure[0] / measured - 1 for figure, measured in pairs]
    sizes = sorted(map(abs, errors))
    covered = [figure[1] <= measured <= figure[2] for figure, measured in pairs]
    return {
        "rows": len(rows),
        "predicted": sum(figure is not None for figure in figures),
        "measured": len(pairs),
        "median_error": statistics.median(sizes) if sizes else None,
        "p90_error": float(np.quantile(sizes, 0.9)) if sizes else None,
        "bias": statistics.median(errors) if errors else None,
        "coverage": sum(covered) / len(covered) if covered else None,
    }


def _verdicts(rows: Sequence[PublishedRow], figures: Sequence[RowFigures | None]) -> dict[str, int]:
    """Of runs that failed for lack of memory those said to fit, of those that ran the refused."""
    said = [(row.oom, figure[0] == 1) for row, figure in zip(rows, figures, strict=True) if figure]
    return {
        "failed": sum(oom for oom, _ in said),
        "failed_said_to_fit": sum(oom and not refused for oom, refused in said),
        "ran": sum(not oom for oom, _ in said),
        "ran_refused": sum(refused and not oom for oom, refused in said),
    }


def render_scores(report: dict[str, Any]) -> Table:
    """by_topic, where rows have one, else by_source, as a table for a terminal."""
    rows = []
    scored = [(f"{item['topic']}: {SHORT[item['metric']]}", item) for item in report["by_topic"]]
    for source, found in scored or report["by_source"].items():
        shares = (found[key] for key in ("median_error", "p90_error", "bias", "coverage"))
        cells = ("" if share is None else f"{share:.1%}" for share in shares)
        rows.append((source, str(found["rows"]), str(found["predicted"]), *cells))
    found = table(SCORES, rows, "predicted against measured")
    for item in report["by_topic"]:
        if item["metric"] == "oom":
            found.caption = (
                f"{item['failed_said_to_fit']} of {item['failed']} runs out of memory are said to "
                f"fit, {item['ran_refused']} of {item['ran']} that ran are refused"
            )
    return found
