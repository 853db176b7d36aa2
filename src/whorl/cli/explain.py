"""`whorl explain`: where a resolved value comes from."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer
import yaml
from rich.table import Table

from whorl.cli.console import OUT, print_json
from whorl.cli.options import Debug, Home, Json, RecipePath, SetValues, open_session
from whorl.spec.explain import Explanation, explain, keys_of

__all__ = ["register"]

SAID = ("name", "budget", "seed", "hardware")  # keys that plan takes as they are


def register(app: typer.Typer) -> None:
    app.command(
        "explain", epilog="Example: `whorl explain recipes/python-stdlib.yaml model.width`"
    )(explain_command)


def explain_command(
    recipe: RecipePath,
    key: Annotated[
        str | None, typer.Argument(help="A dotted key; without one, all are listed.")
    ] = None,
    set_values: SetValues = None,
    home: Home = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Say what a key resolves to, where the value comes from and why."""
    session = open_session(recipe, set_values, home, plans_alone=True)
    if key is not None:
        explain(session.loaded, key, {}, {})  # refuse an unknown key before planning
    plan = None if key is not None and _is_said(key) else session.considered()
    resolved, reasons = ({}, {}) if plan is None else (plan.resolved, plan.reasons)
    found = [
        explain(session.loaded, name, resolved, reasons)
        for name in ([key] if key else keys_of(session.loaded.recipe))
    ]
    if json:
        print_json([asdict(item) for item in found])
    elif key:
        _print_one(found[0])
    else:
        table = Table("key", "runs with", "from", "why", title=f"{session.name}, resolved")
        for item in found:
            shown = item.given if item.resolved is None else item.resolved
            table.add_row(item.key, _yaml(shown), item.origin, item.reason or item.description)
        OUT.print(table)


def _is_said(key: str) -> bool:
    """Whether no plan says anything of it: then none is made, which may measure the machine."""
    return key.partition(".")[0] in SAID


def _print_one(item: Explanation) -> None:
    OUT.print(f"[bold]{item.key}[/bold]: {item.description}")
    OUT.print(f"  may be    {item.may_be}", markup=False)
    OUT.print(f"  recipe    {_yaml(item.given)}  ({item.origin})", markup=False, soft_wrap=True)
    if item.resolved is not None:
        OUT.print(f"  runs with {_yaml(item.resolved)}", markup=False, soft_wrap=True)
    if item.reason:
        OUT.print(f"  because   {item.reason}", markup=False)


def _yaml(value: Any) -> str:
    """As a recipe would say it, in one line."""
    text = yaml.safe_dump(
        value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=10**9
    )
    return text.strip().removesuffix("...").strip()
