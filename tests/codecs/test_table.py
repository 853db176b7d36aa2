"""Table codec: bins that hold alike many rows, words, gaps, and what is left out comes back."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whorl.codecs.contract import Tokens
from whorl.codecs.kinds import load_codec
from whorl.codecs.table import Cell, Column, TableCodec, load, word_of
from whorl.core.errors import DataError, RecordError

NUMBERS = st.lists(st.floats(-1e6, 1e6).map(lambda x: round(x, 3)), min_size=1, max_size=60)


def codec_of(**columns: list[Cell]) -> TableCodec:
    return TableCodec(
        tuple(
            Column.of_words(name, cells)
            if any(isinstance(cell, str) for cell in cells)
            else Column.of_numbers(name, cells, 8)
            for name, cells in columns.items()
        )
    )


@given(NUMBERS)
def test_numbers_come_back_near_and_in_their_order(numbers: list[float]) -> None:
    codec = codec_of(a=list(numbers))
    again = load_codec("table-row", "row", codec.files())
    found = []
    for number in sorted(numbers):
        row = codec.decode(codec.encode({"a": number}))
        assert codec.decode(codec.encode(row)) == row == again.decode(again.encode({"a": number}))
        assert isinstance(row["a"], float) and row["a"] in numbers
        found.append(row["a"])
    assert found == sorted(found)
    if len(set(numbers)) <= 8:
        assert found == sorted(numbers)


def test_bins_hold_about_as_many_rows_each() -> None:
    rng = np.random.default_rng(0)
    numbers = rng.exponential(size=4000).tolist()
    codec = codec_of(a=numbers)
    counts = np.bincount([codec.encode({"a": number})[0] for number in numbers])
    assert len(counts) == 9 and counts[0] == 0
    assert counts[1:].min() > 450 and counts[1:].max() < 550
    assert codec.encode({"a": -1e9}) == [1] and codec.encode({"a": 1e9}) == [8]


def test_words_gaps_and_usual_values() -> None:
    colours: list[Cell] = ["red"] * 8 + ["blue", None]
    codec = codec_of(colour=colours, size=[1.0, 2.0, 3.0, None, 5.0, 6.0, 7.0, 8.0, 9.0, 2.0])
    assert codec.num_ids == 3 + 9  # each with one for what is missing
    red = codec.encode({"colour": "red", "size": 2})
    assert len(red) == 1 and codec.decode(red) == {"colour": "red", "size": 2.0}
    assert len(codec.encode({"colour": "blue", "size": 2})) == 2
    assert codec.decode(codec.encode({"colour": "mauve", "size": None})) == {
        "colour": None,
        "size": None,
    }
    assert codec.decode(codec.encode({})) == {"colour": None, "size": None}
    assert Column.of_numbers("empty", [None, None], 4).place(None) == 0


def test_rows_travel_as_json_and_wrong_ones_are_told() -> None:
    codec = codec_of(age=[1.0, 2.0, 3.0], kind=["a", "b", "c"])
    data = codec.to_bytes({"age": 2, "kind": "b"})
    assert json.loads(data) == {"age": 2.0, "kind": "b"}
    assert codec.from_bytes(data) == {"age": 2.0, "kind": "b"}
    assert codec.encode(data.decode()) == codec.encode({"age": 2, "kind": "b"})
    for value, message in (
        ({"agee": 1}, "did you mean age"),
        ({"age": "old"}, "column age has numbers"),
        ({"age": 10**400}, "column age has numbers"),
        (f'{{"age": -1{"0" * 400}}}', "column age has numbers"),
        ({"age": True}, "no such values"),
        ({"age": [1]}, "no such values"),
        ('{"age": NaN}', "column age has numbers"),
        ("[]", "no row"),
        ("[" * 100_000, "no JSON"),
        (3, "no row"),
    ):
        with pytest.raises(DataError, match=message):
            codec.encode(value)
    with pytest.raises(DataError):
        codec.from_bytes(b"\xff")


WORDS = [7, 7.0, 7.5, 0.1, 1e22, 1e-7, 1700000001, 1700000009.0, 2**53 + 1, -0.0, "007", "a"]


@pytest.mark.parametrize("cell", WORDS)
def test_a_number_among_words_keeps_its_digits(cell: float | str) -> None:
    word = word_of(cell)
    assert word == cell if isinstance(cell, str) else type(cell)(word) == cell and ".0" not in word
    assert isinstance(cell, str) or {word_of(cell)} == {word_of(type(cell)(word))}
    column = Column.of_words("kind", [cell, "another", "third"])
    assert column.cell(column.place(cell)) == word and word_of(10**400) == "1" + "0" * 400
    assert column.place(10**400) == 0


def test_a_row_whose_cells_are_all_usual_is_no_empty_one() -> None:
    codec = codec_of(
        lamp=["off"] * 9 + ["on"], place=[1.0] * 8 + [2.0, 3.0], gap=[None] * 8 + ["x", "y"]
    )
    usual = {"lamp": "off", "place": 1.0, "gap": None}
    assert len(codec.encode(usual)) == 1 and codec.decode(codec.encode(usual)) == usual
    assert codec.decode([]) == usual
    mostly_missing = codec_of(gap=[None] * 8 + ["x", "y"])
    assert mostly_missing.encode({}) == [0] and mostly_missing.decode([0]) == {"gap": None}


def test_columns_are_in_the_contracts_digest() -> None:
    def digest(*numbers: float) -> str:
        return Tokens.build({"row": codec_of(a=list(numbers))}, 64).contract.digest

    assert digest(1, 2, 3) == digest(3, 2, 1) != digest(1, 2, 4)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b'{"columns": []}',
        b'{"columns": [{"name": "a", "values": [1], "edges": [1, 2], "usual": null}]}',
        b'{"columns": [{"name": "a", "values": [1, 2, 3], "edges": [2, 1], "usual": null}]}',
    ],
)
def test_damaged_files_are_refused(data: bytes) -> None:
    with pytest.raises(RecordError, match="table codec"):
        load("row", {"columns.json": data})
