"""The text of a recipe: YAML whose scalars are kept as they are written.

What `no`, `1e3`, `2024-01-01` or `0x1f` mean is not YAML's to say: each key reads its own text
(spec/recipe.py). So a name may be `null`, and a rate 2e-5.
"""

from __future__ import annotations

import codecs
from pathlib import Path
from typing import Any

import yaml

from whorl.core.errors import SpecError

__all__ = ["read_file", "read_text"]

MAX_RECIPE_BYTES = 1_000_000
MAX_DEPTH = 20
MAX_VALUES = 100_000  # aliases may multiply: nine lines of them are 9**9 values
TAG = "tag:yaml.org,2002:"
PLAIN_TAGS = {"map", "seq", "str", "int", "float", "bool", "null"}
UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_file(path: Path) -> str:
    """The text of a recipe's file. Raises SpecError that says why it is none."""
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise OSError("it is no ordinary file")
        with path.open("rb") as file:
            data = file.read(MAX_RECIPE_BYTES + 1)
    except (OSError, ValueError) as error:
        found = getattr(error, "strerror", None) or error
        if isinstance(error, IsADirectoryError):
            raise SpecError(
                f"{path} is a folder",
                expected="a recipe file such as my-model.yaml",
                do=f"whorl new NAME --data {path} writes one, if these are your data",
            ) from error
        raise SpecError(
            f"cannot read the recipe {str(path)[:200]}",
            found=found,
            do="whorl new NAME writes a commented one",
        ) from error
    if len(data) > MAX_RECIPE_BYTES:
        raise SpecError(
            f"{path} is not a recipe",
            found=f"more than {MAX_RECIPE_BYTES:,} bytes",
            expected="a few lines of YAML",
        )
    encoding = "utf-16" if data.startswith(UTF16) else "utf-8-sig"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise SpecError(
            f"{path} is not text in UTF-8",
            found=f"byte 0x{data[error.start]:02x} in line {line}",
            do="save it as UTF-8",
        ) from error


def read_text(text: str, where: str) -> tuple[Any, dict[str, str]]:
    """(mappings, lists and texts of YAML; "data.0.source" -> "x.yaml:5"). None if it is empty.

    where: what is read, for errors. Raises SpecError, on duplicate keys and tags too.
    """
    try:
        node = yaml.compose(text, Loader=yaml.BaseLoader)
    except RecursionError as error:
        raise _too_deep(where) from error
    except yaml.YAMLError as error:
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or error
        mark = getattr(error, "problem_mark", None)
        line = "" if mark is None else f":{mark.line + 1}, column {mark.column + 1}"
        raise SpecError(
            f"{where}{line} is not YAML",
            found=problem,
            expected="lines of `key: value`, indented by spaces",
            do="put quotes around a text that has colons, brackets or other signs of YAML",
        ) from error
    reader = _Reader(where)
    return (None if node is None else reader.build(node, "", 0)), reader.lines


def _too_deep(where: str) -> SpecError:
    return SpecError(f"{where} is nested too deeply", expected=f"at most {MAX_DEPTH} levels")


class _Reader:
    """Nodes into plain values, and the line of every dotted key."""

    def __init__(self, where: str) -> None:
        self.where, self.num_values = where, 0
        self.lines: dict[str, str] = {}

    def build(self, node: Any, prefix: str, depth: int) -> Any:
        self.num_values += 1
        if depth > MAX_DEPTH:
            raise _too_deep(self.where)
        if self.num_values > MAX_VALUES:
            raise SpecError(
                f"{self.where} holds too many values",
                found=f"more than {MAX_VALUES:,}, aliases (*name) written out",
                do="write few keys, without aliases",
            )
        if node.tag.removeprefix(TAG) not in PLAIN_TAGS:
            raise SpecError(
                f"{self._line(node)} holds a YAML tag", found=node.tag, expected="plain values"
            )
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, prefix, depth)
        if isinstance(node, yaml.SequenceNode):
            return [
                self.build(child, f"{prefix}{number}.", depth + 1)
                for number, child in enumerate(node.value)
            ]
        return node.value

    def _mapping(self, node: Any, prefix: str, depth: int) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = self._line(key_node)
            if not isinstance(key_node, yaml.ScalarNode):
                raise SpecError(f"{line} has a key that is no text", expected="key: value")
            key = key_node.value
            if key == "<<":
                raise SpecError(f"{line} merges keys (<<)", do="write the keys out")
            if key in result:
                raise SpecError(f"{line} repeats the key {prefix}{key}", do="keep one of them")
            self.lines[f"{prefix}{key}"] = line
            result[key] = self.build(value_node, f"{prefix}{key}.", depth + 1)
        return result

    def _line(self, node: Any) -> str:
        return f"{self.where}:{node.start_mark.line + 1}"
