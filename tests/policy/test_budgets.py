"""Files stay below 400 lines, functions below 60, and every package within its budget."""

from __future__ import annotations

import ast

from tests.policy.conftest import SourceFile, python_files, report

MAX_FILE_LINES = 400  # a file has fewer
MAX_FUNCTION_LINES = 60  # a function has fewer, docstring and signature included
# Of each package: its size when it was last thought over, and a quarter. plan must shrink.
PACKAGE_LINES = {
    # hybrids: a mixer for each, experts and layers in files of their own; blocks of attention
    "arch": 2_120,
    "cli": 3_145,
    "codecs": 3_778,  # sound: files, mel, codebooks
    "core": 3_900,
    "engines": 4_417,
    # speech: voices, people's formats; boxes, printed lines, an assistant; a game for two; a CRF
    # and apertium beside the models; games that share a
    # Stockfish, a learner of chess, and what its positions tell of their moves
    "fields": 9_830,
    "launch": 1_560,  # a budget for measuring: turns, figures, what stands in for what is missing
    "model": 3_418,
    "schemes": 638,
    "spec": 1_382,
    "stages": 1,
    "stages/compress": 747,  # pruning and guesses live here too
    "stages/evaluate": 1_455,  # episodes side by side
    "stages/improve": 585,  # what people said of answers, as rows to learn from
    # a file for each tool, with its defaults, and for each software; objectives, images, own runs
    # told apart by kind and by what their plan predicted
    "stages/plan": 12_156,
    "stages/prepare": 2_280,
    # environments that a model acts in; what each model can be asked, and is asked first
    "stages/serve": 7_940,
    "stages/train": 2_818,
    "studio": 1,
    "testing": 552,
    "torture": 1_103,
    "whorl": 1_375,
    # what a served model says of itself, or two; what was asked before; which variant is served
    "wiring": 2_930,
}
ROOM = 1.25


def long_files(files: tuple[SourceFile, ...]) -> list[str]:
    counts = {file.name: len(file.text.splitlines()) for file in files}
    return [
        f"{name}: {lines} lines; expected: fewer than {MAX_FILE_LINES}"
        for name, lines in counts.items()
        if lines >= MAX_FILE_LINES
    ]


def long_functions(file: SourceFile) -> list[str]:
    offenders = []
    for node in file.nodes:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines >= MAX_FUNCTION_LINES:
                where = f"{file.name}:{node.lineno}: {node.name}"
                offenders.append(f"{where}: {lines} lines; expected: under {MAX_FUNCTION_LINES}")
    return offenders


def lines_by_package(files: tuple[SourceFile, ...]) -> dict[str, int]:
    """Lines of each package below src/whorl: "core", "stages/train" …"""
    totals: dict[str, int] = {}
    for file in files:
        parts = file.name.split("/")[2:-1]
        package = "/".join(parts[:2] if parts[:1] == ["stages"] else parts[:1]) or "whorl"
        totals[package] = totals.get(package, 0) + len(file.text.splitlines())
    return totals


def test_files_are_short() -> None:
    offenders = long_files(python_files())
    assert not offenders, report(offenders)


def test_functions_are_short() -> None:
    offenders = [line for file in python_files() for line in long_functions(file)]
    assert not offenders, report(offenders)


def too_large(totals: dict[str, int]) -> list[str]:
    """Packages beyond their budgets, or without one."""
    budgets = {package: int(lines * ROOM) for package, lines in PACKAGE_LINES.items()}
    return [
        f"{package}: {lines:,} lines; expected: at most {budgets.get(package, 0):,}"
        for package, lines in sorted(totals.items())
        if lines > budgets.get(package, 0)
    ]


def test_packages_keep_their_line_budgets() -> None:
    totals = lines_by_package(python_files("src"))
    for package, lines in sorted(totals.items()):
        print(f"{package:18} {lines:6,}")
    offenders = too_large(totals)
    assert not offenders, report(offenders)
    assert totals.keys() == PACKAGE_LINES.keys()


def test_planted_violations_are_found() -> None:
    body = "\n".join("    x = 1" for _ in range(MAX_FUNCTION_LINES - 1))
    text = f"class A:\n  async def f(self):\n{body}\n\ndef g():\n    return 1\n"
    planted = SourceFile("src/whorl/core/planted.py", text)
    assert len(long_functions(planted)) == 1 and "f: 60 lines" in long_functions(planted)[0]
    exact = SourceFile("src/whorl/core/exact.py", "x = 1\n" * MAX_FILE_LINES)
    below = SourceFile("src/whorl/stages/train/below.py", "x = 1\n" * (MAX_FILE_LINES - 1))
    assert [line.partition(":")[0] for line in long_files((exact, below))] == [exact.name]
    assert lines_by_package((exact, below)) == {"core": 400, "stages/train": 399}
    most = int(PACKAGE_LINES["core"] * ROOM)
    assert too_large({"core": most, "new": 1}) == ["new: 1 lines; expected: at most 0"]
    assert len(too_large({"core": most + 1})) == 1
