"""Reasons: counted by their words, with the first place, across processes."""

from __future__ import annotations

import copy
import json
from collections import Counter
from pathlib import Path

from whorl.core.errors import DataError
from whorl.core.reasons import Place, Reason, and_refused, kind_of, table_rows, unreadable


def test_a_counter_keeps_the_first_place_through_sums_and_processes() -> None:
    parts = [
        Counter({Reason("a", "refused", Place(f"file {number}", number)): number})
        for number in (1, 2, 3)
    ]
    parts = copy.deepcopy(parts)  # by what pickles them too
    total = sum(parts, Counter[str]())
    assert total == {"a": 6} and json.dumps(total) == '{"a": 6}'
    (row,) = table_rows(total)
    assert row == {
        "what": "refused",
        "count": 6,
        "reason": "a",
        "example": "file 1, line 1",
        "hint": "",
    }


def test_the_table_is_by_kind_then_by_count() -> None:
    reasons = Counter[str](
        {Reason("m", "mended"): 9, Reason("p", "passed over"): 8, "plain": 7, Reason("few"): 1}
    )
    reasons[Reason("many")] += 5
    rows = [(row["what"], row["reason"]) for row in table_rows(reasons)]
    assert rows == [
        ("refused", "many"),
        ("refused", "few"),
        ("dropped", "plain"),
        ("mended", "m"),
        ("passed over", "p"),
    ]
    assert kind_of("plain") == kind_of(Reason("x")) == "refused"


def test_lines_are_counted_from_the_beginning_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"one\ntwo\nthree\nfour\n")
    assert str(Place("a", 1, None, str(path), 8)) == "a, line 3"
    assert str(Place("a", 2, 5, str(path), 8)) == "a, line 4, column 5"
    assert str(Place("a", 2, 5)) == "a, line 2, column 5"
    assert str(Place("a")) == "a"
    assert str(Place("a", 1, None, str(tmp_path / "gone"), 8)) == "a, line 1 after byte 8"


def test_an_error_names_the_three_commonest_and_what_helps() -> None:
    reasons = Counter[str]({Reason(f"r{n}", hint=f"do {n}"): n for n in range(1, 6)})
    reasons[Reason("read all the same", "mended")] = 99
    found, do = unreadable([reasons])
    assert found == "5 x r5, 4 x r4, 3 x r3, and 2 reasons more"
    assert do == "do 5; do 4; do 3"
    told = and_refused("0 games", [*reasons.elements()])
    assert told == (
        "0 games; refused: 5 x r5 (first: do 5), 4 x r4 (first: do 4), 3 x r3 (first: do 3), "
        "and 2 reasons more"
    )
    assert and_refused("0 games", [Reason("read", "mended")]) == "0 games"
    for listed in (["a.pgn", "b.pgn"], ("a.pgn", "b.pgn")):  # as without what was refused
        error = DataError("too few", found=and_refused(listed, ["bad"]))
        assert str(error) == "too few; found: a.pgn, b.pgn; refused: 1 x bad"
    assert unreadable([]) == ("no document at all", unreadable([Counter()])[1])
