"""Tables of plans, records, scores, and the report at the end of `whorl up`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

from whorl.cli.candidates import print_candidates
from whorl.cli.console import OUT
from whorl.cli.reading import print_reading
from whorl.cli.samples import print_samples
from whorl.core.metrics import Metric, find_metric
from whorl.core.records import Record
from whorl.core.units import format_bytes, format_duration

__all__ = ["print_plan", "print_report", "print_scores", "print_stage"]

WHOLE = "time of training: start-up, steps, validations, checkpoints; of a step: the mean"
EXACT = ("train_tokens",)  # decided by the plan, not predicted
TABLES = ("reading", "dropped", "search", "choices", "variants")  # metrics shown apart
DETAILS = ("all_text", "contract")  # of prepare, for programs: --json has them
LABELS = {
    "step_s": "time of a step",
    "train_s": "time of training",
    "peak_bytes": "peak memory",
    "heldout_bpb": "bits per byte, held out",
}


def print_plan(record: Record) -> None:
    """plan.json as the table of the plan stage."""
    from whorl.stages.plan.plan import Plan
    from whorl.stages.plan.table import render

    OUT.print(render(Plan.load(record)))


def print_stage(record: Record, took_s: float | None) -> None:
    """What one stage left: where, how long (None: it was there already), and its figures."""
    state = "reused" if took_s is None else format_duration(took_s)
    table = Table(title=f"{record.stage} ({state})", show_header=False)
    told = {} if record.stage == "plan" else record.metrics  # print_plan has those, with intervals
    for key, value in told.items():
        is_told = bool(value) and key not in DETAILS if record.stage == "prepare" else True
        if is_told and key not in TABLES:
            table.add_row(key, escape(_shown(key, value)))
    if table.row_count:
        OUT.print(table)
    _print_variants(record.metrics.get("variants", ()))
    print_reading(record)
    if "search" in record.metrics:
        from whorl.stages.improve.report import searched

        print_candidates(searched(record))
    OUT.print(f"record {record.path}", markup=False, soft_wrap=True)


def _shown(key: str, value: Any) -> str:
    if (key == "bytes" or key.endswith("_bytes")) and isinstance(value, int | float):
        return format_bytes(value)
    if key.endswith("_s") and isinstance(value, int | float):
        return f"{1000 * value:.1f} ms" if value < 1 else format_duration(value)
    if isinstance(value, Mapping):
        given = {name: item for name, item in value.items() if item is not None}
        return ", ".join(f"{name} {_shown(name, item)}" for name, item in given.items()) or "none"
    if isinstance(value, list | tuple):
        ends = "\n" if any(isinstance(item, Mapping) for item in value) else ", "
        return ends.join(_shown(key, item) for item in value) or "none"
    if isinstance(value, float):
        return f"{value:,.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def print_scores(scores: Sequence[Mapping[str, Any]]) -> None:
    """Models and baselines on the same held-out documents, best first; a table per field."""
    fields = list(dict.fromkeys(score["field"] for score in scores))
    for field in fields:
        of_field = [score for score in scores if score["field"] == field]
        _print_scores(of_field, f"{field}: " if len(fields) > 1 else "")


def _print_scores(scores: Sequence[Mapping[str, Any]], of: str) -> None:
    metric = find_metric(scores[0]["metric"])
    best_first = sorted(scores, key=lambda score: -metric.sign * score["value"])
    title = f"{of}held-out {metric.title}, {_how_sure(scores)}"
    table = Table("", metric.title, "95%", "documents", title=title)
    table.add_column("note", overflow="fold")  # names of bases have no blank to break at
    for score in best_first:
        ours = score.get("kind") == "model"
        name = escape(score["name"])
        name = f"[bold]your model, {name}[/bold]" if ours else name
        documents = "" if score.get("num_documents") is None else str(score["num_documents"])
        value = metric.shown(score["value"])
        note = escape(score.get("note") or "")
        table.add_row(name, value, _interval(metric, score), documents, note)
    OUT.print(table)


def _how_sure(rows: Sequence[Mapping[str, Any]]) -> str:
    known = any(row.get("low") is not None for row in rows)
    return "95% intervals over documents" if known else "no intervals of so few documents"


def _interval(metric: Metric, row: Mapping[str, Any]) -> str:
    """The two ends; "" where they are not known."""
    ends = [metric.shown(end) for key in ("low", "high") if (end := row.get(key)) is not None]
    return " … ".join(ends)


def print_report(report: Mapping[str, Any]) -> None:
    """Everything `whorl up` did, for a person."""
    version = f" version {report['version']}" if report.get("version") else ""
    OUT.rule(f"{report['recipe']}{version}")
    table = Table("stage", "time", "record", title="stages")
    for row in report["stages"]:
        wall = "" if row["wall_s"] is None else format_duration(row["wall_s"])
        digest = row["record"].rpartition("/")[2]
        table.add_row(row["stage"], f"{wall} (reused)" if row["reused"] else wall, digest[:16])
    OUT.print(table)
    _print_plan_vs_actual(report.get("plan_vs_actual") or [])
    print_scores(report.get("scores") or [])
    _print_groups(report.get("groups") or [])
    _print_together(report.get("together") or [])
    for line in report.get("losses_to") or []:
        OUT.print(f"[yellow]we lose:[/yellow] {escape(line)}", soft_wrap=True)
    for line in report.get("absent") or []:
        OUT.print(f"[yellow]not compared:[/yellow] {escape(line)}", soft_wrap=True)
    _print_forgetting(report.get("forgetting"))
    _print_contamination(report.get("contamination") or [])
    _print_variants(report.get("variants") or [])
    print_candidates(report)
    _print_serve(report.get("serve") or {})
    if report.get("curve"):
        OUT.print(f"loss curve: {report['curve']}", markup=False, soft_wrap=True)


def _print_groups(rows: Sequence[Mapping[str, Any]]) -> None:
    """Of each field and metric the scores of every group of documents beside each other."""
    for field, metric_name in dict.fromkeys((row["field"], row["metric"]) for row in rows):
        metric = find_metric(metric_name)
        mine = [row for row in rows if (row["field"], row["metric"]) == (field, metric_name)]
        names = [*dict.fromkeys(row["name"] for row in mine)]
        title = f"{escape(field)}: {metric.title} by part, {_how_sure(mine)}"
        table = Table("", *map(escape, names), "documents", title=title)
        for group in dict.fromkeys(row["group"] for row in mine):
            here = {row["name"]: row for row in mine if row["group"] == group}
            count = next(iter(here.values()))["num_documents"]  # the model's
            values = (_of_group(metric, here.get(name), count) for name in names)
            table.add_row(escape(group), *values, str(count))
        OUT.print(table)


def _of_group(metric: Metric, row: Mapping[str, Any] | None, count: int) -> str:
    """A score of a group, which may be of other documents than the model's: then of how many."""
    if row is None:
        return ""
    others = row["num_documents"]
    return _surely(metric, row) + ("" if others == count else f", of {others}")


