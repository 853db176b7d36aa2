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
from whorl.servable import Servable, find_beside, find_model
from whorl.serving import Address, newer_models, open_model_app, serve_app
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
BesideOption = Annotated[
    str | None,
    typer.Option(
        help="A second model to compare with, which requests ask by its own name: another version "
        "(@2), another variant (openvino-f32), or another model. Both are kept in memory.",
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
    beside: BesideOption = None,
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
    """Serve a model over HTTP: to clients of OpenAI and Anthropic, and with a page to open."""
    given: dict[str, Any] = {"host": host, "port": port, "engine": engine, "replicas": replicas}
    given |= {"allowed_hosts": allow_host, "where": where, "variant": variant}
    changes = {f"serve.{name}": value for name, value in given.items() if value is not None}
    if model.endswith(RECIPE) and not os.path.isdir(model):
        _check_recipe_options(model, beside, dry_run or emit is not None)
        overrides = [f"{name}={json.dumps(value)}" for name, value in changes.items()]
        session = open_session(Path(model), [*(set_values or ()), *overrides], home)
        serve_session(session, api_key)
    else:
        config = _without_recipe(changes, set_values or ())
        if dry_run or emit is not None:
            words = _arguments(model, beside, changes, set_values or ())
            models = _models(model, beside, config, home_folder(home))
            return _tell_of(models, config, words, emit, home_folder(home))
        _serve_model(model, beside, config, home_folder(home), api_key)


def _check_recipe_options(recipe: str, beside: str | None, tells: bool) -> None:
    if beside is not None:
        raise SpecError(
            "--beside goes with a registered model or a folder, not a recipe",
            do="serve NAME of `whorl models` --beside another version or variant",
        )
    if tells:
        raise SpecError(
            "--dry-run and --emit go with a model that is made, not a recipe",
            do=f"whorl plan {recipe} predicts; whorl up {recipe} makes the model",
        )


def _models(model: str, beside: str | None, config: ServeConfig, home: Path) -> list[Servable]:
    """What is served, and what is served beside it. Raises SpecError if it is none."""
    found = find_model(model, config, home)
    if beside is None:
        return [found]
    return [found, find_beside(beside, model, found, config, home)]


def _reasons(models: Sequence[Servable]) -> list[str]:
    """Why each is served in its variant, where targets chose it."""
    names = [f"{each.model_id}: as" if len(models) > 1 else "as" for each in models]
    return [f"{name} {each.why}" for name, each in zip(names, models, strict=True) if each.why]


def _serve_model(
    model: str, beside: str | None, config: ServeConfig, home: Path, api_key: str | None
) -> None:
    """Serve what is made already. Two that are compared stay as they are.

    Raises SpecError if it is none.
    """
    found, *others = models = _models(model, beside, config, home)
    for reason in _reasons(models):
        ERR.print(reason, markup=False, soft_wrap=True)
    if os.path.isfile(f"{model}/whorl.json") and not os.path.samefile(model, found.folder):
        told = f"{model} is the registered model; the model folder of that name is ./{model}"
        ERR.print(told, markup=False, soft_wrap=True)
    second = others[0] if others else None
    open_app = partial(open_model_app, found, config, home=home, beside=second)
    is_followed = found.version > 0 and "@" not in model and second is None
    newer = newer_models(model, config, home, found) if is_followed else None
    serve_app(open_app, config, _print_address, _given_key(api_key), home, newer)


def serve_session(session: Session, api_key: str | None = None) -> None:
    """Serve a session's model until it is told to stop."""
    from whorl.verbs import serve

    serve(session, on_start=_print_address, api_key=_given_key(api_key))


def _tell_of(
    models: Sequence[Servable],
    config: ServeConfig,
    words: Sequence[str],
    emit: str | None,
    home: Path,
) -> None:
    """What is predicted of a server, or known of it; or its unit or manifest. Nothing is loaded."""
    from whorl.core.units import format_bytes
    from whorl.engines.open import CACHE
    from whorl.wiring.emit import emit_server
    from whorl.wiring.promise import check_memory, predict_folder

    cache = home / CACHE
    promises = [predict_folder(each.folder, each.variant, config, cache) for each in models]
    lines = [str(promises[0])]
    if len(models) > 1:
        lines = [f"{each.model_id}: {told}" for each, told in zip(models, promises, strict=True)]
        needed = check_memory([each.named for each in models], config)
        lines.append(f"side by side: memory up to {format_bytes(needed)}")
        promises[0] = promises[0].model_copy(update={"memory_bytes": needed})
    lines = [*_reasons(models), *lines]
    if emit is not None:
        lines = [emit_server(emit, models[0].model_id, words, config, promises[0], home)]
    for line in lines:
        OUT.print(line, markup=False, highlight=False, soft_wrap=True)


def _arguments(
    model: str, beside: str | None, changes: Mapping[str, Any], set_values: Sequence[str]
) -> list[str]:
    """The command that was given, but for host and port, from whatever folder it is run."""
    words = [os.path.abspath(model) if os.path.isdir(model) else model]
    if (variant := changes.get("serve.variant")) is not None:
        words += ["--variant", variant]
    if beside is not None:
        words += ["--beside", os.path.abspath(beside) if os.sep in beside else beside]
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
        *([f"beside: {address.beside}"] if address.beside else []),
        f"try:  {address.curl}",
        *([f"can:  {address.promise}"] if address.promise else []),
    ):
        OUT.print(line, markup=False, soft_wrap=True)
    OUT.print("stop with Ctrl-C")
