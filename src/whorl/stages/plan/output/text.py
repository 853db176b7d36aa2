"""A cluster plan as tables and bars for a terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from rich.console import Group, JustifyMethod, RenderableType
from rich.table import Table
from rich.text import Text

from whorl.stages.plan.output import show
from whorl.stages.plan.output.schema import ClusterPlan

__all__ = ["render_cluster_plan", "table"]

BAR_CELLS, LONG_CELL = 24, 24


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
        *(Text(f"safe: {line}", style="green") for line in show.safe_lines(plan)),
        Text(""),
        table(("", "predicted", "90%, or remark"), show.headline(plan), right=1),
        Text(""),
        _bars("where a step's time goes", show.named_parts(chosen.step.parts_s), show.seconds),
        Text(""),
        _bars("what the peak memory is made of", chosen.memory.parts, show.gib),
    ]
    if plan.runners_up:
        rows = [show.layout_row(item) for item in plan.runners_up]
        blocks += [Text(""), table(show.LAYOUT_COLUMNS, rows, title="others, and why they lost")]
    if plan.considered:
        looked = f"{plan.considered:,} layouts looked at, {plan.fitting:,} fit the memory"
        blocks.append(Text(looked, style="dim"))
    if plan.serving is not None:
        served = table(("serving", "", "90%, or remark"), show.serving_rows(plan), right=1)
        blocks += [Text(""), served]
    blocks += [Text(""), *(Text(f"· {note}", style="dim") for note in show.notes(plan))]
    if plan.commands:
        names = ", ".join(plan.commands)
        blocks.append(Text(f"\nto run it: --emit FOLDER writes {names}", style="bold"))
    return Group(*blocks)


def table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], title: str = "", right: int | None = None
) -> Table:
    """Cells as they are, without markup; short ones, but those at the ends, are kept whole."""
    made = Table(title=title or None, title_justify="left", show_edge=False, pad_edge=False)
    made.show_header = any(columns)
    for index, column in enumerate(columns):
        is_words = index in (0, len(columns) - 1)
        is_long = max((len(row[index]) for row in rows), default=0) > LONG_CELL
        justify: JustifyMethod = "right" if index == right else "left"
        whole = not is_words and not is_long
        made.add_column(Text(column), justify=justify, overflow="fold", no_wrap=whole)
    for row in rows:
        made.add_row(*(Text(cell) for cell in row))
    return made


def _bars(title: str, parts: Mapping[str, float], form: Callable[[float], str]) -> Table:
    total = sum(parts.values()) or 1.0
    largest = sorted(parts.items(), key=lambda item: -item[1])
    rows = [
        (name, form(value), f"{value / total:.0%}", "█" * round(BAR_CELLS * value / total) or "▏")
        for name, value in largest
        if value > 0
    ]
    return table(("", "", "", ""), rows, title)
