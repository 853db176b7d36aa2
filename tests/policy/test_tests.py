"""The tests themselves: importable under one name each, and able to fail."""

from __future__ import annotations

import ast
from pathlib import Path

from tests.policy.conftest import ROOT, SourceFile, python_files, report


def folders_without_init(tests: Path) -> list[str]:
    """Test folders without __init__.py: two files of one name there would collide."""
    folders = {path.parent for path in tests.rglob("*.py")}
    return sorted(str(path) for path in folders if not (path / "__init__.py").exists())


def unable_to_fail(file: SourceFile) -> list[str]:
    """Test functions without an assertion, an expected error or a helper that checks."""
    offenders = []
    for node in file.nodes:
        if not (isinstance(node, ast.FunctionDef) and node.name.startswith("test_")):
            continue
        calls = {
            ast.unparse(call.func).rpartition(".")[2]
            for call in ast.walk(node)
            if isinstance(call, ast.Call)
        }
        checks = {
            name
            for name in calls
            if name.lstrip("_").startswith(("assert", "check", "raises", "fail"))
        }
        if not checks and not any(isinstance(leaf, ast.Assert) for leaf in ast.walk(node)):
            offenders.append(f"{file.name}:{node.lineno}: {node.name} asserts nothing")
    return offenders


def test_every_test_folder_is_a_package() -> None:
    offenders = folders_without_init(ROOT / "tests")
    assert not offenders, report(offenders)


def test_every_test_can_fail() -> None:
    offenders = [line for file in python_files("tests") for line in unable_to_fail(file)]
    assert not offenders, report(offenders)


def test_planted_violations_are_found(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/test_x.py").write_text("")
    (tmp_path / "__init__.py").write_text("")
    assert folders_without_init(tmp_path) == [str(tmp_path / "deep")]
    text = "def test_a():\n    f()\ndef test_b():\n    assert f()\ndef test_c():\n    check_it()\n"
    offenders = unable_to_fail(SourceFile("tests/test_planted.py", text))
    assert len(offenders) == 1 and "test_a" in offenders[0]
