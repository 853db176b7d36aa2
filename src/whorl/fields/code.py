"""Source code: the standard library of the Python that runs, or a tree of source files."""

from __future__ import annotations

import ast
import codeop
import sysconfig
import textwrap
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from whorl.core.ports import Source, Task
from whorl.core.tasks import LikelihoodTask
from whorl.fields.files import EXCLUDED, JSONL_SUFFIXES, text_items
from whorl.fields.text import TextField

__all__ = ["FIELD", "STDLIB", "CodeField", "is_python_so_far"]

STDLIB = "stdlib"
OTHERS_FOLDERS = ("site-packages", "dist-packages")  # installed beside the standard library
CODE_SUFFIXES = (
    *(".py", ".pyi", ".c", ".h", ".cc", ".cpp", ".hpp", ".cu", ".rs", ".go", ".java", ".kt"),
    *(".js", ".jsx", ".ts", ".tsx", ".rb", ".php", ".swift", ".scala", ".lua", ".jl", ".r"),
    *(".sh", ".sql", ".hs", ".ml", ".ex", ".erl", ".cs", ".pl", ".zig"),
)
MAX_CUT_LINES = 200  # of an unfinished statement at the end of a completion


PROMPTS = (
    'def read_lines(path):\n    """Return the lines of a file without line ends."""\n',
    "class Stack:\n    def __init__(self):\n",
    "import os\nimport sys\n\n\ndef main(argv=None):\n",
    "class SortedTest(unittest.TestCase):\n    def test_empty(self):\n",
    "def parse_date(text):\n    try:\n",
)
CHECKER = "ast.parse up to the last whole statement"


@dataclass(frozen=True)
class CodeField(TextField):
    """As text; samples are checked with Python's own parser."""

    name: str = "code"
    logic_version: int = 2  # as that of text
    task: Task = field(
        default_factory=lambda: LikelihoodTask(
            prompts=PROMPTS, checker=CHECKER, check=is_python_so_far
        )
    )

    def items(self, source: Source) -> list[Any]:
        """Source files, or those of the standard library for the source `stdlib`."""
        exclude = (*EXCLUDED, *OTHERS_FOLDERS)
        if source.source == STDLIB:
            return list(text_items(_stdlib(source), (".py",), exclude, JSONL_SUFFIXES))
        return list(text_items(source, CODE_SUFFIXES, exclude, JSONL_SUFFIXES))


def is_python_so_far(prompt: str, completion: str) -> bool:
    """Whether ast.parse accepts the prompt and the completion up to its last whole statement.

    A completion ends where its tokens ran out, so its last line is left out unless everything
    parses with it. If the rest does not parse, what is left out may grow to the beginning of the
    statement that is unfinished there (an open bracket, string or block), but only if Python
    calls it incomplete, not wrong. Something written by the model must remain: at least one
    whole line that is not blank.
    """
    text = prompt + completion
    if "\n" in completion.strip("\n") and _parses(text):
        return True
    lines = text.split("\n")
    first = prompt.count("\n")  # the line in which the completion begins
    for end in range(len(lines) - 1, max(first, len(lines) - 1 - MAX_CUT_LINES), -1):
        added = "\n".join(lines[first:end]).removeprefix(prompt.rpartition("\n")[2])
        if not added.strip():
            return False
        if _parses("\n".join(lines[:end])) and _is_unfinished(lines[end:-1]):
            return True
    return False


def _parses(text: str) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # such as invalid escapes in what a model wrote
        try:
            ast.parse(text)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return False
    return True


def _is_unfinished(lines: Sequence[str]) -> bool:
    """Whether whole lines are the beginning of a statement; no lines are."""
    if not any(line.strip() for line in lines):
        return True
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            command = codeop.compile_command(textwrap.dedent("\n".join(lines)), symbol="exec")
        except (SyntaxError, ValueError, OverflowError, RecursionError, MemoryError):
            return False
    return command is None


def _stdlib(source: Source) -> Source:
    return replace(source, source=sysconfig.get_path("stdlib"))


FIELD = CodeField()
