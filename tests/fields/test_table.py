"""Tables: types found, gaps told, equal rows on one side, classes learned beside scikit-learn."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the extra train")
pytest.importorskip("sklearn", reason="needs the extra train")

from tests.fields.support import miniature
from whorl.codecs.contract import Tokens
from whorl.core.errors import DataError, SpecError
from whorl.core.ports import Document, Source
from whorl.core.reasons import Reason
from whorl.fields.base import options_of
from whorl.fields.table import FIELD
from whorl.stages.evaluate.baselines import document_of

HEADER = ["age", "colour", "id", "same", "Class"]
ROWS = [[str(n % 17), ["red", "blue", "?"][n % 3], f"id{n}", "x", "ab"[n % 2]] for n in range(300)]


def csv(rows: list[list[str]], sign: str = ",") -> str:
    return "".join(sign.join(row) + "\n" for row in [HEADER, *rows])


def read(path: Path, **options: str) -> tuple[list[Document], Counter[str]]:
    source = Source(str(path), "table", options=options_of(FIELD, options))
    reasons: Counter[str] = Counter()

    def reject(reason: str) -> None:
        reasons[reason] += 1

    return [d for i in FIELD.items(source) for d in FIELD.read(source, i, reject)], reasons


def told(reasons: Counter[str]) -> set[str]:
    return {str(r) for r in reasons if isinstance(r, Reason) and r.kind == "read"}


def refused(reasons: Counter[str]) -> dict[str, int]:
    return {
        str(r): n for r, n in reasons.items() if not isinstance(r, Reason) or r.kind == "refused"
    }


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.jsonl", "t.parquet"])
def test_types_are_found_and_told_whatever_the_format(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name.endswith("jsonl"):
        rows = [dict(zip(HEADER, row, strict=True)) for row in ROWS]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif name.endswith("parquet"):
        pyarrow = pytest.importorskip("pyarrow", reason="needs the extra parquet")
        parquet = pytest.importorskip("pyarrow.parquet", reason="needs the extra parquet")
        columns = dict(zip(HEADER, map(list, zip(*ROWS, strict=True)), strict=True))
        columns["age"] = [int(age) for age in columns["age"]]
        parquet.write_table(pyarrow.table(columns), path)
    else:
        path.write_text(csv(ROWS, "\t" if name.endswith("tsv") else ","))
    documents, reasons = read(path, copies="1")
    assert not refused(reasons)
    assert told(reasons) == {
        "target: column Class",
        "numbers: age",
        "words: colour",
        "column colour: 100 of 300 cells are missing",
        "column id: a name of its own in each row, left out",
        "column same: one value alone, left out",
    }
    rows_there = [document.parts[0].value for document in documents]
    assert any("300 rows, those to learn from 12 times" in said for said in told(read(path)[1]))
    expected = [{"age": float(a), "colour": None if c == "?" else c} for a, c, *_ in ROWS]
    assert rows_there == expected
    assert [document.parts[2].value for document in documents] == [row[-1] for row in ROWS]


def test_a_share_of_each_class_is_held_out_and_equal_rows_stay_together(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    rng = random.Random(0)
    rows = [[str(rng.randrange(200)), "red", f"i{n}", "x", "ab"[n % 3 == 0]] for n in range(2000)]
    path.write_text(csv(rows))

    def sides() -> dict[tuple[str, str], set[str]]:
        found: dict[tuple[str, str], set[str]] = {}
        for document in read(path, copies="3")[0]:
            if "~" not in document.name:
                key = json.dumps(document.parts[0].value), document.parts[2].value
                found.setdefault(key, set()).add(str(document.split))
        return found

    first = sides()
    assert all(len(split) == 1 for split in first.values())
    for label in "ab":
        held = [split == {"heldout"} for (_, mine), split in first.items() if mine == label]
        assert 0.1 < np.mean(held) < 0.25
    rng.shuffle(rows)
    path.write_text(csv(rows))
    assert sides() == first


def test_copies_have_gaps_and_only_the_class_is_learned(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(csv(ROWS))
    documents, _ = read(tmp_path / "t.csv", copies="4", gaps="0.3")
    assert len({document.name for document in documents}) == len(documents)
    originals = {d.name: d for d in documents if "~" not in d.name}
    copies = [d for d in documents if "~" in d.name]
    assert {d.split for d in copies} == {"train"} and all(len(d.parts) == 3 for d in copies)
    gaps = total = 0
    for document in copies:
        original = originals[document.name.partition("~")[0]]
        assert original.split == "train" and original.parts[3].value == "<|end|>"
        for name, cell in document.parts[0].value.items():
            gaps += cell is None and original.parts[0].value[name] is not None
            total += original.parts[0].value[name] is not None
            assert cell in (None, original.parts[0].value[name])
        trained = [part.codec for part in document.parts if part.trained]
        assert trained == ["label"]
    assert 0.25 < gaps / total < 0.35


def test_odd_rows_are_refused_by_reason_and_place(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(csv(ROWS) + "1,red,i,x\n2,red,i,x,\n3,red,i,x,?\n")
    documents, reasons = read(path, copies="1")
    assert refused(reasons) == {
        "row with more or fewer values than columns": 1,
        "row without a target": 2,
    }
    assert len(documents) == 300
    places = {str(r): str(r.place) for r in reasons if isinstance(r, Reason)}
    assert places["row with more or fewer values than columns"] == "t.csv, line 302"
    (tmp_path / "u.csv").write_text("other,columns\n1,2\n")
    _, reasons = read(tmp_path, copies="1")
    assert refused(reasons)["row of other columns than the first file's"] == 1


WRONG: list[tuple[str, dict[str, str], type[Exception], str]] = [
    (csv(ROWS), {"target": "Klass"}, DataError, "there is no column Klass"),
    (csv(ROWS), {"target": "id"}, DataError, "no classes to choose from"),
    (csv(ROWS), {"target": "same"}, DataError, "no classes to choose from"),
    (
        "size,price\n" + "".join(f"{n % 5},{n / 8}\n" for n in range(100)),
        {"target": "price"},
        DataError,
        "100 different numbers in 100 rows",
    ),
    (csv(ROWS), {"copies": "0"}, SpecError, r"options\.copies"),
    (csv(ROWS), {"gaps": "1.5"}, SpecError, r"options\.gaps"),
    ("one\n1\n2\n", {}, DataError, "is no table"),
    ("a,b\n", {}, DataError, "is no table"),
]


@pytest.mark.parametrize(("text", "options", "kind", "message"), WRONG)
def test_what_is_no_table_is_said(
    tmp_path: Path, text: str, options: dict[str, str], kind: type[Exception], message: str
) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(kind, match=message):
        read(tmp_path / "t.csv", **options)


def test_a_column_that_is_not_there_is_told_with_the_nearest_one(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(csv(ROWS))
    with pytest.raises(DataError, match="no column klass; did you mean Class"):
        read(tmp_path / "t.csv", target="klass")


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl"])
def test_cells_and_classes_that_differ_in_a_late_digit_stay_apart(
    tmp_path: Path, name: str
) -> None:
    """Against the texts that were written: seconds, classes, and numbers among words."""
    times, classes = ("1700000001", "1700000009"), ("1000001", "1000002")
    mixed = ("1234567", "1234568", "0.12345678", "n")
    rows = [(times[n % 2], mixed[n % 4], classes[n % 3 == 0]) for n in range(40)]
    if name.endswith("csv"):
        lines = ["time,mixed,class", *map(",".join, rows)]
    else:
        lines = [
            json.dumps(
                {
                    "time": int(time),
                    "mixed": word if word == "n" else float(word),
                    "class": int(label),
                }
            )
            for time, word, label in rows
        ]
    (tmp_path / name).write_text("\n".join(lines) + "\n")
    documents, reasons = read(tmp_path / name, copies="1")
    assert {"numbers: time", "words: mixed"} <= told(reasons)
    found = [(d.parts[0].value, d.parts[2].value) for d in documents]
    assert [(f"{row['time']:.0f}", row["mixed"], label) for row, label in found] == rows
    codecs = FIELD.fit_codecs((d for d in documents if d.split == "train"), {})
    back = [codecs["row"].decode(codecs["row"].encode(row)) for row, _ in found]
    assert back == [row for row, _ in found]


def test_a_target_is_its_text(tmp_path: Path) -> None:
    lines = [f"{n},{['7', '007', '7.0', '?'][n % 4]}" for n in range(80)]
    (tmp_path / "t.csv").write_text("\n".join(["a,class", *lines]) + "\n")
    documents, reasons = read(tmp_path / "t.csv", copies="1")
    assert Counter(d.parts[2].value for d in documents) == {"7": 20, "007": 20, "7.0": 20}
    assert refused(reasons) == {"row without a target": 20}
    for number, names in ((1, {"1", "2"}), (10**20, {f"1{'0' * 20}", f"1{'0' * 19}1"})):
        rows = [{"a": n, "class": number + n % 2} for n in range(40)]
        (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        documents, _ = read(tmp_path / "t.jsonl", copies="1")
        assert {d.parts[2].value for d in documents} == names


def test_the_methods_beside_a_model_see_a_row_whose_cells_are_all_usual(tmp_path: Path) -> None:
    """The class says whether a lamp is on; a row with all of them off once came back as no row."""
    cells = [(n % 9 == 3, n % 9 == 6) for n in range(400)]
    lines = [f"{int(a)},{int(b)},{'on' if a or b else 'off'}" for a, b in cells]
    (tmp_path / "t.csv").write_text("\n".join(["a,b,class", *lines]) + "\n")
    documents, _ = read(tmp_path / "t.csv", copies="1", heldout="0.01")
    tokens = Tokens.build(FIELD.fit_codecs(documents, {}), 64)
    back = [document_of(d.name, np.array(tokens.encode_document(d)[0]), tokens) for d in documents]
    assert [d.parts[0].value for d in back] == [{"a": float(a), "b": float(b)} for a, b in cells]
    scores = {score.name: score.value for score in FIELD.baselines(back, back, None)}
    assert scores.pop("commonest class") < 1 and set(scores.values()) == {1.0}


@pytest.mark.parametrize(
    "data", [b"", b"RDX3\nX\n", b"\x1f\x8b\x08 cut", b"RDX2\nX\n" + b"\xff" * 99]
)
def test_damaged_files_of_r_are_refused(tmp_path: Path, data: bytes) -> None:
    pytest.importorskip("rdata", reason="needs the extra r-data")
    (tmp_path / "t.rda").write_bytes(data)
    with pytest.raises(DataError):
        read(tmp_path / "t.rda")


def test_a_data_frame_of_r_is_read(tmp_path: Path) -> None:
    rdata = pytest.importorskip("rdata", reason="needs the extra r-data")
    pandas = pytest.importorskip("pandas", reason="needs the extra r-data")
    columns = {
        "age": [float(row[0]) for row in ROWS],
        "Class": pandas.Categorical([row[-1] for row in ROWS]),
    }
    columns["age"][5] = float("nan")
    rdata.write_rda(tmp_path / "t.rda", {"frame": pandas.DataFrame(columns)})
    documents, reasons = read(tmp_path / "t.rda", copies="1")
    assert told(reasons) >= {"target: column Class", "column age: 1 of 300 cells are missing"}
    assert [d.parts[0].value["age"] for d in documents][:7] == [0, 1, 2, 3, 4, None, 6]
    assert [d.parts[2].value for d in documents] == [row[-1] for row in ROWS]


def test_exclusive_or_is_learned_where_a_linear_model_is_blind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The class says whether two of three coloured lamps are alike."""
    rng = random.Random(0)
    lines = ["one,two,three,place,Class"]
    for number in range(500):
        lamps = [rng.choice(["red", "blue"]) for _ in range(3)]
        lines.append(f"{','.join(lamps)},{number},{lamps[0] == lamps[2]}")
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")
    entry = {"source": str(tmp_path / "t.csv"), "field": "table", "options": {"copies": "2"}}
    session = miniature(monkeypatch, tmp_path / "home", entry, (90, 900), 80)
    scores = session.evaluate().metrics["scores"]["table"]
    assert scores["hf f32"] > 0.95 and scores["random forest"] > 0.9
    assert scores["logistic regression"] < 0.75 and scores["commonest class"] < 0.75
