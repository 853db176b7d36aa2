"""The report of one turn: per stage the time and the record, plan against actual, scores, samples.

Built from records alone, so that `whorl show` prints later what `whorl up` printed at the end.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

from whorl.core.metrics import find_metric
from whorl.core.records import Record, RecordStore
from whorl.core.variants import Variant
from whorl.stages.improve.registry import list_versions

DURATIONS = ("wall_s", "duration_s", "train_s")  # of a record's run.json, whichever it has

NO_FIELD = {"field": ""}  # of rows of records that were made when models had one field
# That leave records.
STAGES = ("import", "plan", "prepare", "prune", "train", "compress", "evaluate", "serve")

__all__ = [
    "STAGES",
    "GroupRow",
    "PlannedRow",
    "Report",
    "ScoreRow",
    "StageRow",
    "TogetherRow",
    "build_report",
    "compare",
    "losses_to",
    "report_of",
    "searched",
    "together",
]


class StageRow(TypedDict):
    """What one stage took, and where its record is."""

    stage: str
    wall_s: float
    reused: bool
    record: str


class PlannedRow(TypedDict):
    """A prediction with its 90% interval beside what came. within: None if one is unknown."""

    what: str
    predicted: float | None
    low: float | None
    high: float | None
    actual: float | None
    ratio: float | None
    within: bool | None


class ScoreRow(TypedDict):
    """A score of evaluate's scores.json. variant: format and weights; None: another method."""

    field: str
    kind: str  # "model", "baseline", or "alone": a model of this field by itself
    name: str
    metric: str
    value: float
    low: float | None
    high: float | None
    num_documents: int | None
    note: str
    variant: dict[str, str] | None


class TogetherRow(TypedDict):
    """A field's score in the model of all fields, and in a model of it alone, as it is served.

    difference: of the two, with its interval where both scored the same documents.
    """

    field: str
    metric: str
    together: float
    alone: float
    difference: float
    low: float | None
    high: float | None
    better: str  # "together", "alone", or "": the interval holds no difference as well


class GroupRow(TypedDict):
    """A score of one group of a field's documents, such as one direction of a translation."""

    field: str
    group: str
    name: str
    metric: str
    value: float
    low: float | None
    high: float | None
    num_documents: int


class Report(TypedDict, total=False):
    """What `whorl up` and `whorl show` print; a part is missing if its stage has no record."""

    recipe: str
    version: int | None
    stages: list[StageRow]
    plan_vs_actual: list[PlannedRow]
    model: dict[str, Any]  # the shape
    curve: str | None  # path of the picture of the loss
    train: dict[str, Any]  # metrics of the record
    variants: list[dict[str, Any]]  # metrics of compress
    candidates: list[dict[str, Any]]  # what compress tried, with speeds, where it searched
    choices: list[dict[str, str]]  # what it kept of each format, and why
    pareto: str | None  # path of the picture of them
    scores: list[ScoreRow]
    contamination: list[dict[str, Any]]  # per field: training text in the scored documents
    absent: list[str]  # methods that would stand beside a field's models, and how to get them
    losses_to: list[str]
    groups: list[GroupRow]  # scores of parts of a field's documents
    together: list[TogetherRow]  # of a model of several fields, where evaluate.apart asked for it
    forgetting: dict[str, Any]  # of a model that was trained from a base
    serve: dict[str, Any]  # metrics and speeds


def build_report(
    name: str,
    records: Mapping[str, Record],
    took_s: Mapping[str, float],
    version: int | None = None,
) -> Report:
    """Everything the report shows, JSON-able. records: stage -> record, missing ones left out.

    took_s: stage -> seconds, of the stages that were run just now; the others were reused.
    Raises RecordError if a file of a record is damaged.
    """
    report: Report = {"recipe": name, "version": version, "stages": []}
    for stage, record in records.items():
        worked_s = max(float(record.run.get(name) or 0) for name in DURATIONS)
        report["stages"].append(
            {
                "stage": stage,
                "wall_s": took_s.get(stage, worked_s),
                "reused": stage not in took_s,
                "record": str(record.path),
            }
        )
    if "plan" in records and "train" in records:
        report["plan_vs_actual"] = compare(records)
        report["model"] = _json(records["plan"], "plan.json")["decisions"]["shape"]
    if "train" in records:
        curve = records["train"].path.with_suffix(".run") / "loss.png"
        report["curve"] = str(curve) if curve.exists() else None
        report["train"] = dict(records["train"].metrics)
    if "compress" in records:
        variants = records["compress"].metrics.get("variants", [])
        report["variants"] = [NO_FIELD | row for row in variants]
        report |= searched(records["compress"])  # type: ignore[typeddict-item]
    if "evaluate" in records:
        evaluated = _evaluated(records["evaluate"])
        report["scores"] = [ScoreRow(**score) for score in evaluated["scores"]]  # type: ignore[typeddict-item]
        if forgotten := records["evaluate"].metrics.get("forgetting"):
            report["forgetting"] = forgotten
        report["contamination"] = [
            {"field": of["field"], **of["contamination"]}
            for of in evaluated["fields"]
            if "contamination" in of
        ]
        report["absent"] = [
            f"{of['field']}: {of['absent']}" for of in evaluated["fields"] if of.get("absent")
        ]
        report["losses_to"] = losses_to(evaluated["scores"], evaluated["comparisons"])
        if groups := evaluated["groups"]:
            report["groups"] = [GroupRow(**row) for row in groups]  # type: ignore[typeddict-item]
        if rows := together(evaluated["scores"], evaluated["comparisons"]):
            report["together"] = rows
    if "serve" in records:
        report["serve"] = {**records["serve"].metrics, **records["serve"].run}
    return report


