"""What was refused of data stands in the error of a field that is left with too little."""

from __future__ import annotations

from pathlib import Path

import pytest

from whorl.core.errors import DataError
from whorl.core.ports import Source
from whorl.fields.base import find_field, options_of

pytest.importorskip("torch", reason="needs the extra train")

ILLEGAL = '[Event "a"]\n\n1. e4 e5 2. Ke4 *\n\n[Event "b"]\n\n1. e4 Kd3 *\n'
EPISODE = '{"steps": [{"observation": {"x": "?"}}]}\n'

# Of each field a file that leaves it with too little, and where the first fault stands.
FAULTS = {
    "chess": ("games.pgn", ILLEGAL, "2 x game with a move that is not legal", "line 1"),
    "episodes": ("e.jsonl", "[1]\n" + EPISODE, "1 x ", "line 1"),
    "tags": ("t.tsv", "a\tX\nb\tY\nlonely\n", "x ", "line 3"),
    "translation": (
        "p.tsv",
        "en\tes\nhello\t\n\tadios\n",
        "2 x row without two languages",
        "p.tsv",
    ),
    "triples": ("g.tsv", "a\tb\n\nc\td\te\tf\n", "2 x line of other than three columns", "line 1"),
    "labels": ("l.csv", "text,label\n,spam\n,ham\n", "2 x ", "line 2"),
    "interactions": ("r.csv", "user,item,rating\nu,,5\nv,,3\n", "2 x ", "line 2"),
    "ocr": ("lines.tsv", "path\ttext\na.png\tone\nb.png\ttwo\n", "2 x row whose image", "line 2"),
    "speech": ("metadata.csv", "gone|one\nlost|two\n", "2 x no such sound", "line 1"),
    "boxes": ("boxes.json", '{"images": [{"id": 1, "file_name": "a.png"}]}', "1 x ", "boxes.json"),
    "table": ("t.csv", "a,b\n1,2\n3,4,5,6\n7,8,9\n", "2 x ", "line 3"),
    "text": ("t.jsonl", '{"other": 1}\n{"other": 2}\n', "2 x ", "line 1"),
    "chat": ("c.jsonl", '{"other": 1}\n{"other": 2}\n', "2 x ", "line 1"),
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
    file, text, counted, place = FAULTS[name]
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / file).write_text(text)
    told = error_of(name, tmp_path / "data" / file)
    print(told)
    assert counted in told and f"(first: {file}" in told and place in told
