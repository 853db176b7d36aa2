"""`whorl improve`: what people said of a model's answers becomes rows to teach the next one."""

from __future__ import annotations

import json as json_format
import os
import shlex
from collections.abc import Sequence
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from whorl.cli.console import ERR, OUT, print_json
from whorl.cli.options import Debug, Home, Json
from whorl.core.digests import write_file
from whorl.core.errors import BusyError, DataError, SpecError
from whorl.core.home import home_folder

if TYPE_CHECKING:
    from whorl.stages.improve.feedback import Collected

__all__ = ["register"]

MOST_CHARS = 200  # of a model's name, in a file's
OWNERS = 0o600  # what people asked is nobody else's


def register(app: typer.Typer) -> None:
    app.command("improve", epilog="Example: `whorl improve python-stdlib --to said.jsonl`")(
        improve_command
    )


def improve_command(
    model: Annotated[
        str, typer.Argument(help="A model that was served; NAME@3: answers of version 3 alone.")
    ],
    to: Annotated[
        Path | None, typer.Option(help="The file to write. Default: NAME-feedback.jsonl, here.")
    ] = None,
    force: Annotated[bool, typer.Option(help="Overwrite the file if it exists.")] = False,
    home: Home = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Make training data of what people said of answers: corrections, ratings, preferences."""
    from whorl.stages.improve.feedback import collect
    from whorl.stages.serve.keys import FOLDER

    name, _, number = model.partition("@")
    folder = home_folder(home) / FOLDER
    found = collect(folder, name, _number(model, number))
    if not found.versions:
        raise _nothing(folder, model)
    path = to or Path(f"{name[:MOST_CHARS]}-feedback.jsonl")
    if os.path.isdir(path):  # False of a name that no disk has
        raise BusyError(f"{path} is a folder", do="name a file with --to")
    if os.path.exists(path) and not force:
        raise BusyError(f"{path} exists", do="name another with --to, or --force to overwrite it")
    if not json:
        _print(found)
    if not found.rows:
        told = ", ".join(f"{count:,} {reason}" for reason, count in found.left.most_common(3))
        raise DataError(
            f"nothing that was said of {model} can be learned from",
            found=told,
            do="correct answers on the page, or send question and answer with each opinion",
        )
    lines = [json_format.dumps(row, ensure_ascii=False) + "\n" for row in found.rows]
    write_file(path, partial(_fill, "".join(lines).encode("utf-8", "replace")))
    if json:
        return print_json(_document(found, path))
    OUT.print(f"wrote {path}", markup=False, soft_wrap=True)
    next_step = shlex.join(["whorl", "new", f"{name}2", "--data", str(path), "--base", name])
    ERR.print(f"next: read {path}, then {next_step}", markup=False, soft_wrap=True)


def _fill(data: bytes, path: Path) -> None:
    path.touch(OWNERS)
    path.write_bytes(data)


def _number(model: str, number: str) -> int | None:
    """Of a version: "3", "v3". Raises SpecError."""
    digits = number.removeprefix("v")
    if "@" in model and not (digits.isascii() and digits.isdigit() and len(digits) < 10):
        raise SpecError(
            "no version of a model",
            found=model[:80],
            expected="NAME or NAME@3",
            do="`whorl models` lists all",
        )
    return int(digits) if digits else None


def _nothing(folder: Path, model: str) -> SpecError:
    from whorl.stages.improve.feedback import name_of, read_feedback

    lines, _ = read_feedback(folder)
    names = sorted({f"{name_of(line)}@{line.get('version', 0)}" for line in lines})
    near = get_close_matches(model, [*names, *(name.rpartition("@")[0] for name in names)], n=1)
    serve = "whorl serve NAME; then Good, Bad or Correct… on its page, or POST /v1/feedback"
    return SpecError(
        f"nobody said anything of an answer of {model[:80]}",
        found=f"opinions of {', '.join(names[:20])}" if names else f"none in {folder}",
        do=f"did you mean {near[0]}?" if near else serve,
    )


def _print(found: Collected) -> None:
    """What was said of each version; what became of it."""
    said = Table("version", "variant", "contract", "opinions", "good", "bad", "corrected")
    for (version, variant, contract), counts in sorted(found.versions.items()):
        told = [f"{counts[key]:,}" for key in ("opinions", "good", "bad", "corrected")]
        said.add_row(str(version or "none"), variant, contract[:8], *told)
    OUT.print(said)
    become = Table("", "", "why")
    kinds: Sequence[tuple[str, str, Any]] = [
        ("green", "taken", found.used),
        ("red", "left", found.left),
    ]
    for colour, what, counts in kinds:
        for reason, count in counts.most_common():
            become.add_row(f"[{colour}]{what}[/{colour}]", f"{count:,}", reason)
    OUT.print(become)
    alone = len(found.rows) - found.num_pairs
    OUT.print(
        f"{len(found.rows):,} rows: {found.num_pairs:,} pairs, which dpo learns from; sft learns "
        f"from their chosen sides and {alone:,} more",
        soft_wrap=True,
    )


def _document(found: Collected, path: Path) -> dict[str, Any]:
    versions = [
        {"version": version, "variant": variant, "contract": contract, **counts}
        for (version, variant, contract), counts in sorted(found.versions.items())
    ]
    return {
        "file": str(path),
        "rows": len(found.rows),
        "pairs": found.num_pairs,
        "taken": dict(found.used),
        "left": dict(found.left),
        "versions": versions,
    }
