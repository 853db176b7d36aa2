"""A cluster plan as tables and bars for a terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from rich.console import Group, JustifyMethod, RenderableType
from rich.table import Table
from rich.text import Text

from whorl.stages.plan.output import show
from whorl.stages.plan.output.schema import ClusterPlan, MemoryReport, ServingAnswer, WayOut

__all__ = ["render", "render_cluster_plan", "table"]

BAR_CELLS, LONG_CELL = 24, 24
PRICE = ("needs", "saves", "time")  # of a change


def render(found: ClusterPlan | ServingAnswer | MemoryReport) -> RenderableType:
    """Any answer of `whorl plan`, by its kind."""
    if isinstance(found, ClusterPlan):
        return render_cluster_plan(found)
    return _memory(found) if isinstance(found, MemoryReport) else _serving_answer(found)


def _memory(found: MemoryReport) -> RenderableType:
    """Parts and phases of the peak, the changes with their GiB and price, the ways to fit."""
    limit, driver, gib = found.limit_bytes, found.driver, show.gib
    verdict = "fits" if found.fits else "does not fit"
    needed = f"needs {gib(found.needed_bytes)} of {gib(limit)}: {verdict}"
    blocks: list[RenderableType] = [
        Text(show.question_line(found.question, found.device)),
        *(Text(f"· {line}", style="dim") for line in found.question.became),
        *(Text(f"warning: {line}", style="yellow") for line in found.warnings),
        Text.assemble(("\nlayout  ", "bold"), (found.label, "bold green")),
        Text(found.why, style="dim"),
        Text(needed, style="bold green" if found.fits else "bold red"),
        Text(_shown_by_tools(found)),
        Text(""),
        _bars("what the peak is made of", driver.parts, gib),
        Text(""),
        _bars("peak of each phase", driver.phases, gib, limit),
    ]
    if found.enough:
        rows = [_way_out(item) for item in found.enough]
        blocks += [Text(""), table(("what fits on the same devices", *PRICE), rows)]
    if found.changes:
        rows = [(*_way_out(item), "fits" if item.fits else "") for item in found.changes]
        blocks += [Text(""), table(("each change alone", *PRICE, ""), rows)]
    if found.elsewhere:
        blocks.append(Text(f"\nelse: {', or '.join(found.elsewhere)}", style="dim"))
    return Group(*blocks)


def _shown_by_tools(found: MemoryReport) -> str:
    driver, gib = found.driver, show.gib
    interval = f"{gib(driver.peak_bytes)} ({gib(driver.low_bytes)} – {gib(driver.high_bytes)})"
    if found.device.kind == "cpu":
        return f"resident memory of the process: {interval}"
    of_torch = f"of it torch reserves {gib(found.reserved_bytes)} and allocates"
    return f"nvidia-smi would show {interval}; {of_torch} {gib(found.allocated_bytes)}"


def _way_out(item: WayOut) -> tuple[str, ...]:
    needs, saves = show.gib(item.needed_bytes), show.gib(item.saved_bytes)
    return item.words, needs, saves, f"{item.slower:+.0%}"


def _serving_answer(found: ServingAnswer) -> RenderableType:
    return Group(
        *(Text(f"warning: {line}", style="yellow") for line in found.warnings),
        Text(f"{found.serving.model} on {found.serving.device}", style="bold"),
        table(("serving", "", "90%, or remark"), show.serving_rows(found.serving), right=1),
        *(Text(f"· {note}", style="dim") for note in found.serving.notes),
    )


def render_cluster_plan(plan: ClusterPlan) -> RenderableType:
    """The model, the choice, where time and memory go, the whole job, who lost, what runs it."""
    chosen = plan.chosen
    blocks: list[RenderableType] = [
        Text(show.model_line(plan)),
        Text(show.question_line(plan.question, plan.device)),
        *(Text(f"· {line}", style="dim") for line in plan.question.became),
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
        served = table(("serving", "", "90%, or remark"), show.serving_rows(plan.serving), right=1)
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


def _bars(
    title: str, parts: Mapping[str, float], form: Callable[[float], str], of: float = 0.0
) -> Table:
    """Parts with their shares of all, or of a limit."""
    total = of or sum(parts.values()) or 1.0
    largest = sorted(parts.items(), key=lambda item: -item[1])
    rows = [
        (
            name,
            form(value),
            f"{value / total:.0%}",
            "█" * round(BAR_CELLS * min(1, value / total)) or "▏",
        )
        for name, value in largest
        if value > 0
    ]
    return table(("", "", "", ""), rows, title)
