"""The command `whorl`: errors become one line and an exit code, tracebacks need --debug."""

from __future__ import annotations

import json
import os
import sys
import traceback
from importlib import import_module
from typing import Annotated

import typer

from whorl import __version__
from whorl.core.errors import Interrupted, ResourceError, WhorlError

__all__ = ["build_app", "main"]

HELP = (
    "One recipe, seven stages: plan, prepare, train, compress, evaluate, serve, improve.\n\n"
    "Start with `whorl new mine --data notes/`, then `whorl up mine.yaml`."
)
# Modules of cli/ and their commands, in the order of --help.
MODULES: dict[str, tuple[str, ...]] = {
    "up": ("up",),
    "plan": ("plan",),
    "stages": ("prepare", "train", "compress", "evaluate"),
    "serve": ("serve",),
    "ladder": ("ladder",),
    "import_": ("import",),
    "export": ("export",),
    "models": ("models",),
    "doctor": ("doctor",),
    "explain": ("explain",),
    "new": ("new",),
    "records": ("ls", "show", "verify", "gc"),
}


def _print_version(value: bool) -> None:
    if value:
        print(f"whorl {__version__}")
        raise typer.Exit()


def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Build, measure and serve a large model of your own."""


def build_app(command: str | None = None) -> typer.Typer:
    """The application; with the name of a command, only the module that has it is imported."""
    app = typer.Typer(
        name="whorl",
        no_args_is_help=True,
        rich_markup_mode="markdown",
        pretty_exceptions_enable=False,
        help=HELP,
        epilog="Example: `whorl up recipes/python-stdlib.yaml`",
    )
    app.callback()(_root)
    chosen = [name for name, commands in MODULES.items() if command in commands] or list(MODULES)
    for name in chosen:
        import_module(f"whorl.cli.{name}").register(app)
    return app


def main() -> None:
    """Entry point. Exit codes: whorl.core.errors, 1 for our own defects."""
    try:
        build_app(next(iter(sys.argv[1:]), None))()
    except WhorlError as error:
        _report(error)
    except KeyboardInterrupt:
        _report(Interrupted("stopped", signal_number=2))
    except MemoryError:
        _report(ResourceError("out of memory", do="a smaller model, batch or seq_len"))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        if "--debug" in sys.argv:
            raise
        line = f"{type(error).__name__}: {error}".replace("\n", " ")
        print(f"error: a defect of whorl: {line}; do: run again with --debug", file=sys.stderr)
        sys.exit(1)


def _report(error: WhorlError) -> None:
    if "--debug" in sys.argv:
        traceback.print_exc()
    if "--json" in sys.argv:
        fields = {"what": error.what, "found": error.found, "expected": error.expected}
        body = {**fields, "do": error.do, "exit_code": error.exit_code}
        print(json.dumps({"error": body}, default=str))
    print(f"error: {error}", file=sys.stderr)
    sys.exit(error.exit_code)
