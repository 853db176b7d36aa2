"""`whorl models`: the versions of every model, with their lineage and scores."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from whorl.cli.console import ERR, OUT, print_json
from whorl.cli.options import Debug, Home, Json
from whorl.core.home import home_folder

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    app.command("models", epilog="Example: `whorl models python-stdlib`")(models_command)


def models_command(
    name: Annotated[str | None, typer.Argument(help="Only this model.")] = None,
    home: Home = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """List registered models: version, when, quality, the records they come from."""
    from whorl.stages.improve.registry import list_versions

    versions = list_versions(home_folder(home), name)
    if json:
        print_json([version.model_dump(mode="json") for version in versions])
        return
    if not versions:
        ERR.print("no models yet; `whorl up RECIPE` registers one")
        return
    table = Table("model", "version", "registered", "scores", "train record")
    for version in versions:
        scores = "\n".join(f"{score.name}: {score.value:.4g}" for score in version.scores)
        lineage = version.lineage.get("train", "")[:12]
        table.add_row(version.name, str(version.version), version.created, scores, lineage)
    OUT.print(table)
