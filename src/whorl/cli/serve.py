"""`whorl serve`: an OpenAI-compatible service and a page, on loopback unless you say otherwise."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from whorl.cli.console import OUT
from whorl.cli.options import Debug, Home, SetValues, open_session
from whorl.core.errors import SpecError
from whorl.core.records import Record, RecordStore
from whorl.core.variants import Variant, find_variant
from whorl.serving import open_model_app, serve_app
from whorl.spec.resolved import ServeConfig
from whorl.verbs import Session, home_folder, serve

if TYPE_CHECKING:
    from whorl.stages.improve.registry import Version

__all__ = ["register", "serve_session"]


def register(app: typer.Typer) -> None:
    app.command("serve", epilog="Example: `whorl serve python-stdlib@1 --port 8080`")(serve_command)


def serve_command(
    model: Annotated[
        str,
        typer.Argument(
            help="A recipe (x.yaml), a registered model (name or name@version) or a model folder."
        ),
    ],
    host: Annotated[
        str | None, typer.Option(help="Address to bind. Default: the recipe's, loopback.")
    ] = None,
    port: Annotated[
        int | None, typer.Option(help="Port to bind; 0: any free one. Default: the recipe's, 8000.")
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(help="openvino, torch, or one from an entry point. Default: auto."),
    ] = None,
    variant: Annotated[
        str | None,
        typer.Option(
            help="Such as openvino-int8 or hf-f32; a part that says it is enough (int8, hf). "
            "Default: the smallest that the engine serves."
        ),
    ] = None,
    api_key: Annotated[
        str | None,
        typer.Option(
            help="Key that requests must send. Default: WHORL_API_KEY, else a random one."
        ),
    ] = None,
    set_values: SetValues = None,
    home: Home = None,
    debug: Debug = False,
) -> None:
    """Serve a model: /v1/completions, /v1/chat/completions, /v1/models, /health, a page at /."""
    given = {"host": host, "port": port, "engine": engine}
    changes = {key: value for key, value in given.items() if value is not None}
    key = api_key or os.environ.get("WHORL_API_KEY")
    if model.endswith((".yaml", ".yml")):
        overrides = [*(set_values or ()), *(f"serve.{k}={v}" for k, v in changes.items())]
        if variant is not None:
            raise SpecError("--variant goes with a registered model or a folder, not a recipe")
        session = open_session(Path(model), overrides, home)
        serve_session(session, key)
        return
    config = ServeConfig.model_validate(changes)
    folder, chosen, scores = _find(model, variant, config.engine, home_folder(home))
    app, close = open_model_app(folder, chosen, model.rpartition("/")[2], config, scores, key)
    serve_app(app, close, config, _print_address)


def serve_session(session: Session, api_key: str | None = None) -> None:
    """Serve a session's model until it is told to stop."""
    serve(session, on_start=_print_address, api_key=api_key or os.environ.get("WHORL_API_KEY"))


def _print_address(page_url: str, api_key: str) -> None:
    base_url = page_url.partition("/?")[0]
    OUT.print(f"page: {page_url}", markup=False, soft_wrap=True)
    OUT.print(
        f"API:  {base_url}/v1  with Authorization: Bearer {api_key}", markup=False, soft_wrap=True
    )
    OUT.print("stop with Ctrl-C")


def _find(
    model: str, variant: str | None, engine: str, home: Path
) -> tuple[Path, Variant | None, list[dict[str, Any]]]:
    """(folder, variant, scores) of a registered model or a plain folder. Raises SpecError."""
    from whorl.engines.open import forms_of, smallest
    from whorl.model.folder import model_folders, read_card

    if Path(model).is_dir():
        forms = forms_of(read_card(Path(model)).variant)
        return Path(model), None if variant is None else find_variant(variant, forms), []
    version = _version(model, home)
    scores = [score.model_dump() for score in version.scores if score.kind == "model"]
    there: dict[Variant, Path] = {}
    for stage in ("compress", "train", "import"):
        if stage in version.lineage:
            folder = RecordStore(home, version.name).folder(stage) / version.lineage[stage]
            there |= model_folders(Record.load(folder))
    if variant is not None:
        chosen = find_variant(variant, there)
        return there[chosen], chosen, scores
    chosen, place = smallest(there, engine)
    return place, chosen, scores


def _version(model: str, home: Path) -> Version:
    """The registered version of `name` or `name@version`. Raises SpecError."""
    from whorl.stages.improve.registry import list_versions

    name, _, number = model.partition("@")
    versions = [
        version
        for version in list_versions(home, name)
        if number in ("", str(version.version), f"v{version.version}")
    ]
    if not versions:
        known = [f"{version.name}@{version.version}" for version in list_versions(home)]
        raise SpecError(
            f"no model {model} in {home}",
            found=known or "no models",
            do="name a recipe, a model of `whorl models`, or a model folder",
        )
    return versions[-1]
