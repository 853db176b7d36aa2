"""`whorl new`: write a commented recipe."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from whorl.cli.console import ERR, OUT
from whorl.cli.options import Debug
from whorl.cli.reading import preview_new
from whorl.core.digests import write_bytes
from whorl.core.errors import BusyError, SpecError
from whorl.spec.load import load_recipe

__all__ = ["register"]

TEMPLATE = """\
# whorl recipe. `whorl up {name}.yaml` plans, prepares, trains, compresses, evaluates and serves it.
# Every key but name and data may stay `auto`; `whorl explain {name}.yaml` shows what each becomes.
name: {name}

data:
  # A file, a folder or a glob, relative to this file: .txt .md .rst .jsonl (.gz .zst), source code.
  - {{source: {source}, field: {field}}}

# What training may take on this machine: train_time, or tokens (2M), or flops (3e13).
budget: {{train_time: {train_time}}}

seed: 0

# prepare:
#   heldout_share: 5%            # documents kept for evaluation, never trained on
#   vocab_size: auto             # ids of the tokenizer
# model: {{layers: auto, width: auto, heads: auto}}
# train:
#   seq_len: auto                # tokens a model sees at once
#   batch_tokens: auto           # tokens of one step
#   learning_rate: auto
# compress: {{formats: [int8], max_bpb_increase: 1%}}
# serve: {{port: 8000, max_running: 16}}
"""


def register(app: typer.Typer) -> None:
    app.command("new", epilog="Example: `whorl new mine --data notes/`")(new_command)


def new_command(
    name: Annotated[str, typer.Argument(help="Name of the model, and of the file NAME.yaml.")],
    data: Annotated[
        str, typer.Option(help="A file, folder or glob with your data, or `stdlib`.")
    ] = "stdlib",
    field: Annotated[
        str | None, typer.Option(help="text, code, digits … Default: guessed from the data.")
    ] = None,
    train_time: Annotated[str, typer.Option(help="Budget of training on this machine.")] = "2min",
    force: Annotated[bool, typer.Option(help="Overwrite the file if it exists.")] = False,
    debug: Debug = False,
) -> None:
    """Write a commented recipe, NAME.yaml, in this folder."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,63}", name):
        raise SpecError(
            "a name is used in file names",
            found=name,
            expected="lower-case letters, digits, dots and dashes, at most 64",
        )
    path = Path(f"{name}.yaml")
    if path.exists() and not force:
        raise BusyError(f"{path} exists", do="choose another name, or --force to overwrite it")
    kind = field or ("code" if _looks_like_code(data) else "text")
    source = data if re.fullmatch(r"[A-Za-z0-9._/*-]+", data) else f'"{data}"'
    text = TEMPLATE.format(name=name, source=source, field=kind, train_time=train_time)
    write_bytes(path, text.encode())
    try:
        load_recipe(path)
    except SpecError:
        path.unlink()
        raise
    OUT.print(f"wrote {path}", markup=False)
    if data != "stdlib" and not any(Path().glob(data) if "*" in data else [Path(data)]):
        ERR.print(f"note: {data} does not exist yet", markup=False)
    if data != "stdlib":
        preview_new(data, kind)
    ERR.print(f"next: whorl plan {path}, then whorl up {path}", markup=False)


def _looks_like_code(data: str) -> bool:
    folder = Path(data)
    if data == "stdlib":
        return True
    if not folder.is_dir():
        return folder.suffix == ".py"
    names = [path.suffix for path in list(folder.rglob("*"))[:5000]]
    return names.count(".py") > sum(names.count(s) for s in (".txt", ".md", ".rst", ".jsonl"))
