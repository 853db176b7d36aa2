"""What the model wrote, on terminals of several widths: every line stays, in its place."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from whorl.cli import report, samples

PROMPT = "class Shelf:\n    def first(self):\n"
COMPLETION = '        return self.books[0]  # "[bold]" \\[x]\n\n    def last(self):\n'
TRUTH = "        return self.books[1]\n\n    def size(self):\n        pass\n"
ROW = {"document": "lib/[red]shelf.py", "prompt": PROMPT, "completion": COMPLETION, "truth": TRUTH}


def printed(monkeypatch: pytest.MonkeyPatch, serve: dict[str, Any], width: int) -> list[str]:
    """Lines without the frame, as a terminal without colours shows them."""
    out = io.StringIO()
    console = Console(file=out, width=width, highlight=False)
    monkeypatch.setattr(samples, "OUT", console)
    monkeypatch.setattr(report, "OUT", console)
    report.print_report({"recipe": "tiny", "stages": [], "serve": serve})
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    return [line.removeprefix("│ ").removesuffix("│").rstrip() for line in lines]


def test_both_texts_stand_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = printed(monkeypatch, {"continuations": [ROW]}, 120)
    assert any("lib/[red]shelf.py" in line for line in lines)
    first = next(at for at, line in enumerate(lines) if "def first" in line)
    assert lines[first - 1 : first + 1] == PROMPT.splitlines()
    head = next(at for at, line in enumerate(lines) if line.startswith("the model goes on"))
    column = lines[head].index("the document goes on")
    left = [line[:column].rstrip() for line in lines[head + 1 :]]
    right = [line[column:].rstrip() for line in lines[head + 1 :]]
    assert left[:3] == COMPLETION.splitlines()
    assert right[:4] == TRUTH.splitlines()


@pytest.mark.parametrize("width", [40, 80, 99])
def test_a_narrow_terminal_has_one_above_the_other(
    monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    lines = printed(monkeypatch, {"continuations": [ROW]}, width)
    heads = [at for at, line in enumerate(lines) if line.startswith("── the")]
    assert [lines[at].split()[2] for at in heads] == ["model", "document"]
    assert lines[heads[1] + 1 : heads[1] + 5] == TRUTH.splitlines()
    shown = "".join(lines[heads[0] + 1 : heads[1]])
    assert "".join(shown.split()) == "".join(COMPLETION.split())  # long lines are folded, not cut


def test_nothing_in_a_text_is_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    hostile = "[/dim][blink]x[/]\x1b[2J\x07\r\x9b\u202e\\[y]\\"
    serve = {"completions": [{"prompt": hostile, "text": hostile}], "continuations": []}
    serve |= {"judged": [{"accepted": 3, "asked": 20, "checker": "parse[0]"}]}
    lines = printed(monkeypatch, serve, 100)
    shown = "[/dim][blink]x[/]␛[2J␇␍\ufffd\ufffd\\[y]\\"
    assert shown + shown in lines
    assert "3 of 20 completions pass parse[0]" in lines


def test_an_answer_stands_above_the_right_one(monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"document": "cat/[1].png", "prompt": "[an image of 8 x 8]", "text": "dog"}
    lines = printed(monkeypatch, {"completions": [{**row, "truth": "cat"}]}, 100)
    assert any("held-out document cat/[1].png" in line for line in lines)
    at = lines.index("[an image of 8 x 8]")
    assert lines[at + 1 : at + 3] == ["answer: dog", "right:  cat"]


def test_a_record_of_before_has_no_continuations(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = printed(monkeypatch, {"completions": [{"prompt": "a ", "text": "b"}]}, 100)
    assert "a b" in lines and not any("document" in line for line in lines)
