"""`whorl torture`: what a server survives, with counts."""

from __future__ import annotations

import os
from contextlib import nullcontext
from dataclasses import asdict
from typing import Annotated, Literal

import typer

from whorl.cli.console import ERR, OUT, print_json
from whorl.cli.options import Debug, Home, Json
from whorl.core.errors import GateError, SpecError
from whorl.core.home import home_folder

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
    from whorl.torture.run import attack_all, chosen_attacks, served, table
    from whorl.torture.target import Outcome, Victim

    attacks = chosen_attacks(only or ())

    def tell(outcome: Outcome) -> None:
        right = outcome.trials - len(outcome.failures)
        told = f"{outcome.number} {outcome.name}: {right:,} of {outcome.trials:,} right"
        ERR.print(f"{told}, {outcome.seconds:.0f} s", markup=False, soft_wrap=True)
        for failure in outcome.failures[:3]:
            ERR.print(f"  {failure}", markup=False, soft_wrap=True)

    if model.startswith(("http://", "https://")):
        key = os.environ.get("WHORL_API_KEY")
        if key is None or served_name is None or model.startswith("https:"):
            raise SpecError(
                "a server of yours needs its key and the id of its model",
                expected="an address that begins with http://, past any proxy",
                do="set WHORL_API_KEY and give --served-name",
            )
        context = nullcontext(Victim(model.rstrip("/"), key, served_name))
    else:
        from whorl.serving import find_model

        find_model(model, None, "auto", home_folder(home))  # one that is not there is told at once
        context = served(model, home_folder(home))  # type: ignore[assignment]
    with context as target:
        outcomes = attack_all(target, attacks, seed=seed, report=report, on_outcome=tell)
    if json:
        print_json([asdict(outcome) for outcome in outcomes])
    else:
        OUT.print(table(outcomes), markup=False, soft_wrap=True)
    if failed := [outcome for outcome in outcomes if outcome.failures]:
        raise GateError(
            f"the server did not survive {', '.join(outcome.number for outcome in failed)}",
            found=failed[0].failures[0],
        )
