"""`whorl new`: what was asked for is what the recipe loads as, and nothing is lost by a refusal."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from whorl.cli.main import build_app
from whorl.core.errors import BusyError, MissingExtra, SpecError
from whorl.spec.load import load_recipe

RUN = CliRunner()
APP = build_app("new")
ODD_NAMES = ["no", "on", "null", "123", "1e3", "2024-01-01", "0x1f", "1_000", "y", "a" * 64, "0"]
SUFFIXES = [
    *("rs", "ts", "tsx", "js", "go", "java", "c", "cpp", "rb", "kt", "cs", "jl", "py", "sh", "sql")
]
ODD_DATA = [
    *("2024", "*.txt", "notes/*.txt", "no", "-", ".", "./notes", "notes/note-00[01].txt", "a: b"),
    *('say "hi"', "C:\\texts\\new", "two words", "it's", "ünï/", "#1", "a #1", "~", "~/notes"),
    *("{x}", "[x]", "@home", "%20", "!important", "&a", "*a", "`x`", "|", ">", "? x", "- x", ": x"),
    *(
        "a,b",
        "a\nb",
        "\ttab",
        " leading",
        "trailing ",
        "👩‍🚒.txt",
        "x" * 3000,
        "true",
        "null",
        "0x1f",
    ),
    *("\x85", "\u2028", "a\u200bb", "\ufeffx", "\x7f", "10:30", "1e3", "=", "<<", "---", "..."),
]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def new(*arguments: str) -> Any:
    """The exception it ended in, None if it did not."""
    result = RUN.invoke(APP, ["new", *arguments])
    return None if result.exit_code == 0 else result.exception


def check_written(name: str, data: str, field: str) -> None:
    recipe = load_recipe(Path(f"{name}.yaml")).recipe
    assert (recipe.name, recipe.data[0].source, recipe.data[0].field) == (name, data, field)
    plain = yaml.safe_load(Path(f"{name}.yaml").read_text("utf-8"))  # as any reader of YAML 1.1
    assert (plain["name"], plain["data"][0]["source"]) == (name, data)
    assert recipe.budget.train_time == 120


@pytest.mark.parametrize("name", ODD_NAMES)
def test_names_that_yaml_takes_for_something_else(name: str) -> None:
    assert new(name, "--data", "notes/", "--field", "text") is None
    check_written(name, "notes/", "text")


@pytest.mark.parametrize("data", ODD_DATA)
def test_data_with_signs_of_yaml(data: str) -> None:
    assert new("mine", f"--data={data}", "--field", "text") is None
    check_written("mine", data, "text")


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.text(st.sampled_from("abnoy019._-AÄ \n/"), max_size=70),
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40),
    st.sampled_from(["text", "code", "digits", "txet", "", "no"]),
)
def test_what_was_asked_for_is_what_is_loaded(name: str, data: str, field: str) -> None:
    for path in Path().glob("*.yaml"):
        path.unlink()
    error = new(f"--data={data}", f"--field={field}", "--", name)
    is_name = re.fullmatch("[a-z0-9][a-z0-9._-]{0,63}", name) is not None
    if is_name and data and field in ("text", "code", "digits", ""):
        assert error is None
        check_written(name, data, field or load_recipe(Path(f"{name}.yaml")).recipe.data[0].field)
    else:
        assert isinstance(error, SpecError)
        assert not list(Path().glob("*.yaml"))


@pytest.mark.parametrize(
    "bad", [["--train-time=5"], ["--train-time=5min}, x: {"], ["--field=txet"], ["--data="]]
)
def test_a_refused_overwrite_keeps_the_old_recipe(bad: list[str]) -> None:
    Path("mine.yaml").write_text("an evening of work\n")
    assert isinstance(new("mine", "--force", *bad), SpecError)
    assert Path("mine.yaml").read_text() == "an evening of work\n"
    assert [path.name for path in Path().iterdir()] == ["mine.yaml"]
    assert isinstance(new("mine"), BusyError)
    assert new("mine", "--force") is None
    check_written("mine", "stdlib", "code")


def test_a_folder_of_the_recipes_name() -> None:
    Path("mine.yaml").mkdir()
    assert isinstance(new("mine", "--force"), BusyError)


def test_whether_the_data_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "notes").mkdir()
    for number in range(3):
        (tmp_path / "notes" / f"n-00{number}.txt").write_text("words\n")
    there = ["notes", "notes/", f"{tmp_path}/notes/*.txt", "notes/**.txt", "**/*.txt", "~/notes"]
    there += ["notes/n-00?.txt", "notes/n-00[01].txt", str(tmp_path), ".", "hf:owner/name"]
    for data in there:
        result = RUN.invoke(APP, ["new", "mine", "--force", "--data", data])
        assert result.exit_code == 0 and "does not exist" not in result.output, data
    for data in ("typo/", "notes/*.md", f"{tmp_path}/none/*.txt", "~/none"):
        result = RUN.invoke(APP, ["new", "mine", "--force", "--data", data])
        assert result.exit_code == 0 and "does not exist" in result.output, data


@pytest.mark.parametrize(
    ("name", "content", "field", "first"),
    [
        ("a.txt", b"a story of some words\n", "text", "next: whorl plan mine.yaml"),
        ("a.txt", b"", "text", "next: mend a.txt, or correct data in mine.yaml"),
        ("a.jsonl", b'{"other": 1}\n', "text", "next: mend a.jsonl, or correct data"),
        ("a.pgn", b"1. e4 Ke4 *\n", "chess", "next: mend a.pgn, or correct data"),
        ("a.bin", b"\0\1", "text", "next: mend a.bin, or correct data"),
        ("typo", None, "text", "next: put your data at typo, which does not exist yet"),
    ],
)
def test_what_is_next_depends_on_the_data(
    name: str, content: bytes | None, field: str, first: str
) -> None:
    if field == "chess":
        pytest.importorskip("chess", reason="needs the extra chess")
    if content is not None:
        Path(name).write_bytes(content)
    found = RUN.invoke(APP, ["new", "mine", "--data", name, "--field", field])
    assert found.exit_code == 0, found.output
    assert found.output.splitlines()[-1].startswith(first)


def put(files: dict[str, bytes]) -> None:
    for name, content in files.items():
        path = Path("mine", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


PNG, WAV = b"\x89PNG\r\n", b"RIFF"  # none is opened to know what it is


@pytest.mark.parametrize(
    ("files", "field"),
    [
        ({"labels.csv": b"path,label\n1.png,cat\n", "1.png": PNG}, "images"),
        ({"labels.jsonl": b'{"path": "1.png", "label": "a"}\n', "1.png": PNG}, "images"),
        ({"README.md": b"photos\n", "cat/1.png": PNG, "cat/2.png": PNG}, "images"),
        ({"1.png": PNG, "1.txt": b"a line\n"}, "ocr"),
        ({"lines.tsv": b"path\ttext\n1.png\ta line\n", "1.png": PNG}, "ocr"),
        ({"a.json": b'{"images": [], "annotations": []}', "1.jpg": PNG}, "boxes"),
        ({"metadata.csv": b"1|a word|a word\n", "wavs/1.wav": WAV}, "speech"),
        ({"1.flac": WAV, "1.txt": b"a word\n"}, "speech"),
        ({"logo.png": PNG, "1.txt": b"a\n", "2.txt": b"b\n"}, "text"),
        ({"rows.csv": b"age,income,class\n3,4,a\n"}, "table"),
        ({"rows.tsv": b"text\tlabel\nso good\tyes\n"}, "labels"),
        ({"rows.csv": b"userId,movieId,rating,timestamp\n1,2,3,4\n"}, "interactions"),
        ({"rows.csv": b"fen,move\nx,e2e4\n"}, "chess"),
        ({"rows.tsv": b"en\tes\na house\tuna casa\n"}, "translation"),
        ({"rows.tsv": b"x1\tab\tq\n3\t4\t5\n"}, "table"),
        ({"rows.csv": b"x,yy,zz\n1,2,3\n"}, "table"),
        ({"rows.csv": b"pH,Na,Cl\n7.1,3.2,1\n"}, "table"),  # na is Nauru's, cl nobody's
        ({"rows.csv": b"id,no\n1,2\n"}, "table"),  # codes of languages, and no texts
        ({"rows.csv": b"de,en\nein Haus,a house\n"}, "translation"),
        ({"rows.jsonl": b'{"observations": [[1]], "actions": ["up"]}\n'}, "episodes"),
        ({"rows.jsonl": b'{"text": "a story", "url": "x"}\n'}, "text"),
        ({"rows.csv": b"id,title,content\n1,a,b\n"}, "text"),
        ({"rows.csv": b"\xff\xfe\0\n"}, "text"),
    ],
)
def test_lists_belong_to_what_they_name_and_rows_are_known_by_columns(
    files: dict[str, bytes], field: str
) -> None:
    put(files)
    assert new("mine", "--data", "mine") is None
    assert load_recipe(Path("mine.yaml")).recipe.data[0].field == field


def test_a_made_source_is_of_its_field() -> None:
    for data, field in (("gymnasium:minigrid:A-v0", "episodes"), ("stockfish:games", "chess")):
        assert new("mine", "--force", "--data", data) is None
        assert load_recipe(Path("mine.yaml")).recipe.data[0].field == field


def test_rows_that_nobody_here_can_read_are_not_taken_for_text(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    put({"rows.parquet": b"PAR1"})
    monkeypatch.setitem(sys.modules, "pyarrow", None)  # as if it were not installed
    error = new("mine", "--data", "mine")
    assert isinstance(error, MissingExtra) and not Path("mine.yaml").exists()
    assert str(error.do).startswith("pip install 'whorl[parquet]', or say what it is: --field")


def test_parquet_is_known_by_its_columns() -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    Path("mine").mkdir()
    rows = pyarrow.table({"height": [1.5, 2.5], "kind": ["a", "b"]})
    parquet.write_table(rows, "mine/rows.parquet")
    assert new("mine", "--data", "mine") is None
    assert load_recipe(Path("mine.yaml")).recipe.data[0].field == "table"


@pytest.mark.parametrize(
    ("name", "field", "package", "extra"),
    [("a.pgn", "chess", "chess", "chess"), ("a.parquet", "text", "pyarrow", "parquet")],
)
def test_data_that_needs_a_package_is_not_told_as_bad(
    monkeypatch: pytest.MonkeyPatch, name: str, field: str, package: str, extra: str
) -> None:
    Path(name).write_bytes(b"whatever stands in it")
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    found = RUN.invoke(APP, ["new", "mine", "--data", name, "--field", field])
    assert found.exit_code == 0, found.output
    last = found.output.splitlines()[-1]
    assert last.startswith(f"next: pip install 'whorl[{extra}]'; then whorl plan mine.yaml")
    assert "mend" not in found.output


@pytest.mark.parametrize(
    ("files", "field"),
    [
        *((["README.md", *(f"src/m{n}.{end}" for n in range(5))], "code") for end in SUFFIXES),
        (["1.TXT", "2.TXT", "3.Txt", "m.py"], "text"),
        (["1.txt.gz", "2.md.zst", "3.rst", "m.py"], "text"),
        (["A.PY", "B.RS", "c.txt"], "code"),
        (["rows.jsonl", "rows.csv", "convert.py"], "text"),
        ([".git/a.py", ".git/b.py", "notes.txt"], "text"),
        ([], "text"),
    ],
)
def test_the_field_is_guessed_from_what_is_there(files: list[str], field: str) -> None:
    for name in files:
        path = Path("data", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("words\n")
    Path("data").mkdir(exist_ok=True)
    assert new("mine", "--data", "data") is None
    assert load_recipe(Path("mine.yaml")).recipe.data[0].field == field
    if files and not any(name.startswith(".") for name in files):
        assert new("globbed", "--data", "data/**") is None
        assert load_recipe(Path("globbed.yaml")).recipe.data[0].field == field


@pytest.mark.parametrize(
    ("name", "text", "field", "option"),
    [
        ("rows.csv", "size,kind\n1,a\n2,b\n", "table", 'target: ""'),
        ("pairs.tsv", "en\tes\nhouse\tcasa\n", "translation", 'languages: ""'),
        ("notes.txt", "words\n", "text", ""),
    ],
)
def test_the_field_is_told_and_the_recipe_shows_its_options(
    name: str, text: str, field: str, option: str
) -> None:
    Path(name).write_text(text)
    result = RUN.invoke(APP, ["new", "mine", "--data", name])
    assert f"wrote mine.yaml: field {field}, guessed from the data" in result.output
    check_written("mine", name, field)
    written = Path("mine.yaml").read_text("utf-8")
    assert option in written and ("options: {…}" in written) == bool(option)
    assert ("heldout_share" in written) == (field == "text")  # the others hold out themselves
    assert max(map(len, written.splitlines())) <= 100
    if field == "table":  # another field's
        said = RUN.invoke(APP, ["new", "mine3", "--data", name, "--field", "translation"]).output
        assert "row without two languages" in said and "another field's" in said
    said = RUN.invoke(APP, ["new", "mine2", "--data", name, "--field", field]).output
    assert f"wrote mine2.yaml: field {field}\n" in said
