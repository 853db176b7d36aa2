"""Rows of JSON as they are found, beside Python's json, which wrote them."""

from __future__ import annotations

import gzip
import io
import json
import os
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fields.test_files import TRIALS, of_kind, read_all
from whorl.core import streams
from whorl.core.ports import Source
from whorl.core.reasons import Reason, table_rows
from whorl.fields import files, jsonl
from whorl.fields.jsonl import Lenient, is_by_lines

ROWS = [{"text": f"row {n}", "id": n, "tags": [{"a": [1, 2]}, "x, ]}"]} for n in range(9)]
LINES = [json.dumps(row) for row in ROWS]
PRETTY = [json.dumps(row, indent=2) for row in ROWS]

LAYOUTS = {  # how the same rows are written, and how often what is counted for it
    "lines": ("\n".join(LINES), {}),
    "crlf": ("\r\n".join(LINES), {}),
    "blank lines": ("\n\n \n\t\n".join(LINES), {}),
    "a mark before each": ("".join(f"\ufeff{line}\n" for line in LINES), {}),
    "cr": ("\r".join(LINES) + "\r", {"rows ended by CR": 9}),
    "rs": ("".join(f"\x1e{line}\n" for line in LINES), {"RS before a row": 9}),
    "rs alone": ("".join(f"\x1e{line}" for line in LINES), {"RS before a row": 9}),
    "array": (json.dumps(ROWS), {"rows in an array": 9}),
    "array by lines": ("[\n" + ",\n".join(LINES) + "\n]\n", {"comma after a row": 8}),  # as lines
    "indented array": (json.dumps(ROWS, indent=1), {"rows in an array": 9}),
    "array a line": ("\n".join(f"[{line}]" for line in LINES), {"rows in an array": 9}),
    "pretty": ("\n".join(PRETTY), {"rows over several lines": 9}),
    "pretty, crlf": ("\r\n".join(PRETTY).replace("\n", "\r\n"), {"rows over several lines": 9}),
    "pretty, cr": ("\n".join(PRETTY).replace("\n", "\r"), {"rows over several lines": 9}),
    "one line": ("".join(LINES), {}),
    "two a line": (
        "\n".join(a + b for a, b in zip(LINES[::2], [*LINES[1::2], ""], strict=True)),
        {},
    ),
    "commas": (",\n".join(LINES) + ",", {"comma after a row": 9}),
    "nul between": ("\0\n".join(LINES) + "\0\0", {}),
    "last commas": (
        "\n".join(f"{line[:-1]},}}" for line in LINES),
        {"comma after a last value": 9},
    ),
    "nul within": ("\n".join(line.replace(", ", ",\0 ") for line in LINES), None),
}


