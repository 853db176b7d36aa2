"""The report of one turn: per stage the time and the record, plan against actual, scores, samples.

Built from records alone, so that `whorl show` prints later what `whorl up` printed at the end.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from whorl.core.records import Record

__all__ = ["build_report", "compare", "losses_to"]


def build_report(
    name: str, records: Mapping[str, Record], reused: Mapping[str, bool], version: int | None = None
) -> dict[str, Any]:
    """Everything the report shows, JSON-able. records: stage -> record; missing stages are left out.

    Raises RecordError if a file of a record is damaged.
    """
    report: dict[str, Any] = {"recipe": name, "version": version, "stages": []}
    for stage, record in records.items():
        report["stages"].append(
            {
                "stage": stage,
                "wall_s": record.run.get("wall_s"),
                "reused": reused.get(stage, False),
                "record": str(record.path),
            }
        )
    if "plan" in records and "train" in records:
        predictions = _json(records["plan"], "plan.json")["predictions"]
        report["plan_vs_actual"] = compare(predictions, records)
        report["model"] = _json(records["plan"], "plan.json")["decisions"]["architecture"]
    if "train" in records:
        report["curve"] = records["train"].run.get("curve")
        report["train"] = dict(records["train"].metrics)
    if "compress" in records:
        report["variants"] = records["compress"].metrics.get("variants", [])
    if "evaluate" in records:
        report["scores"] = _json(records["evaluate"], "scores.json")["scores"]
        report["losses_to"] = losses_to(report["scores"])
    if "serve" in records:
        report["serve"] = {**records["serve"].metrics, **records["serve"].run}
    return report


def _json(record: Record, name: str) -> Any:
    return json.loads(record.file(name).read_bytes())


def compare(
    predictions: Mapping[str, Mapping[str, Any]], records: Mapping[str, Record]
) -> list[dict[str, Any]]:
    """Rows of plan against actual: predicted with its 90% interval, actual, whether inside."""
    train = records["train"]
    actual: dict[str, float | None] = {
        "step_s": train.run.get("step_s"),
        "train_s": train.run.get("train_s"),
        "peak_bytes": train.run.get("peak_bytes"),
        "heldout_bpb": train.metrics.get("heldout_bpb"),
    }
    rows = []
    for what, value in actual.items():
        predicted = predictions.get(what)
        if predicted is None or value is None or predicted.get("value") is None:
            continue
        low, high = predicted["low"], predicted["high"]
        rows.append(
            {
                "what": what,
                "predicted": predicted["value"],
                "low": low,
                "high": high,
                "actual": value,
                "inside": low <= value <= high,
            }
        )
    return rows


def losses_to(scores: Sequence[Mapping[str, Any]]) -> list[str]:
    """Sentences that name every baseline that beats our best model."""
    ours = [score for score in scores if score.get("kind") == "model"]
    others = [score for score in scores if score.get("kind") == "baseline"]
    if not ours:
        return []
    higher_is_better = ours[0]["metric"] == "accuracy"
    sign = 1 if higher_is_better else -1
    best = max(ours, key=lambda score: sign * score["value"])
    return [
        f"{other['name']} is better: {other['value']:.3f} against {best['value']:.3f} ({best['name']})"
        for other in others
        if sign * other["value"] > sign * best["value"]
    ]
