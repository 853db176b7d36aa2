"""The command `whorl`: errors become one line and an exit code, tracebacks need --debug."""

from __future__ import annotations

import contextlib
import errno
import sys
import traceback
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from whorl import __version__
from whorl.cli.console import (
    OutputError,
    adapt_streams,
    close_bars,
    flush_streams,
    print_json,
    say,
)
from whorl.cli.interrupts import Interrupts, Stopped
from whorl.core.disk import DISK_ERRNOS, disk_error
from whorl.core.errors import Interrupted, ResourceError, SpecError, WhorlError

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
    "keys": ("keys",),
    "ladder": ("ladder",),
    "import_": ("import",),
    "export": ("export",),
    "diff": ("diff",),
    "harness": ("harness",),
    "models": ("models",),
    "improve": ("improve",),
    "doctor": ("doctor",),
    "explain": ("explain",),
    "new": ("new",),
    "torture": ("torture",),
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


def main(interrupts: Interrupts | None = None) -> None:
    """Entry point. Exit codes: whorl.core.errors, 1 for our own defects and readers who are gone.

    interrupts: installed before; None: from here on.
    """
    signals = interrupts or Interrupts()
    if interrupts is None:
        signals.install()
    adapt_streams()
    signals.begin()
    try:
        code = _run(signals)
    except Stopped as stopped:  # while an error was reported
        signals.end(stopped.number)
    finally:
        with contextlib.suppress(OSError):
            flush_streams()
    if interrupts is not None:  # the whole process is this command's
        interrupts.finish(code)
    sys.exit(code)


def _run(interrupts: Interrupts) -> int:
    """Run the command; tell its error; the exit code."""
    try:
        app = build_app(next(iter(sys.argv[1:]), None))
        answer = app(prog_name="whorl", standalone_mode=False)
        flush_streams()
        return answer if isinstance(answer, int) else 0
    except Stopped as stopped:
        interrupts.end(stopped.number)
    except Interrupted as error:
        interrupts.end(error.exit_code - 128, error)
    except OutputError as error:
        return _give_up_output(error)
    except Exception as error:
        if interrupts.received is not None:  # `Stopped`, as a library passed it on
            interrupts.end(interrupts.received)
        try:
            return _report(error)
        except OutputError as lost:
            return _give_up_output(lost)


def _give_up_output(error: OutputError) -> int:
    """Of a command whose output cannot be written: quietly if its reader has gone."""
    if error.errno == errno.EPIPE:
        return 1
    told = ResourceError(
        "the output cannot be written",
        found=error.strerror,
        do="free some space where it goes, or send it elsewhere",
    )
    say(f"error: {told}")
    return told.exit_code


def _report(error: Exception) -> int:
    """Tell an error on stderr and, to programs, on stdout; its exit code."""
    close_bars()
    if "--debug" in sys.argv:
        traceback.print_exception(error)
    if type(error).__name__ == "NoArgsIsHelpError" and "--json" not in sys.argv:
        error.show()  # type: ignore[attr-defined]
        return 2
    told = _told(error)
    say(f"error: {told}")
    if "--json" in sys.argv and not Interrupts.answered:
        print_json(told.as_json())
    flush_streams()
    return told.exit_code


def _told(error: Exception) -> WhorlError:
    """The error in our words: of ours, of how a command is called, of the machine, or a defect."""
    if isinstance(error, WhorlError):
        return error
    if isinstance(error, MemoryError):
        return ResourceError("out of memory", do="a smaller model, batch or seq_len")
    if isinstance(error, OSError) and error.filename and error.errno in DISK_ERRNOS:
        if error.errno in (errno.EACCES, errno.EPERM, errno.EMFILE):  # perhaps it was read
            return ResourceError(f"cannot use {error.filename}", found=error.strerror)
        return disk_error(error, Path())
    if callable(say_it := getattr(error, "format_message", None)):
        context = getattr(error, "ctx", None)
        path = context.command_path if context is not None else "whorl"
        return SpecError(say_it().rstrip("."), do=f"{path} --help")
    what = f"a defect of whorl: {type(error).__name__}: {error}"
    return WhorlError(what, do="run again with --debug")
