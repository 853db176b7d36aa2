"""What was refused of data stands in the error of a field that is left with too little."""

from __future__ import annotations

from pathlib import Path

import pytest

from whorl.core.errors import DataError
from whorl.core.ports import Source
from whorl.fields.base import find_field, options_of

pytest.importorskip("torch", reason="needs the extra train")

GAMES = '[Event "a"]\n\n1. e4 *\n\n[Event "b"]\n\n1. e4 e5 2. Ke4 *\n\n[Event "c"]\n\n1. e4 Kd3 *\n'
ILLEGAL = "game with a move that is not legal, or not readable"
EPISODES = '\n[1]\n[2]\n{"steps": [{"observation": {"x": "?"}}]}\n'
LISTED = '{"images": [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "b.png"}]}'
OTHER = '\n{"other": 1}\n{"other": 2}\n'
PACKAGES = {"chess": "chess"}  # of an extra, without which a field reads nothing

# Of each field a file that leaves it with too little, and what is told of its commonest fault: how
# often, its words, and the line of the first or what stands there in a file of one piece.
FAULTS = {
    "chess": ("games.pgn", GAMES, f"2 x {ILLEGAL} (first: games.pgn, line 5: illegal san: 'Ke4' "),
    "episodes": (
        "e.jsonl",
        EPISODES,
        "2 x JSON but not an object (first: e.jsonl, line 2: it is an array), "
        "1 x no key episode (first: e.jsonl, line 4: it has steps)",
    ),
    "tags": (
        "t.tsv",
        "a\tX\nb\tY\nlonely\nalone\n",
        "2 x line without a tag (first: t.tsv, line 3: it has 1 columns)",
    ),
    "translation": (
        "p.tsv",
        "en\tes\nhello\t\n\tadios\n",
        "2 x row without two languages (first: p.tsv, line 2: it has en)",
    ),
    "triples": (
        "g.tsv",
        "a\tof\tb\na\tb\n\nc\td\te\tf\n",
        "2 x line of other than three columns (first: g.tsv, line 2: it has 2: ",
    ),
    "labels": (
        "l.csv",
        "text,label\nwin,spam\n,spam\n,ham\n",
        "2 x row without a text (first: l.csv, line 3)",
    ),
    "interactions": (
        "r.csv",
        "user,item,rating\nu,,5\nv,,3\n",
        "2 x row without a usable item (first: r.csv, line 2: it has user, item, rating: ",
    ),
    "ocr": (
        "lines.tsv",
        "path\ttext\na.png\tone\nb.png\ttwo\n",
        "2 x row whose image is not there (first: lines.tsv, line 2: a.png)",
    ),
    "speech": (
        "metadata.csv",
        "a|b|c|d\ngone|one\nlost|two\n",
        "2 x no such sound file (first: metadata.csv, line 2: gone)",
    ),
    "boxes": ("boxes.json", LISTED, "2 x image that is not there (first: boxes.json: a.png)"),
    "table": (
        "t.csv",
        "a,b\n1,2\n3,4,5,6\n7,8,9\n",
        "2 x row with more or fewer values than columns (first: t.csv, line 3: 4 of 2 columns)",
    ),
    "text": ("t.jsonl", OTHER, "2 x no key text (first: t.jsonl, line 2) it has other"),
    "chat": ("c.jsonl", OTHER, "2 x no chat that is known (first: c.jsonl, line 2) it has other"),
}


def error_of(name: str, path: Path) -> str:
    """As prepare tells it."""
    from whorl.core.reasons import unreadable
    from whorl.stages.prepare.clean import clean, clean_tasks

    field = find_field(name)
    source = Source(str(path), name, options=options_of(field, {}))
    try:
        tasks = clean_tasks(0, source, field, field.items(source), path.parent, (16.0, 0.1))
        found, do = unreadable(clean(task).rejected for task in tasks)
    except DataError as error:
        return str(error)
    return f"{found} {do}"


@pytest.mark.parametrize("name", FAULTS)
def test_the_error_counts_what_was_refused_and_says_where_first(name: str, tmp_path: Path) -> None:
    if name in PACKAGES:
        pytest.importorskip(PACKAGES[name], reason=f"needs the extra {name}")
    file, text, told = FAULTS[name]
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / file).write_text(text)
    assert told in error_of(name, tmp_path / "data" / file)
