"""`whorl torture`: what a server survives, with counts."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from whorl.cli.console import ERR, OUT, print_json
from whorl.cli.options import Debug, Home, Json
from whorl.core.errors import GateError, SpecError
from whorl.core.home import home_folder

if TYPE_CHECKING:
    from whorl.torture.target import Outcome, Victim

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    app.command("torture", epilog="Example: `whorl torture serve mine --only C4 --only C7`")(
        torture_command
    )


def torture_command(
    what: Annotated[Literal["serve"], typer.Argument(help="serve: a server.")],
    model: Annotated[
        str,
        typer.Argument(
            help="A registered model or a model folder, which is served for it on a free port; or "
            "the address of a server of yours (http://…)."
        ),
    ],
    only: Annotated[
        list[str] | None,
        typer.Option(help="Number of an attack, such as C4. Repeatable. Default: all."),
    ] = None,
    report: Annotated[
        bool, typer.Option("--report", help="As many trials as figures need: an hour or two.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of everything random.", min=0, max=2**31 - 1)] = 0,
    served_name: Annotated[
        str | None, typer.Option(help="Of a server of yours: the id of its model.")
    ] = None,
    home: Home = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Attack a server: overload, slow and leaving clients, broken requests, strangers, paths.

    A server of yours is sent the key of WHORL_API_KEY. Exit code 10 if anything failed.
    """
    from whorl.torture.run import attack_all, chosen_attacks, table

    attacks = chosen_attacks(only or ())
    with _victim(model, served_name, home_folder(home)) as victim:
        outcomes = attack_all(victim, attacks, seed=seed, report=report, on_outcome=_tell)
    if json:
        print_json([asdict(outcome) for outcome in outcomes])
    else:
        OUT.print(table(outcomes), markup=False, soft_wrap=True)
    if failed := [outcome for outcome in outcomes if outcome.num_failed]:
        raise GateError(
            f"the server did not survive {', '.join(outcome.number for outcome in failed)}",
            found=failed[0].failures[0],
        )


def _tell(outcome: Outcome) -> None:
    right = outcome.trials - outcome.num_failed
    told = f"{outcome.number} {outcome.name}: {right:,} of {outcome.trials:,} right"
    ERR.print(f"{told}, {outcome.seconds:.0f} s", markup=False, soft_wrap=True)
    for failure in outcome.failures[:3]:
        ERR.print(f"  {failure}", markup=False, soft_wrap=True)


def _victim(model: str, served_name: str | None, home: Path) -> AbstractContextManager[Victim]:
    """The server at an address, or one that is started for it."""
    from whorl.servable import find_model
    from whorl.spec.resolved import ServeConfig
    from whorl.torture.run import served
    from whorl.torture.target import Victim

    if not model.startswith(("http://", "https://")):
        find_model(model, ServeConfig(), home)  # one that is not there is told at once
        return served(model, home)
    key = os.environ.get("WHORL_API_KEY")
    if key is None or served_name is None or model.startswith("https:"):
        raise SpecError(
            "a server of yours needs its key and the id of its model",
            expected="an address that begins with http://, past any proxy",
            do="set WHORL_API_KEY and give --served-name",
        )
    return nullcontext(Victim(model.rstrip("/"), key, served_name))
