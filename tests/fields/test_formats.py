"""Tables: csv, tsv and parquet, beside what wrote them."""

from __future__ import annotations

import csv
import gzip
import io
import re
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from whorl.core.errors import MissingExtra, SpecError
from whorl.core.ports import Source
from whorl.core.sources import FileItem
from whorl.fields.base import options_of
from whorl.fields.code import FIELD as CODE
from whorl.fields.digits import FIELD as DIGITS
from whorl.fields.files import text_items
from whorl.fields.formats import rows_of
from whorl.fields.text import FIELD as TEXT
from whorl.stages.prepare.facts import text_bytes

ROWS = [
    {"id": "1", "body": "plain"},
    {"id": "2", "body": 'with, "quotes"\nand\r\nlines'},
    {"id": "3", "body": "ünïcode 三"},
    {"id": "4", "body": ""},
]


def written(delimiter: str = ",", encoding: str = "utf-8") -> bytes:
    table = io.StringIO(newline="")
    writer = csv.DictWriter(table, ["id", "body"], delimiter=delimiter)
    writer.writeheader()
    writer.writerows(ROWS)
    return table.getvalue().encode(encoding)


def read(path: Path, key: str = "body") -> tuple[dict[str, str | None], list[str]]:
    source, rejected = Source(str(path), "text", options={"text_key": key}), list[str]()
    found = [d for item in TEXT.items(source) for d in TEXT.read(source, item, rejected.append)]
    return {document.name: document.text for document in found}, rejected


def only(path: Path) -> FileItem:
    (item,) = text_items(Source(str(path), "text"))
    return item


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "bom.csv", "t.csv.gz", "t.parquet"])
def test_tables_give_what_was_written(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name.endswith("parquet"):
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path, row_group_size=3)
    else:
        data = written("\t" if "tsv" in name else ",", "utf-8-sig" if "bom" in name else "utf-8")
        path.write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    texts, rejected = read(path)
    assert texts == {f"{name}@{n}": row["body"] for n, row in enumerate(ROWS[:3])}
    assert rejected == ["empty"]
    assert read(path, "text") == ({}, ["no key text"]), "once for the file, not for each row"
    rows = [row for _, row in rows_of(only(path), ["id", "body"], pytest.fail)]
    assert rows == ROWS


@pytest.mark.parametrize(
    ("table", "texts", "reasons"),
    [
        (b"body,id\na,1\nb\nc,3\n", ["a", "c"], ["row with more or fewer values than columns"]),
        (b"body,body\na,1\n", [], ["two columns of one name"]),
        (b'body,id\na,1\n"b"x,2\n', ["a"], ["not CSV from some row on"]),
        (b"body,id\na,1\n\xff,2\n", ["a"], ["not UTF-8, from some row on"]),
        (b"body,id\n\na,1\n\n", ["a"], []),
        (b'body,id\ra,1\r"b\rc",2\r', ["a", "b\rc"], []),
        (b"\n", [], ["no key body"]),
        (b"id;body\n1;a, b\n2;c\n", ["a, b", "c"], []),
        (b"id|body\n1|a;b\n", ["a;b"], []),
        (b'"x, y";"body"\n1;"a, b"\n', ["a, b"], []),
        (b"id\tbody\n1\ta\n", ["a"], []),
        (b"body;x,id\na,1\n", [], ["row with more or fewer values than columns"]),
    ],
)
def test_damaged_tables(tmp_path: Path, table: bytes, texts: list[str], reasons: list[str]) -> None:
    (tmp_path / "t.csv").write_bytes(table)
    found, rejected = read(tmp_path / "t.csv")
    assert (list(found.values()), rejected) == (texts, reasons)


def test_damaged_and_wrong_parquet(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    table = pyarrow.Table.from_pylist([{"body": 7}, {"body": 8}])
    pyarrow.parquet.write_table(table, path)
    assert read(path) == ({}, ["body is not a text"] * 2)
    path.write_bytes(path.read_bytes()[:-9])
    assert read(path) == ({}, ["damaged parquet file"])


def test_parquet_whose_schema_is_damaged(tmp_path: Path) -> None:
    """One letter after another of the schema in its footer; pyarrow says which are not for it."""
    path = tmp_path / "t.parquet"
    bodies = pyarrow.array(["a", "b"]).dictionary_encode()
    pyarrow.parquet.write_table(pyarrow.table({"body": bodies}), path, compression="none")
    whole = path.read_bytes()
    schema = re.compile(rb"ARROW:schema\W+([A-Za-z0-9+/=]{100,})").search(whole)
    assert schema is not None
    num_not_implemented = 0
    for at in range(*schema.span(1)):
        path.write_bytes(whole[:at] + b"C" + whole[at + 1 :])
        try:
            pyarrow.parquet.ParquetFile(path).read()
        except pyarrow.ArrowNotImplementedError:
            num_not_implemented += 1
            assert read(path) == ({}, ["damaged parquet file"])
        except (OSError, ValueError):
            pass
    assert num_not_implemented


def test_a_parquet_bomb_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    texts = pyarrow.array(["0" * 10**6 + str(number) for number in range(200)])
    table = pyarrow.Table.from_arrays([texts], ["body"])
    pyarrow.parquet.write_table(table, path, compression="zstd", use_dictionary=False)
    assert path.stat().st_size * 200 < 2 * 10**8
    assert read(path) == ({}, ["file expands more than 200 times"])


def test_parquet_without_pyarrow_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "t.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    with pytest.raises(MissingExtra, match=r"whorl\[parquet\]"):
        TEXT.items(Source(str(path), "text"))


def test_text_in_tables_is_estimated(tmp_path: Path) -> None:
    """Many rows of several lines; parquet is packed, csv holds a column that is not read."""
    rows = [
        {"body": f"{n:06d} " + "words and\nlines\n" * 200, "other": "y" * 999} for n in range(900)
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "t.parquet")
    with (tmp_path / "t.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["body", "other"])
        writer.writeheader()
        writer.writerows(rows)
    total = sum(len(row["body"]) for row in rows)
    for name, near in (("t.parquet", 0.02), ("t.csv", 0.35)):
        source = Source(str(tmp_path / name), "text", options={"text_key": "body"})
        assert text_bytes({"text": TEXT}, [source]) == pytest.approx(total, rel=near)


def test_tables_in_a_folder_are_text_but_not_code(tmp_path: Path) -> None:
    for name in ("a.txt", "b.csv", "c.py"):
        (tmp_path / name).write_text("text\nx\n")
    for field, names in ((TEXT, ["a.txt", "b.csv"]), (CODE, ["c.py"])):
        items = field.items(Source(str(tmp_path), field.name))
        assert [item.name for item in items if item.is_read] == names


def test_options_are_those_of_the_field() -> None:
    assert options_of(TEXT, {}) == {"text_key": "text"}
    assert options_of(CODE, {"text_key": "content"}) == {"text_key": "content"}
    with pytest.raises(
        SpecError, match=r"data\.options\.text_kee: field text .*did you mean text_key"
    ):
        options_of(TEXT, {"text_kee": "x"})
    with pytest.raises(SpecError, match="field digits has no such option"):
        options_of(DIGITS, {"text_key": "x"})
