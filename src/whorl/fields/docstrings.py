"""Questions about Python's standard library, answered by its own docstrings.

Every public module, class, function and method whose docstring begins with a paragraph that says
enough is asked about once; whole modules are held out, by a hash of their names alone.
"""

from __future__ import annotations

import ast
import inspect
import re
import sysconfig
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from whorl.codecs.contract import CHAT
from whorl.core.digests import digest_bytes
from whorl.core.ports import Document, Part, Source, Split
from whorl.core.sources import FileItem
from whorl.fields.files import EXCLUDED, file_items
from whorl.fields.formats import texts_of
from whorl.fields.places import Places

__all__ = ["STDLIB_DOCSTRINGS", "docstring_chats", "docstring_items", "split_of"]

STDLIB_DOCSTRINGS = "stdlib-docstrings"
NOT_ASKED = (  # private, tests, and what comes with Python but is no library
    *EXCLUDED,
    *("_*", "test", "tests", "test_*", "site-packages", "dist-packages", "idlelib", "lib2to3"),
    *("turtledemo", "pydoc_data", "ensurepip", "config-*"),
)
HELDOUT_SHARE = 0.1  # of the modules
MIN_SIGNS, MAX_SIGNS = 30, 400  # of an answer; a longer one is not cut but left out
SYSTEM = "Answer questions about Python's standard library."
QUESTIONS = {
    "module": ("What is the module `{name}` for?", "What does the module `{name}` contain?"),
    "class": ("What is `{name}`?", "What is the class `{name}` for?"),
    "function": ("What does `{name}` do?", "How do I use `{name}`?", "Explain `{name}`."),
}
OWNER = re.compile(r"^(self|cls)(, )?(/, )?")  # which nobody writes in a call
Defined = ast.FunctionDef | ast.AsyncFunctionDef


def docstring_items(source: Source) -> Iterator[FileItem]:
    """The modules of the Python that runs."""
    stdlib = replace(source, source=sysconfig.get_path("stdlib"))
    yield from file_items(stdlib, (".py",), NOT_ASKED)


def docstring_chats(item: FileItem, reject: Callable[[str], None]) -> Iterator[Document]:
    """A chat of one question for each thing of a module that says what it is."""
    places = Places.of(item, reject)
    text = "".join(piece for _, piece in texts_of(item, places))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError):
        places.refuse("not Python")
        return
    module = item.name.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
    split = split_of(module)
    for name, node in _definitions(module, tree):
        answer = _answer(name, node)
        places.at(getattr(node, "lineno", 1))
        if not answer:
            continue
        if not MIN_SIGNS <= len(answer) <= MAX_SIGNS:
            size = f"fewer than {MIN_SIGNS}" if len(answer) < MIN_SIGNS else f"over {MAX_SIGNS}"
            places.refuse(f"an answer of {size} signs")
            continue
        yield Document(name, (Part(CHAT, _chat(name, node, answer)),), split)


def split_of(module: str) -> Split:
    """Of a module and all within it, by its outermost name."""
    share = int(digest_bytes(module.partition(".")[0].encode())[:8], 16) / 2**32
    return "heldout" if share < HELDOUT_SHARE else "train"


def _definitions(name: str, node: Any) -> Iterator[tuple[str, Any]]:
    """(full name, node) of a module, and of what is public in it."""
    yield name, node
    seen = set[str]()
    for child in node.body:
        is_asked = isinstance(child, Defined | ast.ClassDef) and not child.name.startswith("_")
        if is_asked and child.name not in seen:
            seen.add(child.name)
            inner = f"{name}.{child.name}"
            if isinstance(child, ast.ClassDef):
                yield from _definitions(inner, child)
            else:
                yield inner, child


def _answer(name: str, node: Any) -> str:
    """The first paragraph of its docstring, and how it is called; "" without a docstring."""
    first = inspect.cleandoc(ast.get_docstring(node) or "").split("\n\n")[0]
    said = " ".join(first.split())
    if said and isinstance(node, Defined):
        return f"{said}\n\n`{name}({OWNER.sub('', ast.unparse(node.args))})`"
    return said


def _chat(name: str, node: Any, answer: str) -> dict[str, Any]:
    kind = {ast.Module: "module", ast.ClassDef: "class"}.get(type(node), "function")
    words = QUESTIONS[kind]
    question = words[int(digest_bytes(name.encode())[:4], 16) % len(words)]
    contents = {"system": SYSTEM, "user": question.format(name=name), "assistant": answer}
    return {"messages": [{"role": role, "content": text} for role, text in contents.items()]}
