"""Digest and facts of data: of content, not of places."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.stages.prepare.support import FIELDS, PixelField, story, write_stories
from whorl.core.errors import DataError, SpecError
from whorl.core.ports import Document, Source
from whorl.core.sources import DatasetItem, SourceIndex
from whorl.stages.prepare.facts import data_digest, text_bytes


def digest(*paths: Path, field: str = "text", text_key: str = "text") -> str:
    return data_digest(
        FIELDS, [Source(str(path), field, options={"text_key": text_key}) for path in paths]
    )


def test_equal_content_elsewhere_has_the_same_digest(tmp_path: Path) -> None:
    first = write_stories(tmp_path / "a" / "texts", range(9))
    second = write_stories(tmp_path / "b" / "other name", reversed(range(9)))
    assert digest(first) == digest(second)
    os.utime(second / "story-0003.txt", (0, 0))
    assert digest(first) == digest(second)


def test_any_change_changes_the_digest(tmp_path: Path) -> None:
    base = write_stories(tmp_path / "base", range(4))
    seen = {digest(base), digest(base, base), digest(base, text_key="content")}
    for number in range(4):
        copy = tmp_path / f"copy-{number}"
        shutil.copytree(base, copy)
        path = copy / "story-0001.txt"
        if number == 0:
            path.write_bytes(path.read_bytes()[:-1] + b"!")
        elif number == 1:
            path.rename(copy / "renamed.txt")
        elif number == 2:
            path.unlink()
        else:
            (copy / "link.txt").symlink_to(tmp_path)
        seen.add(digest(copy))
    assert len(seen) == 7


def test_fields_without_files_are_digested_by_their_documents() -> None:
    source = [Source("anything", "pixels")]
    first = data_digest({"pixels": PixelField(20)}, source)
    assert first == data_digest({"pixels": PixelField(20)}, source)
    assert first != data_digest({"pixels": PixelField(21)}, source)


def test_unknown_fields_and_missing_sources(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="no field speech; expected: pixels, text"):
        digest(tmp_path, field="speech")
    with pytest.raises(DataError, match="does not exist"):
        digest(tmp_path / "missing")
    with pytest.raises(DataError, match="does not exist"):
        text_bytes(FIELDS, [Source(str(tmp_path / "missing"), "text")])


def test_text_of_files(tmp_path: Path) -> None:
    write_stories(tmp_path, range(300))
    num_bytes = sum(path.stat().st_size for path in tmp_path.iterdir())
    found = text_bytes(FIELDS, [Source(str(tmp_path), "text")])
    assert found == pytest.approx(num_bytes, rel=0.01)


@pytest.mark.parametrize("packed", [False, True])
def test_text_of_jsonl(tmp_path: Path, packed: bool) -> None:
    """Text is part of the bytes of its rows, and several times those of a packed file."""
    texts = [story(number, 40) for number in range(2000)]
    rows = [json.dumps({"id": n, "note": "y" * 500, "text": t}) for n, t in enumerate(texts)]
    data = "\n".join(rows).encode()
    name = "rows.jsonl.gz" if packed else "rows.jsonl"
    (tmp_path / name).write_bytes(gzip.compress(data, 1) if packed else data)
    found = text_bytes(FIELDS, [Source(str(tmp_path / name), "text")])
    assert found == pytest.approx(sum(len(t.encode()) for t in texts), rel=0.2)


def test_text_of_a_large_source_is_sampled_evenly(tmp_path: Path) -> None:
    """Rows get fuller from file to file: a sample of the first ones would be far off."""
    total = 0
    for number in range(400):
        rows = [json.dumps({"text": "x" * 50 * number or "x", "note": "y" * 2000})] * 5
        (tmp_path / f"{number:03d}.jsonl").write_text("\n".join(rows))
        total += 5 * (50 * number or 1)
    found = text_bytes(FIELDS, [Source(str(tmp_path), "text")])
    assert found == pytest.approx(total, rel=0.05)


def test_text_of_documents_without_text() -> None:
    assert text_bytes(FIELDS, [Source("anything", "pixels")]) == 0


def test_a_known_data_set_is_not_decoded(tmp_path: Path) -> None:
    class Known(PixelField):
        def items(self, source: Source) -> list[DatasetItem]:
            return [DatasetItem(part, f"pixels 1.0, part {part}", 70) for part in range(3)]

        def read(self, source: Source, item: object, reject: object) -> Iterator[Document]:
            raise AssertionError("decoded")

    class Newer(Known):
        def items(self, source: Source) -> list[DatasetItem]:
            return [DatasetItem(part, f"pixels 1.1, part {part}") for part in range(3)]

    source = [Source("anything", "pixels")]
    first = data_digest({"pixels": Known()}, source)
    assert first == data_digest({"pixels": Known()}, source)
    assert first != data_digest({"pixels": Newer()}, source)
    assert text_bytes({"pixels": Known()}, source) == 210


def test_the_index_does_not_change_the_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    later_ns = time.time_ns() + 10**13  # files are only remembered once they are old
    monkeypatch.setattr("whorl.core.sources.time.time_ns", lambda: later_ns)
    folder = write_stories(tmp_path / "texts", range(9))
    sources, index = [Source(str(folder), "text")], SourceIndex(tmp_path / "home")
    without = data_digest(FIELDS, sources)
    assert data_digest(FIELDS, sources, 2, index) == data_digest(FIELDS, sources, 1, index)
    assert data_digest(FIELDS, sources, 2, index) == without
    assert any((tmp_path / "home").rglob("*"))
