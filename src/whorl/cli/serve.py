"""`whorl serve`: an OpenAI-compatible service and a page, on loopback unless you say otherwise."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from whorl.cli.console import ERR, OUT
from whorl.cli.early import RECIPE
from whorl.cli.options import Debug, Home, SetValues, open_session
from whorl.core.errors import SpecError
from whorl.core.home import home_folder
from whorl.serving import (
    Address,
    Servable,
    find_model,
    newer_models,
    open_model_app,
    serve_app,
)
from whorl.spec.load import parse_recipe
from whorl.spec.resolved import ServeConfig

if TYPE_CHECKING:
    from whorl.verbs import Session

__all__ = ["register", "serve_session"]

VariantOption = Annotated[
    str | None,
    typer.Option(
        help="Such as openvino-int8 or hf-f32; a part that says it is enough (int8, hf). Default: "
        "of those that keep the targets the one that loses least, without targets the smallest."
    ),
]
ReplicasOption = Annotated[
    int | None,
    typer.Option(
        help="Engines side by side, each a process; what begins alike goes to the same one. "
        "Default: the recipe's, 1."
    ),
]
WhereOption = Annotated[
    str | None,
    typer.Option(
        help="here, or ray: engines on the nodes of a Ray cluster (RAY_ADDRESS, or the one that "
        "runs here). Default: the recipe's, here."
    ),
]
EmitOption = Annotated[
    str | None,
    typer.Option(help="Print a unit (systemd) or manifest (kubernetes) of this server instead."),
]
DryRunOption = Annotated[
    bool,
    typer.Option(
        "--dry-run", help="Say what it would promise and the memory it would take; load nothing."
    ),
]


def register(app: typer.Typer) -> None:
    app.command("serve", epilog="Example: `whorl serve python-stdlib@1 --port 8080`")(serve_command)


def serve_command(
    model: Annotated[
        str,
        typer.Argument(
            help="A recipe (x.yaml), a registered model (name or name@version) or a model folder; "
            "./name is the folder where both are there."
        ),
    ],
    host: Annotated[
        str | None, typer.Option(help="Address to bind. Default: the recipe's, loopback.")
    ] = None,
    port: Annotated[
        int | None, typer.Option(help="Port to bind; 0: any free one. Default: the recipe's, 8000.")
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            help="Name that a reverse proxy calls the server by. Repeatable.", show_default=False
        ),
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(help="openvino, torch, vllm, or one from an entry point. Default: auto."),
    ] = None,
    variant: VariantOption = None,
    api_key: Annotated[
        str | None,
        typer.Option(
            help="Key that requests must send. Default: WHORL_API_KEY, else a random one."
        ),
    ] = None,
    replicas: ReplicasOption = None,
    where: WhereOption = None,
    emit: EmitOption = None,
    dry_run: DryRunOption = False,
    set_values: SetValues = None,
    home: Home = None,
    debug: Debug = False,
) -> None:
    """Serve a model: /v1/completions, /v1/chat/completions, /v1/models, /health, a page at /."""
    given: dict[str, Any] = {"host": host, "port": port, "engine": engine, "replicas": replicas}
    given |= {"allowed_hosts": allow_host, "where": where, "variant": variant}
    changes = {f"serve.{name}": value for name, value in given.items() if value is not None}
    if model.endswith(RECIPE) and not os.path.isdir(model):
        if dry_run or emit is not None:
            raise SpecError(
                "--dry-run and --emit go with a model that is made, not a recipe",
                do=f"whorl plan {model} predicts; whorl up {model} makes the model",
            )
        overrides = [f"{name}={json.dumps(value)}" for name, value in changes.items()]
        session = open_session(Path(model), [*(set_values or ()), *overrides], home)
        serve_session(session, api_key)
    else:
        config = _without_recipe(changes, set_values or ())
        if dry_run or emit is not None:
            words = _arguments(model, changes, set_values or ())
            found = find_model(model, config, home_folder(home))
            return _tell_of(found, config, words, emit, home_folder(home))
        _serve_model(model, config, home_folder(home), api_key)


def _serve_model(model: str, config: ServeConfig, home: Path, api_key: str | None) -> None:
    """Serve what is made already. Raises SpecError if it is none."""
    found = find_model(model, config, home)
    if found.why:
        ERR.print(f"as {found.why}", markup=False, soft_wrap=True)
    if os.path.isfile(f"{model}/whorl.json") and not os.path.samefile(model, found.folder):
        told = f"{model} is the registered model; the model folder of that name is ./{model}"
        ERR.print(told, markup=False, soft_wrap=True)
    open_app = partial(open_model_app, found, config, home=home)
    is_followed = found.version > 0 and "@" not in model
    newer = newer_models(model, config, home, found) if is_followed else None
    serve_app(open_app, config, _print_address, _given_key(api_key), home, newer)


def serve_session(session: Session, api_key: str | None = None) -> None:
    """Serve a session's model until it is told to stop."""
    from whorl.verbs import serve

    serve(session, on_start=_print_address, api_key=_given_key(api_key))


