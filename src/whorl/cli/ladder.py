"""`whorl ladder`: small models of a recipe's data that say what the planned one will reach."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from whorl.cli.console import OUT, print_json
from whorl.cli.options import Debug, Home, Json, RecipePath, SetValues, Workers, open_session
from whorl.core.errors import SpecError
from whorl.core.units import format_count, parse_duration_s
from whorl.ladders import DEFAULT_RUNGS, draw_ladder, ladder, read_ladder

__all__ = ["register"]

PICTURES = (".png", ".svg")
EXAMPLE = "Example: `whorl ladder recipes/python-stdlib.yaml --budget 5min --rungs 5`"
Budget = Annotated[str, typer.Option(help="Training time of all rungs together, such as 5min.")]
Rungs = Annotated[
    int, typer.Option(help="Models to train; the last is predicted first.", min=4, max=8)
]
Plot = Annotated[
    Path | None, typer.Option(help="Draw the ladder into this .png or .svg.", show_default=False)
]


def register(app: typer.Typer) -> None:
    app.command("ladder", epilog=EXAMPLE)(ladder_command)


def ladder_command(
    recipe: RecipePath,
    budget: Budget = "5min",
    rungs: Rungs = DEFAULT_RUNGS,
    plot: Plot = None,
    set_values: SetValues = None,
    home: Home = None,
    workers: Workers = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Train small models of the recipe's data; predict what the planned one will reach."""
    if plot is not None and plot.suffix.lower() not in PICTURES:
        raise SpecError(f"--plot {plot} is not a picture", expected=" or ".join(PICTURES))
    budget_s = parse_duration_s(budget, "--budget")
    record = ladder(open_session(recipe, set_values, home, workers), budget_s, rungs)
    outcome = read_ladder(record)
    if plot is not None:
        draw_ladder(outcome, plot)
    if json:
        print_json({"record": str(record.path), **outcome})
        return
    table = Table("model", "parameters", "tokens", "predicted before", "90%", "measured", "error")
    table.title = f"ladder, held-out {outcome['unit']}"
    for row in (*outcome["rungs"], outcome["target"]):
        table.add_row(*_cells(row))
    OUT.print(table)
    if (of_plan := outcome["target"]["plan_predicted"]) and of_plan["value"] is not None:
        interval = f"{of_plan['low']:.3f} to {of_plan['high']:.3f}"
        OUT.print(f"without a ladder plan expects {of_plan['value']:.3f} ({interval})")
    OUT.print(f"record {record.path}", markup=False, soft_wrap=True)


def _cells(row: Mapping[str, Any]) -> list[str]:
    predicted, loss = row["predicted"], row.get("loss")
    return [
        f"{row['layers']} x {row['width']}",
        f"{row['params']:,}",
        format_count(row["tokens"]),
        f"{predicted['value']:.4f}" if predicted else "",
        f"{predicted['low']:.4f} to {predicted['high']:.4f}" if predicted else "",
        f"{loss:.4f}" if loss else "",
        f"{predicted['value'] / loss - 1:+.1%}" if predicted and loss else "",
    ]
