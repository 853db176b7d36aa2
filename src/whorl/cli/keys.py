"""`whorl keys`: API keys of servers, added, listed and revoked while they run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Table

from whorl.cli.console import ERR, OUT, print_json
from whorl.cli.options import Debug, Home, Json
from whorl.core.errors import SpecError
from whorl.core.home import home_folder

if TYPE_CHECKING:
    from whorl.stages.serve.keys import KeyEntry

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    app.command("keys", epilog="Example: `whorl keys add alice --tokens-per-min 20000`")(
        keys_command
    )


def keys_command(
    action: Annotated[
        Literal["add", "list", "revoke"], typer.Argument(help="add, list or revoke.")
    ] = "list",
    name: Annotated[
        str | None, typer.Argument(help="Who has the key; to revoke one, its id does too.")
    ] = None,
    route: Annotated[
        list[str] | None,
        typer.Option(help="Path it may ask, such as /v1/*. Repeatable. Default: all."),
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="Model it may use. Repeatable. Default: all.")
    ] = None,
    requests_per_min: Annotated[
        int | None, typer.Option(help="Requests in any 60 s.", min=1, max=10**9)
    ] = None,
    tokens_per_min: Annotated[
        int | None,
        typer.Option(help="Tokens of prompts and answers in any 60 s.", min=1, max=10**12),
    ] = None,
    max_usd: Annotated[
        float | None,
        typer.Option(help="What it may cost in all, at serve.usd_per_million_tokens."),
    ] = None,
    home: Home = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """API keys of the servers of a home; running servers take every change at once."""
    from whorl.stages.serve.keys import add_key, keys_file, list_keys, revoke_key

    path = keys_file(home_folder(home))
    given = {"requests_per_min": requests_per_min, "tokens_per_min": tokens_per_min}
    limits = {
        key: value for key, value in (given | {"max_usd": max_usd}).items() if value is not None
    }
    patterns = {"routes": route, "models": model}
    fields = limits | {key: tuple(value) for key, value in patterns.items() if value}
    if action != "add" and fields:
        raise SpecError(f"limits go with keys add, not keys {action}")
    if action == "list":
        _show([key for key in list_keys(path) if name in (None, key.name, key.key_id)], json)
        return
    if name is None:
        raise SpecError(f"keys {action} needs a name", do=f"whorl keys {action} NAME")
    if action == "revoke":
        _show_revoked(revoke_key(path, name), json)
    else:
        _show_added(*add_key(path, name, **fields), json)


def _show_revoked(entry: KeyEntry, json: bool) -> None:
    if json:
        print_json(_plain(entry))
    else:
        ERR.print(f"revoked {entry.key_id} ({entry.name})", markup=False)


def _show_added(entry: KeyEntry, text: str, json: bool) -> None:
    if json:
        print_json(_plain(entry) | {"key": text})
        return
    ERR.print("the key is shown this once; only its digest is kept", markup=False)
    OUT.print(text, markup=False, soft_wrap=True)


def _plain(entry: KeyEntry) -> dict[str, Any]:
    return entry.model_dump(mode="json", exclude={"salt", "digest"})


def _show(keys: Sequence[KeyEntry], json: bool) -> None:
    rows = [_plain(key) for key in keys]
    if json:
        print_json(rows)
        return
    if not rows:
        ERR.print("no keys; `whorl keys add NAME` makes one")
        return
    table = Table("id", "name", "made", "revoked", "routes", "models", "a minute", "USD")
    for row in rows:
        a_minute = [
            f"{row[field]} {field.partition('_')[0]}"
            for field in ("requests_per_min", "tokens_per_min")
            if row[field]
        ]
        table.add_row(
            *(str(row[field] or "") for field in ("key_id", "name")),
            *(str(row[field] or "")[:10] for field in ("created", "revoked")),  # the day
            *(" ".join(row[field]) for field in ("routes", "models")),
            "\n".join(a_minute),
            str(row["max_usd"] or ""),
        )
    OUT.print(table)
