"""What the model wrote: answers to prompts, and held-out documents beside how they really go on.

Texts are shown as they are: neither markup nor control characters in them mean anything here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from whorl.cli.console import OUT

__all__ = ["literal_text", "print_samples"]

MAX_WIDTH = 100  # of one text
SIDE_BY_SIDE_WIDTH = 100  # a narrower terminal gets one text above the other
# What a model writes must not move anyone's cursor: controls become their pictures, and those that
# have none, or turn the direction of writing, U+FFFD.
PICTURES = {code: 0x2400 + code for code in range(32) if chr(code) not in "\t\n"} | {0x7F: 0x2421}
PICTURES |= dict.fromkeys(
    (*range(0x80, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A)), 0xFFFD
)


def print_samples(serve: Mapping[str, Any]) -> None:
    """Completions and continuations of a serve record, and how many samples were accepted."""
    for sample in serve.get("completions") or []:
        _print_completion(sample)
    for row in serve.get("continuations") or []:
        _print_continuation(row)
    for row in serve.get("judged") or []:
        OUT.print(f"{row['accepted']} of {row['asked']} completions pass {escape(row['checker'])}")


def _print_completion(row: Mapping[str, str]) -> None:
    """A prompt with what the model goes on with; of a question the answer, and the right one."""
    width = min(MAX_WIDTH, OUT.width)
    shown = literal_text(row["prompt"], "dim")
    title = Text("completion")
    if "document" in row:
        title = Text(f"held-out document {literal_text(row['document'])}")
    if "truth" in row:
        shown += Text("\nanswer: ", "bold") + literal_text(row["text"])
        shown += Text("\nright:  ", "bold") + literal_text(row["truth"])
    else:
        shown += literal_text(row["text"])
    OUT.print(Panel(shown, title=title, title_align="left", width=width))


def _print_continuation(row: Mapping[str, str]) -> None:
    """The prompt, and below it the model's text beside the document's."""
    heads = ("the model goes on", "the document goes on")
    ours, true = literal_text(row["completion"]), literal_text(row["truth"])
    shown: list[RenderableType] = [literal_text(row["prompt"].removesuffix("\n"), "dim")]
    if OUT.width < SIDE_BY_SIDE_WIDTH:
        for head, text in zip(heads, (ours, true), strict=True):
            shown += [Text(f"── {head}", "bold"), text]
        width = OUT.width
    else:
        table = Table(box=None, expand=True, padding=(0, 2, 0, 0))
        for head in heads:
            table.add_column(head, ratio=1, overflow="fold", header_style="bold")
        table.add_row(ours, true)
        shown += [Text(), table]
        width = min(2 * MAX_WIDTH, OUT.width)
    title = Text(f"held-out document {literal_text(row['document'])}")
    OUT.print(Panel(Group(*shown), title=title, title_align="left", width=width))


def literal_text(text: str, style: str = "") -> Text:
    """Text in which nothing is markup, and every line and space stays."""
    return Text(text.translate(PICTURES), style=style, overflow="fold")
