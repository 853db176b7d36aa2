"""Every module with public names lists them in `__all__`, and lists nothing that is not there."""

from __future__ import annotations

import ast

import pytest

from tests.policy.conftest import SourceFile, python_files, report


def top_level_names(tree: ast.Module) -> tuple[set[str], set[str]]:
    """(names defined here, names imported here) at the top level, in `if` and `try` too."""
    defined: set[str] = set()
    imported: set[str] = set()
    pending: list[ast.stmt] = list(tree.body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            defined.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            inside = (leaf for target in targets for leaf in ast.walk(target))
            defined |= {leaf.id for leaf in inside if isinstance(leaf, ast.Name)}
        elif isinstance(node, ast.Import | ast.ImportFrom):
            imported |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.If | ast.Try):
            pending += node.body + node.orelse
            pending += [line for handler in getattr(node, "handlers", []) for line in handler.body]
    return defined, imported


def exported_names(tree: ast.Module) -> list[str] | None:
    """The literal `__all__`; None if there is none."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return list(ast.literal_eval(node.value))
    return None


def offenders_of(file: SourceFile) -> list[str]:
    defined, imported = top_level_names(file.tree)
    exported = exported_names(file.tree)
    if exported is None:
        public = sorted(name for name in defined if not name.startswith("_"))
        return [f"{file.name}: no __all__; public names: {', '.join(public)}"] if public else []
    missing = sorted(set(exported) - defined - imported)
    offenders = [f"{file.name}: __all__ lists {name}, which is not there" for name in missing]
    if len(set(exported)) < len(exported):
        offenders.append(f"{file.name}: __all__ lists a name twice")
    return offenders


def test_exports_are_listed_and_exist() -> None:
    offenders = [line for file in python_files("src") for line in offenders_of(file)]
    assert not offenders, report(offenders)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("def f(): ...", "no __all__; public names: f"),
        ("if True:\n    LIMIT: int = 3", "no __all__; public names: LIMIT"),
        ("__all__ = ['f', 'g']\ndef f(): ...", "lists g"),
        ("__all__ = ['f', 'f']\ndef f(): ...", "twice"),
    ],
)
def test_planted_violation_is_found(text: str, reason: str) -> None:
    offenders = offenders_of(SourceFile("src/whorl/core/planted.py", text))
    assert len(offenders) == 1 and reason in offenders[0]


@pytest.mark.parametrize(
    "text",
    ["", "import os\ndef _f(): ...", "from a import b as c\n__all__ = ['c', 'D']\nclass D: ..."],
)
def test_good_modules_pass(text: str) -> None:
    assert not offenders_of(SourceFile("src/whorl/core/good.py", text))
