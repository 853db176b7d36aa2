"""Keys of a data entry: the encoding, and the key of the text beside or in the options."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from whorl.core.errors import SpecError
from whorl.core.ports import Source
from whorl.spec.load import load_recipe, parse_recipe
from whorl.stages.prepare.facts import releases_of
from whorl.wiring.data import fields_of, sources_of


def source_of(home: Path, entry: dict[str, Any]) -> Source:
    loaded = parse_recipe({"name": "t", "data": [{"source": "x", **entry}]})
    (source,) = sources_of(loaded, fields_of(loaded), home, print)
    return source


def test_an_entry_reaches_its_source(tmp_path: Path) -> None:
    source = source_of(tmp_path, {"encoding": "Shift-JIS", "text_key": "a.b"})
    assert source.encoding == "Shift-JIS" and source.options == {"text_key": "a.b"}
    assert str(tmp_path) in source.apart
    assert source_of(tmp_path, {"options": {"text_key": "c"}}).options == {"text_key": "c"}
    plain = source_of(tmp_path, {"encoding": None, "text_key": None})
    assert plain.encoding == "" and plain.options == {"text_key": "text"}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"encoding": "latin-11"}, r"data\.0\.encoding.*'latin-11'.*did you mean latin-1"),
        ({"encoding": "rot13"}, r"data\.0\.encoding.*'rot13'"),
        ({"encoding": 8}, r"data\.0\.encoding"),
        ({"text_key": "a", "options": {"text_key": "b"}}, "two keys of the text.*a, .*b"),
        ({"field": "digits", "text_key": "a"}, "field digits has no such option"),
    ],
)
def test_wrong_entries_are_refused(tmp_path: Path, entry: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        source_of(tmp_path, entry)


def test_sources_that_an_option_names_are_found_like_the_first(tmp_path: Path) -> None:
    """Several between blanks, where they lie; of a field that says which options are sources."""
    recipe = {
        "name": "lines",
        "data": [{"source": "a.txt", "field": "ocr", "options": {"fonts": "one/*.ttf two"}}],
        "budget": {"train_time": "1min"},
    }
    path = tmp_path / "lines.yaml"
    path.write_text(json.dumps(recipe))
    loaded = load_recipe(path)
    (source,) = sources_of(loaded, fields_of(loaded), tmp_path / "home", print)
    found = [other.path for other in source.others["fonts"]]
    assert found == [str(tmp_path / "one/*.ttf"), str(tmp_path / "two")]
    assert releases_of([source]) == [] and source.path == str(tmp_path / "a.txt")
    release = {"scheme": "debian", "version": "1"}
    fetched = replace(source.others["fonts"][0], release=release)
    assert releases_of([replace(source, others={"fonts": (fetched,)})]) == [release]
