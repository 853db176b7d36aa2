"""What fields remember of sources, so that they are not read again, is forgotten by a training."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

import pytest

from whorl import fields
from whorl.core import memory

# Of what is installed, a line of text each: nothing of a source.
OF_PROGRAMS = {("digits", "_identity"), ("stockfish", "identity")}
MODULES = [found.name for found in pkgutil.iter_modules(fields.__path__)]


def cached(module: str) -> dict[str, Any]:
    """The dicts that a module fills, and its functions that remember what they gave."""
    try:
        loaded = vars(importlib.import_module(f"whorl.fields.{module}"))
    except ImportError as error:
        pytest.skip(f"needs an extra: {error}")
    filled = {name: value for name, value in loaded.items() if isinstance(value, dict)}
    filled = {name: value for name, value in filled.items() if name[0] == "_" != name[1]}
    functions = {name: each for name, each in loaded.items() if hasattr(each, "cache_clear")}
    mine = {n: e for n, e in functions.items() if e.__module__ == f"whorl.fields.{module}"}
    return {**filled, **{n: e for n, e in mine.items() if (module, n) not in OF_PROGRAMS}}


@pytest.mark.parametrize("module", MODULES)
def test_what_sources_were_read_for_is_forgotten(module: str) -> None:
    caches = cached(module)
    filled = {name: each for name, each in caches.items() if isinstance(each, dict)}
    for each in filled.values():
        each["a source",] = "what was found of it"
    memory.give_back()
    assert not [name for name, each in filled.items() if each]
    functions = {name: each for name, each in caches.items() if name not in filled}
    assert not [n for n, each in functions.items() if each.cache_clear not in memory.FORGET]


def test_the_caches_are_found() -> None:
    assert {"_KNOWN", "_READING"} <= cached("speech_files").keys()
    assert {"_read_idx"} <= cached("image_idx").keys()
