"""`whorl harness`: tasks of lm-evaluation-harness on a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from whorl.cli.console import OUT, make_progress, print_json
from whorl.cli.options import Debug, Home, Json
from whorl.core.home import home_folder
from whorl.servable import find_model
from whorl.spec.resolved import ServeConfig

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    app.command("harness", epilog="Example: `whorl harness smollm2 tasks/`")(harness_command)


def harness_command(
    model: Annotated[
        str, typer.Argument(help="A registered model (name or name@version) or a model folder.")
    ],
    tasks: Annotated[list[Path], typer.Argument(help="Task files (YAML), or folders of them.")],
    variant: Annotated[
        str | None, typer.Option(help="Such as int8; default: the smallest that is there.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(help="Documents of each task. Default: all.", min=1)
    ] = None,
    run_code: Annotated[
        bool, typer.Option("--run-code", help="Allow tasks that name Python code (!function).")
    ] = False,
    home: Home = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Score a model on local task files of lm-evaluation-harness, through its serving engine.

    Nothing is fetched: a task names its data as local files (`dataset_path: json`).
    """
    from whorl.wiring.harness import run_harness

    folder = home_folder(home)
    meant = find_model(model, ServeConfig(variant=variant), folder)
    found = run_harness(
        meant.folder,
        tasks,
        home=folder,
        variant=meant.variant,
        limit=limit,
        may_run_code=run_code,
        progress=make_progress(),
    )
    if json:
        print_json({"model": model, **found})
        return
    table = Table("task", "metric", "value", "standard error", "documents")
    table.title = f"{escape(model)}, {found['variant']}"
    for row in found["tasks"]:
        stderr = "" if row["stderr"] is None else f"± {row['stderr']:.4f}"
        value = f"{row['value']:.4f}"
        documents = str(row["num_documents"])
        table.add_row(escape(row["task"]), escape(row["metric"]), value, stderr, documents)
    OUT.print(table)
