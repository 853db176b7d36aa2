"""The preview of a sample and the table of a record tell the same of small data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.stages.prepare.support import FIELDS, prepare, story, write_stories
from whorl.core.errors import DataError
from whorl.core.ports import Source
from whorl.stages.prepare import preview as module
from whorl.stages.prepare.facts import data_digest
from whorl.stages.prepare.preview import preview


def make(folder: Path) -> Path:
    """Twelve good documents, and some of every kind of others."""
    write_stories(folder, range(6))
    rows = [json.dumps({"text": story(number)}) for number in range(10, 16)]
    odd = json.dumps({"text": story(99)})[:-1] + ', "score": NaN}'
    rows[1:1] = [json.dumps({"content": "x"}), odd]
    (folder / "rows.jsonl").write_text("\n".join(rows))
    (folder / "latin.txt").write_bytes("größer und schöner".encode("latin-1"))
    (folder / "photo.jpeg").write_bytes(b"x")
    return folder


def by_reason(rows: list[dict[str, Any]]) -> dict[str, tuple[str, int, str]]:
    return {row["reason"]: (row["what"], row["count"], row["example"]) for row in rows}


EXPECTED = {
    "no key text": ("refused", 1, "rows.jsonl, line 2"),
    "not UTF-8, looks like latin-1": ("refused", 1, "latin.txt, line 1, column 3"),
    "NaN or Infinity in JSON": ("mended", 1, "rows.jsonl, line 3, column 1"),
    "suffix .jpeg": ("passed over", 1, "photo.jpeg"),
}


def test_the_record_tells_what_was_read(tmp_path: Path) -> None:
    lines: list[str] = []
    record = prepare(tmp_path / "home", make(tmp_path / "texts"), log=lines.append)
    metrics = record.metrics
    assert by_reason([*metrics["reading"], *record.run["passed_over"]]) == EXPECTED
    assert metrics["read_files"] == 8
    kept = metrics["train_documents"] + metrics["heldout_documents"]
    assert kept == 13 and metrics["read_documents"] == kept + sum(metrics["dropped"].values())
    assert lines[1:] == ["mended: 1 NaN or Infinity in JSON", "passed over: 1 suffix .jpeg"]


def test_what_is_passed_over_changes_no_digest(tmp_path: Path) -> None:
    sources = [Source(str(make(tmp_path / "texts")), "text")]
    before = data_digest(FIELDS, sources)
    (tmp_path / "texts" / "another.jpeg").write_bytes(b"x")
    assert data_digest(FIELDS, sources) == before
    assert data_digest(FIELDS, [Source(sources[0].source, "text", encoding="latin-1")]) != before


def test_the_preview_of_small_data_is_the_table(tmp_path: Path) -> None:
    seen = preview(FIELDS, [Source(str(make(tmp_path / "texts")), "text")])
    assert by_reason(seen.rows) == EXPECTED
    assert (seen.num_files, seen.num_sampled, seen.num_documents) == (8, 8, 13)


def test_the_preview_of_large_data_is_a_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_stories(tmp_path / "a", range(100))
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "bad.jsonl").write_text('{"content": "x"}\n' * 10_000)
    (tmp_path / "b" / "good.jsonl").write_text('{"text": "x"}\n' * 10_000)
    monkeypatch.setattr(module, "SAMPLE_ROWS", 50)
    seen = preview(FIELDS, [Source(str(tmp_path / name), "text") for name in "ab"])
    assert seen.num_files == 102 and seen.num_sampled <= 40
    assert seen.reasons == {"no key text": 50} and 50 < seen.num_documents <= 90


def test_a_missing_source_is_told_as_prepare_tells_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        preview(FIELDS, [Source(str(tmp_path / "missing"), "text")])
