"""`whorl export`: a model for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from whorl.cli.console import OUT, make_progress, print_json
from whorl.cli.import_ import print_checks
from whorl.cli.options import Debug, Home, Json
from whorl.core.home import home_folder
from whorl.servable import find_model
from whorl.spec.resolved import ServeConfig

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    app.command("export", epilog="Example: `whorl export smollm2 --to openvino smollm2-ov`")(
        export_command
    )


def export_command(
    model: Annotated[
        str, typer.Argument(help="A registered model (name or name@version) or a model folder.")
    ],
    out: Annotated[Path, typer.Argument(help="A new or an empty folder.")],
    to: Annotated[
        Literal["hf", "openvino", "gguf"],
        typer.Option(
            help="hf: what transformers and vLLM load. openvino: what OpenVINO runs. gguf: a file "
            "for llama.cpp and the programs around it."
        ),
    ] = "hf",
    variant: Annotated[
        str | None,
        typer.Option(
            help="Weights. openvino: f32 (default), int8 or int4. gguf: f32, f16, bf16 or q8_0; "
            "default: the model's own."
        ),
    ] = None,
    home: Home = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Write a model as a folder for other programs, checked in the runtime it is meant for.

    The folder is written whole or not at all. Compressed weights are others: their figures say how
    far from the model they are, and only those that forgot it are refused.
    """
    from whorl.wiring.exports import export_model

    folder = find_model(model, ServeConfig(variant="hf"), home_folder(home)).folder
    exported = export_model(folder, to, out, variant, make_progress())
    if json:
        print_json({"folder": str(out), "variant": exported.card.variant.slug, **exported.checks})
        return
    print_checks(exported.checks)
    OUT.print(f"{exported.card.variant}: {out}", markup=False, soft_wrap=True)
