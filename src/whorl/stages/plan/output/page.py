"""A cluster plan as one HTML file: no network, no scripts, plots as inline SVG, light and dark."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from importlib.resources import files
from string import Template

from whorl.core.units import format_count
from whorl.stages.plan.laws.law import FLOPS_PER_PARAM_TOKEN
from whorl.stages.plan.output import charts, show
from whorl.stages.plan.output.schema import ClusterPlan, LossFigures

__all__ = ["render_page"]

GIB = 2**30


def render_page(plan: ClusterPlan) -> str:
    """The page's text; everything that came from outside is escaped."""
    template = (files("whorl.stages.plan.output") / "page.html").read_text("utf-8")
    key = "".join(
        f"<div><b>{escape(value)}</b>{escape(name)}<br><span>{escape(remark)}</span></div>"
        for name, value, remark in show.headline(plan)
    )
    return Template(template).substitute(
        title=escape(f"{plan.model.shape.name} on {plan.question.count:,} × {plan.device.name}"),
        subtitle=f"{escape(show.question_line(plan.question, plan.device))}<br>"
        f"{escape(show.model_line(plan))}<br>"
        f'<b class="label">{escape(plan.chosen.label)}</b> {escape(plan.chosen.why)}'
        + "".join(f"<br>safe: {escape(line)}" for line in show.safe_lines(plan)),
        warnings="".join(f'<p class="warning">{escape(line)}</p>' for line in plan.warnings),
        key=key,
        cards="".join(_cards(plan)),
    )


def _card(title: str, inside: str, note: str = "", is_wide: bool = False) -> str:
    small = f'<p class="soft">{escape(note)}</p>' if note else ""
    kind = ' class="wide"' if is_wide else ""
    return f"<section{kind}><h2>{escape(title)}</h2>{inside}{small}</section>"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]], text: Sequence[int] = ()) -> str:
    def cells(row: Sequence[str], tag: str) -> str:
        kinds = (' class="text"' if index in text else "" for index in range(len(row)))
        inner = (f"<{tag}{k}>{escape(c)}</{tag}>" for k, c in zip(kinds, row, strict=True))
        return f"<tr>{''.join(inner)}</tr>"

    head = cells(columns, "th") if any(columns) else ""
    return f"<table>{head}{''.join(cells(row, 'td') for row in rows)}</table>"


def _cards(plan: ClusterPlan) -> list[str]:
    chosen, step, memory = plan.chosen, plan.chosen.step, plan.chosen.memory
    limit = ("the device has", plan.device.memory_bytes)
    cards = [
        _card(
            "Where a step's time goes",
            charts.stacked_bar(show.named_parts(step.parts_s), show.seconds, "time by part"),
        ),
        _card(
            "What the fullest device holds at the peak",
            charts.stacked_bar(memory.parts, show.gib, "memory by part", limit),
        ),
    ]
    if plan.front:
        cards.append(_front(plan))
    if plan.loss is not None:
        cards.append(_loss(plan, plan.loss))
    cards.append(_nodes(plan))
    rows = [(name.replace("_", " "), show.gib(b)) for name, b in memory.phases.items()]
    cards.append(_card("Peak memory by phase", _table(("", ""), rows)))
    if plan.serving is not None:
        cards.append(
            _card("Serving", _table(("", "", ""), show.serving_rows(plan.serving), text=(2,)))
        )
    others = [show.layout_row(item) for item in (chosen, *plan.runners_up)]
    note = f"{plan.considered:,} layouts looked at, {plan.fitting:,} fit the memory."
    table = _table(show.LAYOUT_COLUMNS, others, text=(0, 4))
    cards.append(_card("The choice and the runners-up", table, note, is_wide=True))
    if plan.commands:
        commands = "".join(
            f"<details><summary>{escape(name)}</summary><pre>{escape(text)}</pre></details>"
            for name, text in plan.commands.items()
        )
        cards.append(_card("To run it", commands, is_wide=True))
    if lines := show.notes(plan):
        text = "".join(f"<p>{escape(line)}</p>" for line in lines)
        cards.append(_card("What these figures rest on", text, is_wide=True))
    return cards


def _front(plan: ClusterPlan) -> str:
    chosen = plan.chosen
    plot = charts.plot(
        [(point.step_s, point.peak_bytes / GIB, point.label) for point in plan.front],
        (chosen.step.step_s, chosen.memory.peak_bytes / GIB, "chosen"),
        ("time of a step", "peak memory of a device, GiB"),
        (show.seconds, lambda value: f"{value:.3g}"),
    )
    return _card("Time against memory", plot, "Layouts that no other beats in both.")


def _loss(plan: ClusterPlan, loss: LossFigures) -> str:
    flops = FLOPS_PER_PARAM_TOKEN * plan.model.active_parameters * loss.tokens
    plot = charts.plot(
        [(p.flops, p.loss.value, f"{format_count(p.parameters)} parameters") for p in loss.budgets],
        (flops, loss.loss.value, f"{format_count(loss.tokens)} tokens"),
        ("training FLOPs", "loss, nats per token"),
        (lambda value: f"{value:.0e}".replace("e+", "e"), lambda value: f"{value:.3g}"),
        band=[(point.flops, point.loss.low, point.loss.high) for point in loss.budgets],
    )
    return _card(
        "Loss against budget",
        plot,
        f"Line: the best size for each budget, 6 FLOPs a parameter and token. {loss.law}",
    )


def _nodes(plan: ClusterPlan) -> str:
    layout, dp = plan.chosen.layout, plan.chosen.dp
    pp = layout.pp
    plot = charts.nodes(layout.tp, layout.cp, pp, dp, plan.device.node_devices)
    shown = "" if pp <= charts.MAX_NODE_ROWS else f"The first {charts.MAX_NODE_ROWS} stages. "
    note = (
        f"{shown}The first node of every pipeline stage; colours tell the {dp:,} replicas apart. "
        "Ranks in the order tensor, context, data, pipeline."
    )
    return _card("The layout on the nodes", plot, note)
