"""Options that several commands share, each with its help."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from whorl.cli.console import make_progress, say

if TYPE_CHECKING:
    from whorl.verbs import Session

__all__ = ["Debug", "Home", "Json", "RecipePath", "SetValues", "Workers", "open_session"]

RecipePath = Annotated[
    Path, typer.Argument(help="A recipe (YAML); `whorl new NAME` writes one.", show_default=False)
]
SetValues = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="Override a key: --set train.seq_len=512. Repeatable.", show_default=False
    ),
]
Home = Annotated[
    Path | None,
    typer.Option(help="Where records live. Default: WHORL_HOME, else ./runs.", show_default=False),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout instead.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show a traceback when something fails.")]
Workers = Annotated[
    int | None,
    typer.Option(
        help="Processes of prepare. Default: one per core.", show_default=False, min=1, max=1024
    ),
]


def open_session(
    recipe: Path,
    overrides: list[str] | None,
    home: Path | None,
    workers: int | None = None,
    plans_alone: bool = False,
) -> Session:
    """A session that reports on stderr."""
    from whorl.verbs import Session

    return Session.open(
        recipe,
        overrides=overrides or (),
        home=home,
        workers=workers,
        plans_alone=plans_alone,
        progress=make_progress(),
        log=say,
    )
