"""plan.json as a table for a terminal."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from whorl.core.units import format_bytes, format_count, format_duration
from whorl.stages.plan.facts import fact
from whorl.stages.plan.output.text import table
from whorl.stages.plan.plan import Plan, Prediction

__all__ = ["format_value", "render"]

TITLES: dict[str, str] = fact("titles")


def format_value(value: float | None, unit: str) -> str:
    """A figure with its unit, as people write it."""
    if value is None:
        return "—"
    if unit == "bytes":
        return format_bytes(value)
    if unit == "s":
        return f"{value * 1000:.0f} ms" if value < 1 else format_duration(value)
    if unit in ("parameters", "tokens", "FLOP"):
        return format_count(value)
    return f"{value:.3f}" if value < 100 else f"{value:,.0f}"


def _interval(prediction: Prediction) -> str:
    low, high = prediction.low, prediction.high
    if low is None or high is None:
        return prediction.note
    if low == high:
        return "exact"
    return f"{format_value(low, prediction.unit)} – {format_value(high, prediction.unit)}"


def _place(figure: tuple[str, Prediction]) -> int:
    """As titles has them: what is asked first stands first."""
    names = [*TITLES]
    return names.index(figure[0]) if figure[0] in TITLES else len(names)


def _model_line(plan: Plan) -> str:
    a, t = plan.decisions.shape, plan.decisions.train
    heads = f"{a.attention.heads} heads of {a.attention.head_dim}"
    return (
        f"{a.family}: {a.layers} layers of width {a.width}, {heads}, "
        f"ffn {a.ffn_width}, vocabulary {a.vocab_size:,}; "
        f"{t.steps:,} steps of {t.batch_tokens:,} tokens in rows of {t.seq_len}, "
        f"{t.optimizer} in {t.precision}"
    )


def render(plan: Plan) -> RenderableType:
    """The decision, the predictions with their 90% intervals, the reasons and the warnings."""
    figures = [
        (TITLES.get(name, name), format_value(item.value, item.unit), _interval(item))
        for name, item in sorted(plan.predictions.items(), key=_place)
    ]
    resolved = plan.resolved
    reasons = [(key, str(resolved.get(key, "")), why) for key, why in plan.reasons.items()]
    predicted = table(("", "value", "90% interval"), figures, "predicted", right=1)
    chosen = table(("key", "value", "why"), reasons, "chosen")
    warnings = [Text(f"warning: {warning}", style="yellow") for warning in plan.warnings]
    return Group(Text(_model_line(plan)), Text(""), predicted, Text(""), chosen, *warnings)