def _surely(metric: Metric, row: Mapping[str, Any]) -> str:
    """A value with its interval, where one is known."""
    interval = _interval(metric, row)
    return metric.shown(row["value"]) + (f" ({interval})" if interval else "")


def _print_together(rows: Sequence[Mapping[str, Any]]) -> None:
    """Of each field the model of all fields beside a model of it alone."""
    if not rows:
        return
    table = Table("field", "metric", "together", "alone", "difference", "95%", "better")
    table.title = "one model of all fields, and one of each, at equal compute"
    for row in rows:
        metric = find_metric(row["metric"])
        known = row["low"] is not None
        interval = f"{row['low']:+.3f} … {row['high']:+.3f}" if known else ""
        values = (metric.shown(row[key]) for key in ("together", "alone"))
        difference = f"{row['difference']:+.3f}"
        table.add_row(row["field"], metric.title, *values, difference, interval, row["better"])
    OUT.print(table)


def _print_forgetting(found: Mapping[str, Any] | None) -> None:
    """General text before and after a training that started from a base."""
    if found is None:
        return
    interval = "" if found["low"] is None else f", 95% {found['low']:+.1%} … {found['high']:+.1%}"
    without = f", {found['left_out']} left out: trained on too" if found["left_out"] else ""
    OUT.print(
        f"forgetting: {found['before']:.3f} bits per byte of general text before, "
        f"{found['after']:.3f} after: {found['rise']:+.1%}{interval} "
        f"({found['passages']} passages{without})",
        soft_wrap=True,
    )


def _print_plan_vs_actual(rows: Sequence[Mapping[str, Any]]) -> None:
    if not rows:
        return
    table = Table(
        "", "planned", "90%", "actual", "inside", title="plan against actual", caption=WHOLE
    )
    for row in rows:
        key = row["what"]
        if key in EXACT:
            continue
        table.add_row(
            LABELS.get(key, key),
            _shown(key, row["predicted"]),
            f"{_shown(key, row['low'])} … {_shown(key, row['high'])}",
            _shown(key, row["actual"]),
            {True: "[green]yes[/green]", False: "[yellow]no[/yellow]", None: ""}[row["within"]],
        )
    OUT.print(table)


def _print_variants(variants: Sequence[Mapping[str, Any]]) -> None:
    if not variants:
        return
    table = Table("variant", "field", "weights", "quality", "loss of quality", "95%", "verdict")
    table.title = "compressed variants, on some of the held-out documents, through the engine"
    for row in variants:
        table.add_row(
            row["name"],
            row["field"],
            format_bytes(row["bytes"]),
            f"{row['value']:.4f}",
            f"{100 * row['increase']:+.2f}%",
            ""
            if row.get("low") is None
            else f"{100 * row['low']:+.2f}% … {100 * row['high']:+.2f}%",
            row.get("verdict", ""),
        )
    OUT.print(table)


def _print_contamination(fields: Sequence[Mapping[str, Any]]) -> None:
    for of in fields:
        if of["documents"]:
            OUT.print(
                f"{escape(of['field'])}: {of['touched']} of {of['documents']} scored documents "
                f"hold {of['ngram']} ids in a row that the training rows hold too; "
                f"{100 * of['mean_share']:.2g}% of their text, {of['mostly_seen']} mostly such",
                soft_wrap=True,
            )


def _print_serve(serve: Mapping[str, Any]) -> None:
    if not serve:
        return
    if rows := serve.get("throughput"):
        table = Table("field", "requests together", "tokens/s", "time to first token, median")
        by = f"{serve.get('variant', '')}, engine {serve.get('engine', '')}"
        by += f", {serve['places']} run together" if "places" in serve else ""
        table.title = f"served through HTTP ({by})"
        for row in rows:
            table.add_row(
                row.get("field", ""),
                str(row["concurrency"]),
                f"{row['tokens_per_s']:.0f}",
                f"{1000 * row['ttft_s']:.0f} ms",
            )
        OUT.print(table)
    print_samples(serve)
