"""A cluster plan as tables and bars for a terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from rich.console import Group, JustifyMethod, RenderableType
from rich.table import Table
from rich.text import Text

from whorl.stages.plan.output import show
from whorl.stages.plan.output.schema import ClusterPlan

__all__ = ["render_cluster_plan"]

BAR_CELLS = 24


def render_cluster_plan(plan: ClusterPlan) -> RenderableType:
    """The model, the choice, where time and memory go, the whole job, who lost, what runs it."""
    chosen = plan.chosen
    blocks: list[RenderableType] = [
        Text(show.model_line(plan)),
        Text(show.question_line(plan)),
        *(Text(f"warning: {line}", style="yellow") for line in plan.warnings),
        Text(""),
        Text.assemble(("layout  ", "bold"), (chosen.label, "bold green")),
        Text(chosen.why, style="dim"),
        Text(""),
        _table(("", "predicted", "90%, or remark"), show.headline(plan), right=1),
        Text(""),
        _bars("where a step's time goes", show.named_parts(chosen.step.parts_s), show.seconds),
        Text(""),
        _bars("what the peak memory is made of", chosen.memory.parts, show.gib),
    ]
    if plan.runners_up:
        rows = [show.layout_row(item) for item in plan.runners_up]
        blocks += [Text(""), _table(show.LAYOUT_COLUMNS, rows, title="others, and why they lost")]
    if plan.considered:
        looked = f"{plan.considered:,} layouts looked at, {plan.fitting:,} fit the memory"
        blocks.append(Text(looked, style="dim"))
    if plan.serving is not None:
        served = _table(("serving", "", "90%, or remark"), show.serving_rows(plan), right=1)
        blocks += [Text(""), served]
    blocks += [Text(""), *(Text(f"· {note}", style="dim") for note in show.notes(plan))]
    if plan.commands:
        names = ", ".join(plan.commands)
        blocks.append(Text(f"\nto run it: --emit FOLDER writes {names}", style="bold"))
    return Group(*blocks)


def _table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], title: str = "", right: int | None = None
) -> Table:
    table = Table(title=title or None, title_justify="left", show_edge=False, pad_edge=False)
    for index, column in enumerate(columns):
        is_words = index in (0, len(columns) - 1)
        justify: JustifyMethod = "right" if index == right else "left"
        table.add_column(column, justify=justify, overflow="fold", no_wrap=not is_words)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


def _bars(title: str, parts: Mapping[str, float], form: Callable[[float], str]) -> Table:
    total = sum(parts.values()) or 1.0
    table = Table(
        title=title, title_justify="left", show_edge=False, pad_edge=False, show_header=False
    )
    for name, value in sorted(parts.items(), key=lambda item: -item[1]):
        if value > 0:
            share = value / total
            bar = "█" * round(BAR_CELLS * share) or "▏"
            table.add_row(Text(name), Text(form(value)), Text(f"{share:.0%}"), Text(bar))
    return table
