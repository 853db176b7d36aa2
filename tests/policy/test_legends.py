"""A file that names axes in its variables (`scores_BHQK`) says at its top what each letter is."""

from __future__ import annotations

import ast
import re

import pytest

from tests.policy.conftest import SourceFile, python_files, report

SUFFIXED = re.compile(r"^[a-z][a-z0-9_]*_([A-Z]+)$")
LEGEND = re.compile(r"\b(axes|axis|shapes?|suffix(?:es)?|legend)\b", re.IGNORECASE)
LETTER = re.compile(r"(?<![\w.])([A-Z])(?=\s*[=:]?\s+\w)")


def legend_letters(file: SourceFile) -> set[str]:
    """Letters explained in the paragraph of the module's docstring that speaks of axes."""
    paragraphs = (ast.get_docstring(file.tree) or "").split("\n\n")
    return {
        letter
        for paragraph in paragraphs
        if LEGEND.search(paragraph)
        for letter in LETTER.findall(paragraph)
    }


def names_of(file: SourceFile) -> dict[str, int]:
    """Every variable, argument, attribute and keyword name, with its first line."""
    found: dict[str, int] = {}
    for node in file.nodes:
        for attribute in ("id", "arg", "attr"):
            name = getattr(node, attribute, None)
            if isinstance(name, str):
                found.setdefault(name, getattr(node, "lineno", 0))
    return found


def offenders_of(file: SourceFile) -> list[str]:
    legend = legend_letters(file)
    offenders = []
    for name, line in names_of(file).items():
        match = SUFFIXED.match(name)
        if missing := sorted(set(match[1]) - legend) if match else []:
            where = f"{file.name}:{line}: {name}"
            offenders.append(f"{where}: no legend in the docstring for {', '.join(missing)}")
    return offenders


def test_every_axis_letter_has_a_legend() -> None:
    offenders = [line for file in python_files() for line in offenders_of(file)]
    assert not offenders, report(offenders)


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ("q_BHTD = 1", "B, D, H, T"),
        ('"""Axes: B rows, T tokens."""\ndef f(x_BTD): ...', "D"),
        ('"""A batch D of T rows B goes in."""\ndef f(x_BTD): ...', "B, D, T"),
        ('"""Axes: B rows."""\nself.x_BT = x_B', "T"),
    ],
)
def test_planted_violation_is_found(text: str, missing: str) -> None:
    offenders = offenders_of(SourceFile("src/whorl/core/planted.py", text))
    assert len(offenders) == 1 and offenders[0].endswith(f"for {missing}")


@pytest.mark.parametrize(
    "text",
    [
        '"""Shapes: B = rows, T: tokens,\nD width."""\nx_BTD = y_B',
        "MAX_FILE = 1\nnum_tokens = 2\nsize_MiB = 3",
    ],
)
def test_good_files_pass(text: str) -> None:
    assert not offenders_of(SourceFile("src/whorl/core/good.py", text))