def _tell_of(
    found: Servable, config: ServeConfig, words: Sequence[str], emit: str | None, home: Path
) -> None:
    """What is predicted of a server, or known of it; or its unit or manifest. Nothing is loaded."""
    from whorl.engines.open import CACHE
    from whorl.wiring.emit import emit_server
    from whorl.wiring.promise import predict_folder

    promise = predict_folder(found.folder, found.variant, config, home / CACHE)
    told = f"as {found.why}\n{promise}" if found.why else str(promise)
    if emit is not None:
        told = emit_server(emit, found.model_id, words, config, promise, home)
    OUT.print(told, markup=False, highlight=False, soft_wrap=True)


def _arguments(model: str, changes: Mapping[str, Any], set_values: Sequence[str]) -> list[str]:
    """The command that was given, but for host and port, from whatever folder it is run."""
    words = [os.path.abspath(model) if os.path.isdir(model) else model]
    if (variant := changes.get("serve.variant")) is not None:
        words += ["--variant", variant]
    if (engine := changes.get("serve.engine")) is not None:
        words += ["--engine", engine]
    if (replicas := changes.get("serve.replicas")) is not None:
        words += ["--replicas", str(replicas)]
    if (where := changes.get("serve.where")) is not None:
        words += ["--where", where]
    for host in changes.get("serve.allowed_hosts", ()):
        words += ["--allow-host", host]
    for value in set_values:
        words += ["--set", value]
    return words


def _given_key(api_key: str | None) -> str | None:
    return os.environ.get("WHORL_API_KEY") or None if api_key is None else api_key


def _without_recipe(changes: Mapping[str, Any], set_values: Sequence[str]) -> ServeConfig:
    """What options and --set say of serving. Raises SpecError as a recipe would."""
    from whorl.engines.open import AUTO, find_engine

    for value in set_values:
        if not value.startswith("serve."):
            raise SpecError(
                f"--set {value} goes with a recipe",
                expected="a key of serve: a model that is made already is served as it is",
            )
    serve = {key.partition(".")[2]: changes[key] for key in changes}
    origins = {key: f"--{key.partition('.')[2]}" for key in changes}
    nothing = {"name": "served", "data": [{"source": "."}], "serve": serve}
    recipe = parse_recipe(nothing, origins, overrides=set_values).recipe
    config = ServeConfig(**recipe.serve.model_dump())
    if config.engine != AUTO:
        find_engine(config.engine)
    return config


def _print_address(address: Address) -> None:
    key = "<a key of yours>" if address.api_key is None else address.api_key
    for line in (
        f"page: {address.page_url}",
        f"API:  {address.base_url}/v1  with Authorization: Bearer {key}",
        f"model: {address.model_id}",
        f"try:  {address.curl}",
        *([f"can:  {address.promise}"] if address.promise else []),
    ):
        OUT.print(line, markup=False, soft_wrap=True)
    OUT.print("stop with Ctrl-C")
