"""Two cluster plans side by side: what differs in the question, and what that changes."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from whorl.stages.plan.output import show
from whorl.stages.plan.output.schema import ClusterPlan

__all__ = ["compare_plans", "render_comparison"]


def compare_plans(first: ClusterPlan, second: ClusterPlan) -> dict[str, Any]:
    """{"differs": {key: [a, b]}, "figures": {name: {"a", "b", "ratio"}}}; ratio is b over a."""
    differs = {}
    for part, a, b in (
        ("question", first.question.model_dump(), second.question.model_dump()),
        ("model", first.model.model_dump(), second.model.model_dump()),
        ("device", asdict(first.device), asdict(second.device)),
        ("layout", asdict(first.chosen.layout), asdict(second.chosen.layout)),
    ):
        differs.update({f"{part}.{key}": [a[key], b[key]] for key in a if a[key] != b[key]})
    figures = {}
    ours, theirs = _figures(first), _figures(second)
    for name in dict.fromkeys([*ours, *theirs]):
        one, other = ours.get(name), theirs.get(name)
        ratio = other / one if one and other is not None else None
        figures[name] = {"a": one, "b": other, "ratio": ratio}
    return {"differs": differs, "figures": figures}


def _figures(plan: ClusterPlan) -> dict[str, float]:
    step, memory = plan.chosen.step, plan.chosen.memory
    found = {
        "step_s": step.step_s,
        "tokens_per_s_per_device": step.tokens_per_s_per_device,
        "mfu": step.mfu,
        "roofline_s": step.roofline_s,
        "peak_bytes": memory.peak_bytes,
    }
    if plan.job is not None:
        job = plan.job
        found |= {"days": job.days.value, "usd": job.usd.value, "energy_kwh": job.energy_kwh.value}
        found |= {"failures": job.failures.value, "goodput": job.goodput.value}
    if plan.loss is not None:
        found["loss"] = plan.loss.loss.value
    found |= {f"step_s: {name}": value for name, value in step.parts_s.items()}
    return found


def _shown(name: str, value: float | None) -> str:
    if value is None:
        return "—"
    if name.startswith("step_s") or name == "roofline_s":
        return show.seconds(value)
    if name == "peak_bytes":
        return show.gib(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def render_comparison(names: tuple[str, str], comparison: dict[str, Any]) -> RenderableType:
    """The tables of `compare_plans` for a terminal."""
    differs = Table(title="what differs", title_justify="left", show_edge=False, pad_edge=False)
    figures = Table(title="what it changes", title_justify="left", show_edge=False, pad_edge=False)
    for table in (differs, figures):
        for column in ("", *names):
            table.add_column(Text(column), overflow="fold")
    figures.add_column("ratio", justify="right")
    for key, (a, b) in comparison["differs"].items():
        differs.add_row(Text(key), Text(str(a)), Text(str(b)))
    for name, row in comparison["figures"].items():
        ratio = "" if row["ratio"] is None else f"{row['ratio']:.3f}×"
        figures.add_row(Text(name), _shown(name, row["a"]), _shown(name, row["b"]), ratio)
    same = [] if comparison["differs"] else [Text("the same question, the same layout")]
    return Group(differs, *same, Text(""), figures)
