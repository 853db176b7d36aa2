"""Imports go downwards only, and no stage imports another stage (docs/structure.md)."""

from __future__ import annotations

import ast

import pytest

from tests.policy.conftest import SourceFile, dotted_name, python_files, report

# core < spec, arch, codecs < model < stages < engines, fields, schemes, launch < verbs < cli
LAYERS = (
    ("core",),
    ("spec", "arch", "codecs"),
    ("model",),
    ("stages",),
    ("engines", "fields", "schemes", "launch", "testing", "torture"),
    ("wiring",),
    ("servable",),
    ("serving", "planning_serving"),
    ("planning",),
    ("verbs",),
    ("ladders", "asking"),
    ("cli", "studio", ""),
)
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
FREE_FOR_ALL = frozenset({"whorl.__version__"})


def area_of(module: str) -> str:
    """The package a rule speaks of: "core", "stages.train", "verbs"; "" for whorl itself."""
    parts = module.replace("whorl.__main__", "whorl.cli").split(".")[1:]
    if parts[:1] == ["stages"]:
        return ".".join(parts[:2])
    if parts and parts[0] not in RANK:
        return parts[0] if len(parts) > 1 else ""
    return parts[0] if parts else ""


def imported_modules(file: SourceFile) -> list[tuple[int, str]]:
    """(line, absolute name) of every import of whorl, lazy and type-checking ones too."""
    found: list[tuple[int, str]] = []
    package = file.module if file.name.endswith("__init__.py") else file.module.rpartition(".")[0]
    for node in file.nodes:
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, base]).rstrip(".")
            found += [(node.lineno, f"{base}.{alias.name}") for alias in node.names]
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            name = dotted_name(node.func).rpartition(".")[2]
            if name in ("import_module", "__import__") and isinstance(node.args[0].value, str):
                found.append((node.lineno, node.args[0].value))
    return [item for item in found if item[1] == "whorl" or item[1].startswith("whorl.")]


def import_offenders(file: SourceFile) -> list[str]:
    """Imports of a source file that break the rule."""
    offenders = []
    own = area_of(file.module)
    for line, target in imported_modules(file):
        other = area_of(target)
        if other == own or target in FREE_FOR_ALL:
            continue
        own_rank, other_rank = (RANK.get(area.partition(".")[0], -1) for area in (own, other))
        where = f"{file.name}:{line}: {own or 'whorl'} imports {target}"
        if own_rank < 0 or other_rank < 0:
            offenders.append(f"{where}; add the package to LAYERS")
        elif own.startswith("stages.") and other.startswith("stages."):
            offenders.append(f"{where}; no stage imports another stage: read its record")
        elif other == "testing":
            offenders.append(f"{where}; only tests may import fakes")
        elif other_rank >= own_rank:
            offenders.append(f"{where}; imports only go downwards")
    return offenders


def test_imports_go_downwards() -> None:
    offenders = [line for file in python_files("src") for line in import_offenders(file)]
    assert not offenders, report(offenders)


PLANTED = [
    ("stages/train/loop.py", "from whorl.stages.prepare.rows import Row", "no stage imports"),
    ("stages/train/loop.py", "from whorl.stages import plan", "no stage imports"),
    ("stages/train/loop.py", "from ..prepare import rows", "no stage imports"),
    ("stages/train/loop.py", "import whorl.stages.prepare.rows as r", "no stage imports"),
    ("core/rows.py", "if TYPE_CHECKING:\n    from whorl.arch.flops import F", "downwards"),
    ("core/rows.py", "def f():\n    from whorl import verbs", "downwards"),
    ("core/rows.py", "importlib.import_module('whorl.cli.main')", "downwards"),
    ("core/rows.py", "import whorl", "downwards"),
    ("spec/load.py", "from whorl.arch.shape import ModelShape", "downwards"),
    ("verbs.py", "from whorl.cli.main import app", "downwards"),
    ("verbs.py", "from whorl.testing.fakes import FakeEngine", "only tests"),
    ("oddity/thing.py", "from whorl.core import errors", "LAYERS"),
]


@pytest.mark.parametrize(("path", "text", "reason"), PLANTED)
def test_planted_violation_is_found(path: str, text: str, reason: str) -> None:
    offenders = import_offenders(SourceFile(f"src/whorl/{path}", text))
    assert len(offenders) == 1 and reason in offenders[0], offenders


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("stages/train/loop.py", "from whorl.core.records import Record\nimport torch"),
        ("stages/train/loop.py", "from .step import step\nfrom whorl.model import hf"),
        ("engines/openvino.py", "from whorl.stages.compress.export import export"),
        ("verbs.py", "from whorl.stages.plan import run\nfrom whorl.stages.train import run"),
        ("core/records.py", "from whorl import __version__"),
        ("__init__.py", "from whorl import verbs"),
        ("cli/main.py", "from whorl.verbs import Session\nfrom whorl.cli import doctor"),
    ],
)
def test_good_imports_pass(path: str, text: str) -> None:
    assert not import_offenders(SourceFile(f"src/whorl/{path}", text))
