"""The table of what was read, and its preview, as a person sees them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.stages.prepare.support import prepare, write_stories
from whorl.cli.reading import preview_new, print_reading, reading_of


def make(folder: Path) -> Path:
    write_stories(folder, range(8))
    (folder / "chat.jsonl").write_text(json.dumps({"messages": [{"role": "[b]"}]}) + "\n")
    (folder / "[red]x.txt").write_bytes("größer und schöner".encode("latin-1"))
    (folder / "photo.png").touch()
    return folder


def test_the_table_has_kinds_counts_places_and_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("whorl.cli.console.OUT.width", 200)
    record = prepare(tmp_path / "home", make(tmp_path / "texts"))
    print_reading(record)
    shown = capsys.readouterr().out
    assert "read 10 files, 10 documents, kept 8" in shown
    rows = [line.split("│") for line in shown.splitlines() if line.startswith("│")]
    cells = {row[3].strip(): [row[n].strip() for n in (1, 2, 4)] for row in rows}
    assert cells == {
        "no key text, but a chat": ["refused", "1", "chat.jsonl, line 1"],
        "not UTF-8, looks like latin-1": ["refused", "1", "[red]x.txt, line 1, column 3"],
        "suffix .png": ["passed over", "1", "photo.png"],
    }
    assert "it has messages: write field: chat" in shown
    assert "write encoding: latin-1" in shown
    assert [row["reason"] for row in reading_of(record)] == list(cells)


def test_the_preview_of_new_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("whorl.cli.console.ERR.width", 200)
    folder = make(tmp_path / "texts")
    preview_new(str(folder), "text", "x.yaml")
    shown = capsys.readouterr()
    assert not shown.out and "8 documents in a look at 10 of 10 files" in shown.err
    assert "looks like latin-1" in shown.err and "photo.png" in shown.err
    preview_new(str(write_stories(tmp_path / "good", range(3))), "text", "x.yaml")
    assert "3 of 3 files; nothing was refused or passed over" in capsys.readouterr().err
    (tmp_path / "long.csv").write_text("text\n" + "".join(f"word {n}\n" for n in range(1500)))
    preview_new(str(tmp_path / "long.csv"), "text", "x.yaml")
    assert "1,000 documents and more" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("source", "field", "message"),
    [("missing", "text", "does not exist"), ("x", "smells", "smells"), ("pypi:six", "text", "")],
)
def test_a_preview_never_fails(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    source: str,
    field: str,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    preview_new(source, field, "x.yaml")
    shown = capsys.readouterr().err
    assert message in shown and bool(shown) == bool(message)