def written(tmp_path: Path, data: str | bytes, name: str = "a.jsonl") -> Source:
    path = tmp_path / name
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return Source(str(path), "text")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("form", ["", "gz", "utf-16", "utf-32"])
def test_rows_are_read_however_they_stand(tmp_path: Path, layout: str, form: str) -> None:
    text, counted = LAYOUTS[layout]
    data = text.encode() if form in ("", "gz") else text.encode(form)
    source = written(tmp_path, gzip.compress(data) if form == "gz" else data)
    documents, reasons = read_all(source)
    texts = [document.text for document in documents]
    expected = [row["text"] for row in ROWS]
    if layout == "nul within":  # also inside of a text, from which it is taken
        texts = [text.replace("\0", "") for text in texts if text]
    assert texts == expected and not of_kind(reasons, "refused")
    assert len({document.name for document in documents}) == len(ROWS)
    if counted is not None and layout not in ("one line", "two a line", "nul between"):
        assert of_kind(reasons, "mended") == counted


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "lines"])
def test_any_layout_in_small_blocks(layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Text comes in blocks of a few signs, so that every row is cut somewhere."""
    text, _ = LAYOUTS[layout]
    for block in (1, 7, 64):
        monkeypatch.setattr(jsonl, "BLOCK_SIGNS", block)
        stream = io.StringIO(text, newline="")
        found = list(Lenient().rows("", stream.read))
        assert [row.row["text"] for row in found if row.row] == [row["text"] for row in ROWS]


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1" * 5000, "-" + "9" * 99_999])
def test_odd_numbers_do_not_cost_the_text(tmp_path: Path, value: str) -> None:
    rows = [f'{{"id": {value}, "text": "row {n}"}}' for n in range(3)]
    for data in ("\n".join(rows), f"[{','.join(rows)}]"):
        documents, reasons = read_all(written(tmp_path, data))
        assert [document.text for document in documents] == ["row 0", "row 1", "row 2"]
        words = "digits" if value.strip("-").isdigit() else "NaN or Infinity"
        assert sum(n for reason, n in reasons.items() if words in reason) == 3


@pytest.mark.parametrize(
    ("raw", "text", "counted"),
    [
        (r'"a\u0000b"', "ab", "NUL taken out of the text"),
        ('"a\0b"', "ab", "NUL taken out of the text"),
        (r'"a\ud83d b"', "a\ufffd b", "half a sign (lone surrogate) replaced in the text"),
        ('"a\x01b"', "a\x01b", "control signs in JSON"),
        ('"a\tb"', "a\tb", ""),
        (r'"\ud83d\ude00"', "😀", None),
        ('"\u2028\x85"', None, None),
        (r'"\u0000"', None, "NUL taken out of the text"),
    ],
)
def test_odd_signs_do_not_cost_the_text(
    tmp_path: Path, raw: str, text: str | None, counted: str | None
) -> None:
    documents, reasons = read_all(written(tmp_path, f'{{"text": {raw}}}\n{{"text": "good"}}\n'))
    assert [document.text for document in documents] == ([text] if text else []) + ["good"]
    if counted is not None:
        assert not counted or of_kind(reasons, "mended")[counted] == 1
    else:
        assert not of_kind(reasons, "mended")


@pytest.mark.parametrize(
    "bad", ['{"text": "a"', '{"text": a}', '{"text" "a"}', "junk", '{"text": "', "}"]
)
@pytest.mark.parametrize("pretty", [False, True])
def test_a_broken_row_costs_itself_alone(tmp_path: Path, bad: str, pretty: bool) -> None:
    rows = PRETTY if pretty else LINES
    for place in (0, 4, 9):
        text = "\n".join([*rows[:place], bad, *rows[place:]])
        documents, reasons = read_all(written(tmp_path, text))
        assert [document.text for document in documents] == [row["text"] for row in ROWS]
        (refused,) = of_kind(reasons, "refused").items()
        assert refused[1] == 1
        assert isinstance(refused[0], Reason) and refused[0].place is not None
        first = len(rows[0].split("\n")) * place + 1
        assert first <= (refused[0].place.line or 0) <= first + 2


def test_where_a_row_is_broken_is_said(tmp_path: Path) -> None:
    text = json.dumps(ROWS[:2], indent=2).replace('"row 1"', "row 1")
    (row,) = [r for r in table_rows(read_all(written(tmp_path, text))[1]) if r["what"] == "refused"]
    line = next(n for n, line in enumerate(text.split("\n"), 1) if "row 1" in line)
    column = text.split("\n")[line - 1].index("row 1") + 1
    assert row["example"] == f"a.jsonl, line {line}, column {column}"


def test_the_line_of_a_row_in_a_later_part_of_a_long_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "RANGE_BYTES", 100)
    lines = [*LINES * 20, '{"content": "x"}', *LINES, '{"text": 3}']
    source = written(tmp_path, "\n".join(lines))
    assert len(files.text_items(source)) > 20
    documents, reasons = read_all(source)
    assert len(documents) == 189
    assert {row["reason"]: row["example"] for row in table_rows(reasons)} == {
        "no key text": "a.jsonl, line 181",
        "text is not a text": "a.jsonl, line 191",
    }


def test_what_stands_in_many_lines_is_not_cut_into_ranges(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "RANGE_BYTES", 100)
    for layout in ("pretty", "cr", "array", "indented array"):
        source = written(tmp_path, LAYOUTS[layout][0])
        assert len(files.text_items(source)) == 1
        assert len(read_all(source)[0]) == 9
    source = written(tmp_path, b"\xff\xfe" + LAYOUTS["lines"][0].encode("utf-16-le"))
    assert len(files.text_items(source)) == 1


@settings(max_examples=TRIALS)
@given(
    st.lists(
        st.dictionaries(
            st.text(),
            st.recursive(
                st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
                lambda inner: (
                    st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
                ),
                max_leaves=6,
            ),
            min_size=1,
        ),
        min_size=1,
        max_size=5,
    ),
    st.sampled_from([None, 1, "\t"]),
    st.sampled_from(["\n", "\r\n", "\r", " ", "", ",", "\x1e", "\n\n"]),
    st.booleans(),
)
def test_any_rows_come_back(
    rows: list[dict[str, Any]], indent: Any, between: str, is_array: bool
) -> None:
    text = between.join(json.dumps(row, indent=indent) for row in rows)
    if is_array:
        text = json.dumps(rows, indent=indent)
    found = list(Lenient().rows("", io.StringIO(text, newline="").read))
    assert [json.dumps(row.row) for row in found] == [json.dumps(row) for row in rows]


@settings(max_examples=TRIALS)
@given(st.text(alphabet='{}[]",:\\ \n\r\x1e\0aétn1.-\ud800', max_size=200))
def test_any_text_is_read_to_its_end(text: str) -> None:
    found = list(Lenient().rows(text))
    assert all((row.row is None) == bool(row.reason) for row in found)
    assert is_by_lines(text.encode("utf-8", "surrogatepass")) in (True, False)


def test_time_is_linear_in_bad_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten times as many rows that are broken in each way take about ten times as long."""
    monkeypatch.setattr(jsonl, "BLOCK_SIGNS", 2**12)
    kinds = [
        '{"a": "b\n',
        '{"a": [1,,2]}\n',
        "{\n",
        '{"a": "\n\n',
        "x\n",
        '[{"a": ]\n',
        '"\n',
        "{,}\n",
    ]
    for kind in kinds:
        times_s = []
        for count in (400, 4_000):
            start_s = time.process_time()
            stream = io.StringIO(kind * count, newline="")
            for _ in Lenient().rows("", stream.read):
                pass
            times_s.append(time.process_time() - start_s)
        assert times_s[1] < 40 * times_s[0] + 0.5, kind


def test_a_dotted_key_reaches_into_objects_unless_a_key_has_that_name(tmp_path: Path) -> None:
    rows = [
        {"meta": {"text": "inner"}},
        {"meta.text": "named so", "meta": {"text": "not this"}},
        {"meta": "no object"},
        {"meta": {"text": 3}},
    ]
    source = written(tmp_path, "\n".join(map(json.dumps, rows)))
    documents, reasons = read_all(source, "meta.text")
    assert [document.text for document in documents] == ["inner", "named so"]
    assert reasons == {"no key meta.text": 1, "meta.text is not a text": 1}


@pytest.mark.parametrize(
    ("row", "hint"),
    [
        ({"content": "x", "id": 1}, "it has content, id: write text_key: content"),
        ({"meta": {"text": "x"}}, "write text_key: meta.text"),
        ({"messages": []}, "write field: chat"),
        ({"instruction": "a", "output": "b"}, "write field: chat"),
        ({}, "it is empty"),
    ],
)
def test_a_missing_key_says_what_is_there(tmp_path: Path, row: dict[str, Any], hint: str) -> None:
    (reason,) = table_rows(read_all(written(tmp_path, json.dumps(row)))[1])
    expected = "no key text, but a chat" if "chat" in hint else "no key text"
    assert reason["reason"] == expected and hint in reason["hint"]


def test_json_files_are_rows_where_they_are_named(tmp_path: Path) -> None:
    written(tmp_path, json.dumps(ROWS), "rows.json")
    (tmp_path / "a.txt").write_text("x")
    for source, count in ((tmp_path / "rows.json", 9), (tmp_path / "*.json", 9), (tmp_path, 1)):
        assert len(read_all(Source(str(source), "text"))[0]) == count


def test_a_row_without_end_stops_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "MAX_ROW_BYTES", 1000)
    monkeypatch.setattr(jsonl, "BLOCK_SIGNS", 100)
    text = '[{"text": "good"}, {"text": "' + "x" * 5000 + '"}, {"text": "good"}]'
    documents, reasons = read_all(written(tmp_path, text))
    assert [document.text for document in documents] == ["good"]
    assert of_kind(reasons, "refused") == Counter(
        {"row longer than 1,000 bytes, the rest was not read": 1}
    )
    assert os.path.exists(tmp_path / "a.jsonl")
