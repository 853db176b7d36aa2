"""`whorl models`: the versions of every model, with their lineage and scores."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from whorl.cli.console import ERR, OUT, print_json
from whorl.cli.options import Debug, Home, Json
from whorl.core.errors import SpecError
from whorl.core.home import home_folder

if TYPE_CHECKING:
    from whorl.stages.improve.registry import Version

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

    every = list_versions(home_folder(home))
    versions = [version for version in every if name in (None, version.name)]
    if every and not versions:
        names = sorted({version.name for version in every})
        near = get_close_matches(str(name), names, n=1)
        raise SpecError(
            f"there is no model {str(name)[:80]}",
            found=", ".join(names),
            do=f"did you mean {near[0]}?" if near else "name one of these",
        )
    if json:
        print_json([version.model_dump(mode="json") for version in versions])
        return
    if not versions:
        ERR.print("no models yet; `whorl up RECIPE` or `whorl import PATH` registers one")
        return
    table = Table("model", "version", "registered", "scores", "made by")
    for version in versions:
        made = [stage for stage in ("train", "import") if stage in version.lineage]
        record = " ".join(f"{stage} {version.lineage[stage][:12]}" for stage in made)
        created = version.created[:16].replace("T", " ")
        table.add_row(version.name, str(version.version), created, _scores(version), record)
    OUT.print(table)


def _scores(version: Version) -> str:
    """Every score below what it measures: the same names come again for each metric."""
    lines: list[str] = []
    for score in version.scores:
        of = f"{score.field}: " if score.field else ""
        title = f"{of}{score.metric.replace('_', ' ')}"
        if title not in lines:
            lines.append(title)
        lines.append(f"  {score.name} {score.value:.4g}")
    return escape("\n".join(lines))
