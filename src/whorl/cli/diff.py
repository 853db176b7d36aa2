"""`whorl diff`: where two models differ."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from whorl.cli.console import OUT, make_progress, print_json
from whorl.cli.options import Debug, Home, Json
from whorl.cli.samples import literal_text
from whorl.core.home import home_folder
from whorl.core.metrics import find_metric
from whorl.servable import find_model
from whorl.spec.resolved import ServeConfig

if TYPE_CHECKING:
    from whorl.wiring.diff import Compared

__all__ = ["register"]

MODEL = "A registered model (NAME, NAME@VERSION) or a model folder; :VARIANT behind it chooses one."
WITH_VARIANT = re.compile(r"(?P<model>.+):(?P<variant>[\w-]+(?: [\w-]+)?)")
SHOWN = 10  # regressions


def register(app: typer.Typer) -> None:
    app.command("diff", epilog="Example: `whorl diff mine@1 mine@2:int4`")(diff_command)


def diff_command(
    first: Annotated[str, typer.Argument(help=MODEL)],
    second: Annotated[str, typer.Argument(help="What it is compared with, in the same words.")],
    prompts: Annotated[
        Path | None,
        typer.Option(
            help="Prompts, one a line (.txt), or objects with prompt, text or messages (.jsonl). "
            "Default: the documents held out from the first model.",
            show_default=False,
        ),
    ] = None,
    answers: Annotated[int, typer.Option(help="Prompts that are answered.", min=0, max=1000)] = 8,
    tokens: Annotated[int, typer.Option(help="Tokens of an answer.", min=1, max=4096)] = 64,
    max_bytes: Annotated[int, typer.Option(help="Held-out bytes that are scored.", min=1)] = 60_000,
    home: Home = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Ask two models the same, and show where their answers part and which documents get worse.

    Answers are greedy. Documents are scored by both in their own tokens, in bits per byte, and the
    difference has a 95% interval paired over documents.
    """
    from whorl.wiring.diff import compare_models, read_examples

    folder = home_folder(home)
    found = compare_models(
        _found(first, folder),
        _found(second, folder),
        home=folder,
        examples=None if prompts is None else read_examples(prompts),
        num_answers=answers,
        answer_tokens=tokens,
        max_bytes=max_bytes,
        progress=make_progress(),
    )
    if json:
        print_json(found)
        return
    _print_answers(found)
    if "scores" in found:
        _print_scores(found["scores"])


def _found(what: str, home: Path) -> Compared:
    """The model that is meant. Raises SpecError if it is not there."""
    from whorl.wiring.diff import Compared

    name, variant = what, None
    if not os.path.exists(os.path.expanduser(what)) and (meant := WITH_VARIANT.fullmatch(what)):
        name, variant = meant["model"], meant["variant"]
    model = find_model(name, ServeConfig(variant=variant), home)
    return Compared(what, model.folder, model.variant)


def _print_answers(found: Mapping[str, Any]) -> None:
    heads = [f"{found[key]['model']} ({found[key]['variant']})" for key in ("first", "second")]
    table = Table("prompt", *(escape(head) for head in heads), expand=True, show_lines=True)
    for row in found["answers"]:
        at = len(row["first"]) if row["parts_at"] is None else row["parts_at"]
        cells = [_parted(row[key], at) for key in ("first", "second")]
        table.add_row(literal_text(row["prompt"], "dim"), *cells)
    same = sum(row["parts_at"] is None for row in found["answers"])
    OUT.print(table)
    OUT.print(f"{same} of {len(found['answers'])} answers are the same")


def _parted(text: str, at: int) -> Text:
    """What both say, then what only this one says."""
    return literal_text(text[:at]) + literal_text(text[at:], "bold yellow")


def _print_scores(scores: Mapping[str, Any]) -> None:
    metric = find_metric(scores["metric"])
    low, high = scores["difference_low"], scores["difference_high"]
    interval = "" if low is None else f" [{low:+.4f}, {high:+.4f}]"
    better = {None: "no difference that the documents show"}.get(
        scores["better"], f"the {scores['better']} is better"
    )
    OUT.print(
        f"{metric.title} of {scores['documents']} documents: {scores['first']:.4f} and "
        f"{scores['second']:.4f}, {scores['difference_value']:+.4f}{interval}: {better}",
        markup=False,
    )
    worse = [row for row in scores["per_document"] if row["difference"] > 0]
    if not worse:
        return
    table = Table("worse in the second", "first", "second", "by")
    table.title = f"{scores['num_worse']} of {scores['documents']} documents"
    for row in worse[:SHOWN]:
        values = (f"{row['first']:.4f}", f"{row['second']:.4f}", f"{row['difference']:+.4f}")
        table.add_row(literal_text(row["name"]), *values)
    OUT.print(table)
