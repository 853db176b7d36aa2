"""A public class has a name of its own in the whole package: no reader has to ask which one."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterable

from tests.policy.conftest import SourceFile, python_files, report


def names_taken_twice(files: Iterable[SourceFile]) -> list[str]:
    """Public classes of one name in several places, in a line each."""
    places: dict[str, list[str]] = defaultdict(list)
    for file in files:
        for node in file.tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(f"{file.name}:{node.lineno}")
    return [f"class {name}: {', '.join(at)}" for name, at in places.items() if len(at) > 1]


def test_every_public_class_has_a_name_of_its_own() -> None:
    offenders = names_taken_twice(python_files("src"))
    assert not offenders, report(offenders)


def test_planted_violation_is_found() -> None:
    first = SourceFile("src/whorl/a.py", "class Load: ...\nclass _Own: ...\nclass A: ...")
    second = SourceFile("src/whorl/b.py", "class _Own: ...\n\n\nclass Load: ...\nclass B: ...")
    assert names_taken_twice([first, second]) == ["class Load: src/whorl/a.py:1, src/whorl/b.py:4"]


BY_HAND = {  # public functions and classes that no other part of whorl calls, and who does
    "FullyShardedData": "a training script of ranks",
    "check_parity": "whoever brings an engine",
    "read_hf_tokens": "whoever brings a tokenizer of another model",
    "read_tiktoken": "whoever brings a tokenizer of another model",
}


def names_used(file: SourceFile) -> set[str]:
    """Every name, attribute and single word in quotes of a file, but those of `__all__`."""
    found: set[str] = set()
    for statement in file.tree.body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "__all__":
            continue
        for node in ast.walk(statement):
            if isinstance(node, ast.Name):
                found.add(node.id)
            elif isinstance(node, ast.Attribute):
                found.add(node.attr)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value.rpartition(":")[2])  # entry points, annotations in quotes
    return found


def code_for_tests_alone(files: Iterable[SourceFile]) -> list[str]:
    """Functions and classes at the top level of whorl that none of the files uses."""
    files = list(files)
    used = set().union(*map(names_used, files)) | {*BY_HAND, "__getattr__"}
    return [
        f"{file.name}:{node.lineno}: nothing but tests uses {node.name}"
        for file in files
        if file.module and not file.module.startswith("whorl.testing")
        for node in file.tree.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        if node.name not in used
    ]


def test_no_code_is_there_for_tests_alone() -> None:
    offenders = code_for_tests_alone(python_files("src", "benchmarks", "docs", ".ci"))
    assert not offenders, report(offenders)


def test_planted_code_for_tests_alone_is_found() -> None:
    text = "__all__ = ['f', 'g', 'H']\ndef f(): ...\ndef g(): f()\nclass H: ..."
    planted = SourceFile("src/whorl/a.py", text)
    used = SourceFile("benchmarks/b.py", "from whorl.a import g, H\ng()")
    assert code_for_tests_alone([planted, used]) == ["src/whorl/a.py:4: nothing but tests uses H"]
