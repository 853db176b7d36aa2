"""Two cluster plans side by side: what differs in the question, and what that changes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from whorl.stages.plan.output import show
from whorl.stages.plan.output.schema import ClusterPlan
from whorl.stages.plan.output.text import table

__all__ = ["compare_plans", "render_comparison"]


def compare_plans(first: ClusterPlan, second: ClusterPlan) -> dict[str, Any]:
    """{"differs": {key: [a, b]}, "figures": {name: {"a", "b", "ratio"}}}; ratio is b over a."""
    differs: dict[str, list[Any]] = {}
    for part, a, b in (
        ("question", first.question.model_dump(), second.question.model_dump()),
        ("model", first.model.model_dump(), second.model.model_dump()),
        ("device", _device(first), _device(second)),
        ("layout", asdict(first.chosen.layout), asdict(second.chosen.layout)),
    ):
        differs.update(_differences(part, a, b))
    figures = {}
    ours, theirs = _figures(first), _figures(second)
    for name in dict.fromkeys([*ours, *theirs]):
        one, other = ours.get(name), theirs.get(name)
        ratio = other / one if one and other is not None else None
        figures[name] = {"a": one, "b": other, "ratio": ratio}
    return {"differs": differs, "figures": figures}


def _differences(name: str, a: Any, b: Any) -> Iterator[tuple[str, list[Any]]]:
    """The leaves of two documents that differ, by their dotted names."""
    if isinstance(a, dict) and isinstance(b, dict):
        for key in dict.fromkeys([*a, *b]):
            yield from _differences(f"{name}.{key}", a.get(key), b.get(key))
    elif a != b:
        yield name, [a, b]


def _device(plan: ClusterPlan) -> dict[str, Any]:
    """What a comparison needs of the device; its name stands in the question."""
    shown = ("memory_bytes", "memory_bytes_per_s", "usd_per_hour")
    return {name: getattr(plan.device, name) for name in shown}


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
        found["days"] = job.days.value
        found |= {} if job.usd_per_device_hour is None else {"usd": job.usd.value}
        found |= {"energy_kwh": job.energy_kwh.value} if job.energy_kwh.value else {}
        found |= {"failures": job.failures.value, "goodput": job.goodput.value}
    if plan.loss is not None:
        found |= {"loss": plan.loss.loss.value, "tokens": plan.loss.tokens}
    found |= {f"step_s: {name}": value for name, value in step.parts_s.items() if value}
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
    differs = [(key, str(a), str(b)) for key, (a, b) in comparison["differs"].items()]
    figures = [
        (
            name,
            _shown(name, row["a"]),
            _shown(name, row["b"]),
            "" if row["ratio"] is None else f"{row['ratio']:.3f}×",
        )
        for name, row in comparison["figures"].items()
    ]
    return Group(
        Text(f"A: {names[0]}\nB: {names[1]}\n"),
        table(("", "A", "B"), differs, "what differs" if differs else "nothing differs"),
        "",
        table(("", "A", "B", "ratio"), figures, "what it changes"),
    )
