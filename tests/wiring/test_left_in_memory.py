"""A process that trains has not imported what only readers, fits of codecs and peers need."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import wave
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the extra train")

HEAVY = ("pandas", "pyarrow", "rdata", "scipy", "sklearn", "xarray", "matplotlib", "gymnasium")
SCRIPT = """
import json, sys
from pathlib import Path
from whorl.verbs import Session
from whorl.wiring import plans
if __name__ == "__main__":
    session = Session.open(json.loads(sys.argv[1]), home=Path(sys.argv[2]), workers=2)
    plans._gathered(session, session.fields)
    assert session.prepare().metrics["train_documents"] > 0
    print(*sorted(set(sys.modules) & set(sys.argv[3:])), sep=",")
"""


def rows_of(path: Path, rows: list[Any]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def image(path: Path, number: int) -> None:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    levels = np.random.default_rng(number).integers(0, 255, (12, 24)).astype(np.uint8)
    Image.fromarray(levels).save(path)


def sound(path: Path, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        noise = np.random.default_rng(number).normal(0, 3000, 4000)
        file.writeframes(noise.astype("<i2").tobytes())


def texts(folder: Path) -> None:
    for number in range(40):
        (folder / f"{number}.txt").write_text(f"page {number} is of {number**3} words\n" * 3)


def programs(folder: Path) -> None:
    for number in range(40):
        (folder / f"{number}.py").write_text(f"def f{number}(a):\n    return a + {number**2}\n")


def chats(folder: Path) -> None:
    said = [{"role": "user", "content": "how many?"}, {"role": "assistant", "content": "{}"}]
    rows = [{"messages": [said[0], {**said[1], "content": f"it is {n}"}]} for n in range(60)]
    rows_of(folder / "c.jsonl", rows)


def templates(folder: Path) -> None:
    said = [f"{verb} the {{area}} light" for verb in ("light", "start", "wake", "raise", "open")]
    lists = {"area": {"values": [f"room {n}" for n in range(9)]}}
    of = {"On": {"data": [{"sentences": [each]} for each in said]}}
    of["Off"] = {"data": [{"sentences": [f"{v} the {{area}} light"]} for v in ("stop", "end")]}
    whole = {"language": "en", "intents": of, "lists": lists, "expansion_rules": {}}
    (folder / "en.json").write_text(json.dumps(whole))


def triples(folder: Path) -> None:
    lines = [f"a{n % 9}\tr{n % 4}\tb{n % 13}\n" for n in range(200)]
    (folder / "g.tsv").write_text("".join(dict.fromkeys(lines)))


def ratings(folder: Path) -> None:
    lines = [f"u{n % 20},i{(n * 7) % 30},{n % 5},{n}\n" for n in range(400)]
    (folder / "r.csv").write_text("user,item,rating,time\n" + "".join(lines))


def cells() -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    return [{"a": float(rng.normal()), "b": n % 5, "class": "xy"[n % 2]} for n in range(200)]


def table(folder: Path) -> None:
    rows_of(folder / "t.jsonl", cells())


def parquet(folder: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="needs the extra parquet")
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist(cells()), folder / "t.parquet")


def frame(folder: Path) -> None:
    """A data frame of R."""
    rdata = pytest.importorskip("rdata", reason="needs the extra r-data")
    import pandas

    rows = cells()
    columns = {"a": [row["a"] for row in rows], "b": [float(row["b"]) for row in rows]}
    data = pandas.DataFrame({**columns, "class": pandas.Categorical([r["class"] for r in rows])})
    rdata.write_rda(folder / "t.rda", {"t": data}, compression="gzip")


def packed(folder: Path) -> None:
    (folder / "t.txt.gz").write_bytes(gzip.compress(b"a line of words\n" * 9))
    texts(folder)


def classes(folder: Path) -> None:
    for number in range(40):
        image(folder / "ab"[number % 2] / f"{number}.png", number)


def things(folder: Path) -> None:
    listed, boxes = [], []
    for number in range(40):
        image(folder / f"{number}.png", number)
        listed.append({"id": number, "file_name": f"{number}.png", "width": 24, "height": 12})
        box = [number % 5, 2, 9, 7]
        boxes.append({"id": number, "image_id": number, "category_id": 1, "bbox": box})
    kinds = [{"id": 1, "name": "cup"}]
    whole = {"images": listed, "annotations": boxes, "categories": kinds}
    (folder / "boxes.json").write_text(json.dumps(whole))


def lines(folder: Path) -> None:
    for number in range(40):
        image(folder / f"{number}.png", number)
        (folder / f"{number}.txt").write_text(f"line {number}")


def recordings(folder: Path) -> None:
    rows = []
    for number in range(40):
        sound(folder / f"{number}.wav", number)
        text = f"say {['one', 'two', 'six'][number % 3]} and {number}"
        meant = {"intent": f"Say{number % 3}", "slots": {"number": str(number)}}
        rows.append({"audio_filepath": f"{number}.wav", "text": text, **meant})
    rows_of(folder / "train.jsonl", rows[8:])
    rows_of(folder / "test.jsonl", rows[:8])


def labels(folder: Path) -> None:
    texts = [f"win {n} coins,spam\n" if n % 2 else f"see you at {n},ham\n" for n in range(80)]
    (folder / "l.csv").write_text("text,label\n" + "".join(texts))


def tags(folder: Path) -> None:
    (folder / "t.tsv").write_text("".join(f"the\tDET\nword{n}\tNOUN\n\n" for n in range(80)))


def pairs(folder: Path) -> None:
    lines = [f"house {n}\tcasa {n}\n" for n in range(80)]
    (folder / "t.tsv").write_text("en\tes\n" + "".join(lines))


def episodes(folder: Path) -> None:
    rows = []
    for number in range(40):
        lamps = [number >> step & 1 for step in range(6)]
        rows.append(
            {"observations": [{"x": str(x)} for x in lamps], "actions": ["lr"[x] for x in lamps]}
        )
    rows_of(folder / "e.jsonl", rows)


def games(folder: Path) -> None:
    white, black = ["e4", "d4", "c4", "Nf3", "g3", "b3", "a3"], ["e5", "d5", "c5", "Nf6", "g6"]
    opened = [f"1. {a} {b} 2. {c} *" for a in white for b in black for c in ("h3", "Nc3")]
    told = [f'[Event "{number}"]\n\n{game}\n\n' for number, game in enumerate(opened)]
    (folder / "train.pgn").write_text("".join(told))
    (folder / "test.pgn").write_text('[Event "t"]\n\n1. f4 f5 2. h4 h5 *\n')


Make = Callable[[Path], None]
# Of every field: what makes some data of it, and packages without which that is not read.
FIELDS: Mapping[str, tuple[Make, tuple[str, ...]]] = {
    **{"text": (texts, ()), "code": (programs, ()), "chat": (chats, ()), "labels": (labels, ())},
    **{"intents": (templates, ("hassil",)), "triples": (triples, ()), "tags": (tags, ())},
    **{"interactions": (ratings, ()), "table": (table, ()), "translation": (pairs, ())},
    **{"characters": (texts, ()), "episodes": (episodes, ()), "chess": (games, ("chess",))},
    **{"images": (classes, ("PIL",)), "boxes": (things, ("PIL",)), "ocr": (lines, ("PIL",))},
    **dict.fromkeys(("speech", "synthesis", "assistant"), (recordings, ("soundfile", "soxr"))),
    "digits": (lambda folder: None, ("sklearn",)),
}
OTHER_FORMS: Mapping[str, tuple[str, Make]] = {
    **{"parquet": ("table", parquet), "R": ("table", frame), "gzip": ("text", packed)},
}
SOURCES = {"digits": "sklearn:digits"}
OPTIONS: Mapping[str, dict[str, str]] = {"ocr": {"book": "32"}}
VOCABULARY = {"digits": 256, "images": 512, "boxes": 1024, "synthesis": 1024, "chess": 4096}


def left_behind(field: str, make: Make, folder: Path) -> str:
    (folder / "data").mkdir()
    make(folder / "data")
    source = SOURCES.get(field, str(folder / "data"))
    recipe = {
        "name": "mine",
        "data": [{"source": source, "field": field, "options": OPTIONS.get(field, {})}],
        "prepare": {"vocab_size": VOCABULARY.get(field, 900)},
        "train": {"seq_len": 512},
    }
    (folder / "script.py").write_text(SCRIPT)
    words = [json.dumps(recipe), str(folder / "home"), *HEAVY]
    command = [sys.executable, str(folder / "script.py"), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip()


def test_every_field_is_here() -> None:
    mine = {
        each.name
        for each in entry_points(group="whorl.fields")
        if each.dist is not None and each.dist.name == "whorl"
    }
    assert mine == FIELDS.keys()


QUICK = ("text", "table", "images", "speech")
EACH = [f if f in QUICK else pytest.param(f, marks=pytest.mark.slow) for f in FIELDS]


@pytest.mark.parametrize("field", EACH)
def test_planning_and_preparing_leave_no_reader_behind(field: str, tmp_path: Path) -> None:
    make, packages = FIELDS[field]
    for package in packages:
        if find_spec(package) is None:
            pytest.skip(f"needs {package}")
    assert left_behind(field, make, tmp_path) == ""


@pytest.mark.parametrize("form", OTHER_FORMS)
def test_small_files_of_other_forms_leave_none_either(form: str, tmp_path: Path) -> None:
    field, make = OTHER_FORMS[form]
    assert left_behind(field, make, tmp_path) == ""
