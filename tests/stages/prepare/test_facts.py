"""Digest and facts of data: of content, not of places."""

from __future__ import annotations

import gzip
import json
import os
import shutil
from itertools import pairwise
from pathlib import Path

import pytest

from tests.stages.prepare.support import FIELDS, PixelField, story, write_stories
from whorl.core.errors import DataError, SpecError
from whorl.core.ports import Source
from whorl.stages.prepare.facts import data_digest, data_facts


def digest(*paths: Path, field: str = "text", text_key: str = "text") -> str:
    return data_digest(FIELDS, [Source(str(path), field, text_key=text_key) for path in paths])


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
        data_facts(FIELDS, [Source(str(tmp_path / "missing"), "text")])


def test_facts_of_files(tmp_path: Path) -> None:
    write_stories(tmp_path, range(300))
    facts = data_facts(FIELDS, [Source(str(tmp_path), "text")])
    num_bytes = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert (facts.num_files, facts.num_bytes, facts.num_documents) == (300, num_bytes, None)
    assert facts.text_bytes == pytest.approx(num_bytes, rel=0.01)
    assert story(0)[:50] in facts.sample and story(299)[:50] in facts.sample


@pytest.mark.parametrize("packed", [False, True])
def test_facts_of_jsonl(tmp_path: Path, packed: bool) -> None:
    """Text is part of the bytes of its rows, and several times those of a packed file."""
    texts = [story(number, 40) for number in range(2000)]
    rows = [json.dumps({"id": n, "note": "y" * 500, "text": t}) for n, t in enumerate(texts)]
    data = "\n".join(rows).encode()
    name = "rows.jsonl.gz" if packed else "rows.jsonl"
    (tmp_path / name).write_bytes(gzip.compress(data, 1) if packed else data)
    facts = data_facts(FIELDS, [Source(str(tmp_path / name), "text")])
    assert facts.text_bytes == pytest.approx(sum(len(t.encode()) for t in texts), rel=0.2)
    assert facts.num_files == 1 and len(facts.sample) > 10_000


def test_facts_of_a_large_source_sample_it_evenly(tmp_path: Path) -> None:
    for number in range(400):
        (tmp_path / f"{number:03d}.txt").write_text(f"file {number} " + "x" * 20_000)
    facts = data_facts(FIELDS, [Source(str(tmp_path), "text")])
    places = sorted(int(part.split()[0]) for part in facts.sample.split("file ")[1:])
    assert 100 <= len(places) <= 130 and len(facts.sample) <= 2**20 + 200
    gaps = [b - a for a, b in pairwise(places)]
    assert max(gaps) <= 5 and places[0] < 5 and places[-1] > 394


def test_facts_of_documents_without_text() -> None:
    facts = data_facts(FIELDS, [Source("anything", "pixels")])
    assert (facts.num_documents, facts.num_files, facts.text_bytes) == (20, 0, 0)
    assert facts.sample == "" and facts.num_bytes > 0
