"""What policy tests look at: the repository's own files, parsed once."""

from __future__ import annotations

import ast
import functools
import subprocess
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CODE_FOLDERS = ("src", "tests", "benchmarks", "docs", ".ci")


@dataclass(frozen=True)
class SourceFile:
    """One Python file; `name` is its path in the repository."""

    name: str
    text: str

    @functools.cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, self.name)

    @functools.cached_property
    def nodes(self) -> tuple[ast.AST, ...]:
        """All of the tree: several rules look at each, and walking takes longer than looking."""
        return tuple(ast.walk(self.tree))

    @property
    def module(self) -> str:
        """whorl.core.records for src/whorl/core/records.py; "" outside src/."""
        path = Path(self.name)
        if path.parts[0] != "src":
            return ""
        return ".".join(path.with_suffix("").parts[1:]).removesuffix(".__init__")


@functools.cache
def python_files(*folders: str) -> tuple[SourceFile, ...]:
    """Every Python file below the folders (all of ours by default), in a fixed order."""
    found: list[SourceFile] = []
    for folder in folders or CODE_FOLDERS:
        found += map(_source_file, sorted((ROOT / folder).rglob("*.py")))
    return tuple(found)


@functools.cache
def _source_file(path: Path) -> SourceFile:
    """The same object for every rule that looks at it."""
    return SourceFile(str(path.relative_to(ROOT)), path.read_text("utf-8"))


@functools.cache
def repository_files() -> tuple[Path, ...]:
    """Every file that is tracked or could be (not ignored), of a git checkout."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listing = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True)
    paths = (ROOT / name for name in sorted(set(listing.stdout.split("\0"))) if name)
    return tuple(path for path in paths if path.is_file() and not path.is_symlink())


def dotted_name(node: ast.expr) -> str:
    """torch.load for the call's function; "" when it is not a plain name."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (base := dotted_name(node.value)):
        return f"{base}.{node.attr}"
    return ""


def report(offenders: list[str]) -> str:
    """All offenders at once, one a line."""
    return f"{len(offenders)} offenders:\n" + "\n".join(offenders)