def searched(record: Record) -> dict[str, Any]:
    """What compress tried; {} if it did not search."""
    if "search" not in record.metrics:
        return {}
    speeds = record.run.get("speeds", {})
    picture = record.path.with_suffix(".run") / "pareto.png"
    return {
        "candidates": [{**row, **speeds.get(row["how"], {})} for row in record.metrics["search"]],
        "choices": list(record.metrics.get("choices", [])),
        "pareto": str(picture) if picture.exists() else None,
    }


def report_of(home: Path, name: str) -> Report:
    """The report of a recipe from its newest registered lineage. Raises RecordError."""
    store = RecordStore(home, name)
    versions = list_versions(home, name)
    records: dict[str, Record] = {}
    for stage in STAGES:
        if versions and stage in versions[-1].lineage:
            record: Record | None = Record.load(store.folder(stage) / versions[-1].lineage[stage])
        else:
            record = store.newest(stage)
        if record is not None:
            records[stage] = record
    version = versions[-1].version if versions else None
    return build_report(name, records, {}, version)


def _evaluated(record: Record) -> dict[str, list[dict[str, Any]]]:
    """The content of scores.json; of records from before models had several fields too."""
    found = _json(record, "scores.json")
    rows = {key: [NO_FIELD | row for row in found[key]] for key in ("scores", "comparisons")}
    groups = found.get("groups", [])
    return {"fields": found.get("fields", [NO_FIELD]), "groups": groups, **rows}


def _json(record: Record, name: str) -> Any:
    return json.loads(record.file(name).read_bytes())


def compare(records: Mapping[str, Record]) -> list[PlannedRow]:
    """Rows of plan against actual: predicted with its 90% interval, actual, whether within.

    The quality is that of evaluation, through the engine, where there is one of one field: of
    the variant with the largest weights.
    """
    rows: list[PlannedRow] = []
    evaluated = _evaluated(records["evaluate"]) if "evaluate" in records else {}
    for what, row in records["train"].run.get("plan_vs_actual", {}).items():
        actual = row["actual"]
        if what == "heldout_bpb" and len(evaluated.get("fields", ())) == 1:
            ours = [score for score in evaluated["scores"] if score["variant"] is not None]
            actual = max(ours, key=lambda score: Variant(**score["variant"]).bits)["value"]
        low, high = row["low"], row["high"]
        inside = None if None in (low, high, actual) else low <= actual <= high
        known = {name: row.get(name) for name in ("predicted", "low", "high", "ratio")}
        rows.append({**known, "what": what, "actual": actual, "within": inside})  # type: ignore[typeddict-item]
    return rows


def losses_to(
    scores: Sequence[Mapping[str, Any]], comparisons: Sequence[Mapping[str, Any]]
) -> list[str]:
    """A sentence for every baseline ahead of the model that is served: of its field the first.

    Ahead is a matter of the paired interval over documents where there is one.
    """
    first: dict[str, Mapping[str, Any]] = {}
    for score in scores:
        if score["kind"] == "model":
            first.setdefault(score["field"], score)
    pairs = {(pair["field"], pair["second"]): pair for pair in comparisons}
    lines = []
    for other in (score for score in scores if score["kind"] != "model"):
        mine = first[other["field"]]
        metric = find_metric(mine["metric"])
        pair, value = pairs.get((other["field"], other["name"])), mine["value"]
        if pair is not None:  # of the documents that both answered
            value = other["value"] + pair["difference"]
        if metric.sign * (other["value"] - value) <= 0:
            continue
        told = f"{metric.shown(other['value'])} against {metric.shown(value)} ({mine['name']})"
        doubt = _doubt(pair)
        which = f"{other['field']}: " if len(first) > 1 else ""
        lines.append(f"{which}{other['name']} is better: {told}{doubt}")
    return lines


def together(
    scores: Sequence[Mapping[str, Any]], comparisons: Sequence[Mapping[str, Any]]
) -> list[TogetherRow]:
    """Of each field the model that is served beside the same variant of a model of it alone."""
    pairs = {(pair["field"], pair["second"]): pair for pair in comparisons}
    rows: list[TogetherRow] = []
    served: dict[str, Mapping[str, Any]] = {}
    for score in scores:
        if score["kind"] == "model":
            served.setdefault(score["field"], score)
            continue
        mine = served[score["field"]]
        if score["kind"] != "alone" or not score["name"].endswith(f" {mine['name']}"):
            continue
        pair = pairs.get((score["field"], score["name"]), {})
        better = {mine["name"]: "together", score["name"]: "alone"}
        rows.append(
            {
                "field": score["field"],
                "metric": score["metric"],
                "together": mine["value"],
                "alone": score["value"],
                "difference": mine["value"] - score["value"],
                "low": pair.get("low"),
                "high": pair.get("high"),
                "better": better.get(pair.get("better") or "", ""),
            }
        )
    return rows


def _doubt(pair: Mapping[str, Any] | None) -> str:
    """What the interval of the paired difference leaves open."""
    if pair is None or pair["better"] is not None:
        return ""
    if pair["low"] is None:
        return "; so few documents give no interval"
    return ", which may be chance: the paired interval holds no difference too"
