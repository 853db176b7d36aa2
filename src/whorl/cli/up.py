"""`whorl up`: all seven stages and the report."""

from __future__ import annotations

from typing import Annotated

import typer

from whorl.cli.console import print_json
from whorl.cli.options import Debug, Home, Json, RecipePath, SetValues, Workers, open_session
from whorl.cli.report import print_report
from whorl.cli.serve import serve_session

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    app.command("up", epilog="Example: `whorl up recipes/python-stdlib.yaml --serve`")(up_command)


def up_command(
    recipe: RecipePath,
    serve: Annotated[
        bool, typer.Option("--serve", help="Stay up and serve the model after the report.")
    ] = False,
    set_values: SetValues = None,
    home: Home = None,
    workers: Workers = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Plan, prepare, train, compress, evaluate, serve, register; print the report.

    What was done before is reused; a killed run goes on where it was.
    """
    session = open_session(recipe, set_values, home, workers)
    report = session.up()
    if json:
        print_json(report)
    else:
        print_report(report)
    if serve:
        serve_session(session)
