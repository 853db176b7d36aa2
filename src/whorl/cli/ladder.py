"""`whorl ladder`: small models of a recipe's data that say what the planned one will reach."""

from __future__ import annotations

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


def register(app: typer.Typer) -> None:
    app.command("ladder", epilog="Example: `whorl ladder recipes/python-stdlib.yaml --rungs 5`")(
        ladder_command
    )


def ladder_command(
    recipe: RecipePath,
    budget: Annotated[
        str, typer.Option(help="Training time of all rungs together, such as 5min.")
    ] = "5min",
    rungs: Annotated[
        int, typer.Option(help="Models to train; the last is predicted first.", min=4, max=8)
    ] = DEFAULT_RUNGS,
    plot: Annotated[
        Path | None,
        typer.Option(help="Draw the ladder into this .png or .svg.", show_default=False),
    ] = None,
    set_values: SetValues = None,
    home: Home = None,
    workers: Workers = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Train small models of the recipe's data; predict what the planned one will reach."""
    if plot is not None and plot.suffix not in PICTURES:
        raise SpecError(f"--plot {plot} is not a picture", expected=" or ".join(PICTURES))
    budget_s = parse_duration_s(budget, "--budget")
    session = open_session(recipe, set_values, home, workers)
    record = ladder(session, budget_s, rungs)
    outcome = read_ladder(record)
    if plot is not None:
        draw_ladder(outcome, plot)
    if json:
        print_json({"record": str(record.path), **outcome})
    else:
        _print(outcome)
        OUT.print(f"record {record.path}", markup=False, soft_wrap=True)


def _print(outcome: dict[str, Any]) -> None:
    unit = outcome["unit"]
    table = Table("model", "parameters", "tokens", "predicted before", "90%", "measured", "error")
    table.title = f"ladder, held-out {unit}"
    for row in outcome["rungs"]:
        table.add_row(*_cells(row), f"{row['loss']:.4f}", _error(row))
    table.add_section()
    table.add_row(*_cells(outcome["target"]), "", "")
    OUT.print(table)
    if (planned := outcome["target"]["plan_predicted"]) is not None:
        OUT.print(
            f"without a ladder plan expects {planned['value']:.3f} "
            f"({planned['low']:.3f} to {planned['high']:.3f}) {unit}"
        )


def _cells(row: dict[str, Any]) -> list[str]:
    cells = [f"{row['layers']} x {row['width']}", f"{row['params']:,}", format_count(row["tokens"])]
    if (predicted := row["predicted"]) is None:
        return [*cells, "", ""]
    interval = f"{predicted['low']:.4f} to {predicted['high']:.4f}"
    return [*cells, f"{predicted['value']:.4f}", interval]


def _error(row: dict[str, Any]) -> str:
    if row["predicted"] is None:
        return ""
    return f"{row['predicted']['value'] / row['loss'] - 1:+.1%}"
