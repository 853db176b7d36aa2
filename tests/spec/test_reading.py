"""Recipes as people save them: encodings, YAML's own meanings, aliases, tags, nesting."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whorl.core.errors import SpecError
from whorl.spec.load import load_recipe
from whorl.spec.reading import read_text

GOOD = "name: mine\ndata:\n  - {source: notes, field: text}\ntrain:\n  seq_len: 128\n"


@pytest.mark.parametrize(
    "data",
    [
        b"\xef\xbb\xbf" + GOOD.encode(),
        GOOD.replace("\n", "\r\n").encode(),
        GOOD.replace("\n", "\r").encode(),
        f"---\n{GOOD}...\n".encode(),
        GOOD.encode("utf-16"),  # PowerShell's >
        b"\xfe\xff" + GOOD.encode("utf-16-be"),
        (GOOD + "# ünï ✓ 👩‍🚒 \u2028\n").encode(),
        GOOD.rstrip().encode(),
        ("%YAML 1.1\n---\n" + GOOD).encode(),
    ],
)
def test_files_that_are_read(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "my recipe é.yml"
    path.write_bytes(data)
    assert load_recipe(path).recipe.train.seq_len == 128


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "found: nothing"),
        (b"# all commented out\n", "found: nothing"),
        (b"- a\n", "found: a list"),
        (b"just words\n", "found: a text"),
        (GOOD.encode() + b"# \xe9t\xe9\n", "UTF-8; found: byte 0xe9 in line 6"),
        (bytes(range(256)), "UTF-8|not YAML"),
        (b"\0" * 100, "not YAML"),
        (b"\xff\xfe\0", "UTF-8"),
        (b"\x89PNG\r\n\x1a\n" + bytes(200), "UTF-8"),
        (b"name: a\nname: b\n", ":2 repeats the key name"),
        (b"train: {steps: 1, steps: 2}\n", ":1 repeats the key train.steps"),
        (b"name: mine\n\ttrain: 5\n", ":2, column 1 is not YAML"),
        (b"name: [\n", "not YAML"),
        (b"name: a: b\n", ":1, column 8 is not YAML.*quotes"),
        (b"name: !!binary aGVsbG8=\n", ":1 holds a YAML tag.*binary"),
        (b"name: !!python/object/apply:os.system ['true']\n", "YAML tag"),
        (b"when: !!timestamp 2024-01-01\n", "YAML tag"),
        (b"base: &b {steps: 5}\ntrain: {<<: *b}\n", "merges keys"),
        (b"? [a]\n: b\n", "key that is no text"),
        (b"name: *nobody\n", "not YAML.*undefined alias"),
        (b"a: " + b"[" * 60 + b"]" * 60, "nested too deeply"),
        (b"[" * 50_000, "nested too deeply|not YAML"),
        (b"{a: " * 50_000, "nested too deeply|not YAML"),
        (b"a: &a [*a]\n", "nested too deeply"),
        (b"a: &a {b: *a}\n", "nested too deeply"),
        (b"x" * 2_000_000, "more than 1,000,000 bytes"),
    ],
)
def test_files_that_are_not(tmp_path: Path, data: bytes, words: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_bytes(data)
    with pytest.raises(SpecError, match=words) as caught:
        load_recipe(path)
    assert len(str(caught.value).splitlines()) == 1


def test_a_folder_and_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="is a folder"):
        load_recipe(tmp_path)
    with pytest.raises(SpecError, match="whorl new"):
        load_recipe(tmp_path / "none.yaml")
    with pytest.raises(SpecError, match="cannot read"):
        load_recipe(Path("a\0b.yaml"))
    with pytest.raises(SpecError, match="cannot read"):
        load_recipe(Path("x" * 5000))


@pytest.mark.parametrize("kind", ["[{}]", "{{x: {0}, y: {0}, z: {0}}}"])
def test_lines_of_aliases_are_refused_at_once(tmp_path: Path, kind: str) -> None:
    """A billion laughs: each line names the one before it nine times."""
    lines = ["a0: &a0 [" + ",".join("x" * 9) + "]"]
    for number in range(1, 18):
        many = ",".join([f"*a{number - 1}"] * 9)
        inner = kind.format(many if kind.startswith("[") else f"*a{number - 1}")
        lines.append(f"a{number}: &a{number} {inner}")
    path = tmp_path / "bomb.yaml"
    path.write_text("\n".join(lines))
    start_s = time.process_time()
    with pytest.raises(SpecError):
        load_recipe(path)
    assert time.process_time() - start_s < 10


def test_few_aliases_are_no_bomb(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("name: mine\ndata:\n  - &notes {source: a, share: 50%}\n  - *notes\n")
    assert [entry.source for entry in load_recipe(path).recipe.data] == ["a", "a"]


@pytest.mark.parametrize(
    "text", ["no", "on", "null", "~", "123", "1e3", "0x1f", "1_000", "2024-01-01", "10:30", "y"]
)
def test_texts_that_yaml_takes_for_something_else(tmp_path: Path, text: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(f"name: mine\ndata:\n  - source: {text}\n    options: {{text_key: {text}}}\n")
    entry = load_recipe(path).recipe.data[0]
    assert (entry.source, entry.options) == (text, {"text_key": text})
    assert load_recipe(path, [f"data.source={text}.txt"]).recipe.data[0].source == f"{text}.txt"


def test_empty_groups_and_auto_say_nothing(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    plain = "name: mine\ndata: [{source: a}]\n"
    path.write_text(plain)
    wanted = load_recipe(path).recipe
    path.write_text(plain + "train:\n  # steps: 5\nmodel: auto\nhardware: auto\nbudget:\n")
    assert load_recipe(path).recipe == wanted


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        read_text(text, "r.yaml")
    except SpecError as error:
        assert len(str(error).splitlines()) == 1


PLAIN = st.recursive(
    st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufeff")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", min_size=1), inner),
    max_leaves=20,
)


@given(st.dictionaries(st.text("abc", min_size=1), PLAIN))
def test_json_is_read_as_json(value: dict[str, Any]) -> None:
    """JSON of texts is YAML; json is the oracle."""
    assert read_text(json.dumps(value, ensure_ascii=False), "r")[0] == value
