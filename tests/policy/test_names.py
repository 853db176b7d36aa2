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
