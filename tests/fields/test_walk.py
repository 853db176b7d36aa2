"""Which files a source is: links, what is passed over, what whorl wrote, odd names of folders."""

from __future__ import annotations

import gzip
import json
import os
from collections import Counter
from pathlib import Path

import pytest
from blake3 import blake3

from tests.fields.test_files import named, of_kind, read, read_all
from whorl.core.errors import DataError
from whorl.core.ports import Source
from whorl.core.reasons import kind_of, table_rows
from whorl.fields.walk import SEEN


def make_linked(tmp_path: Path) -> Path:
    """A folder with links of every kind, and what they lead to outside of it."""
    store, source = tmp_path / "store", tmp_path / "source"
    for name in ("key.txt", "below/deep.txt"):
        (store / name).parent.mkdir(parents=True, exist_ok=True)
        (store / name).write_text(f"outside {name}")
    (store / "back").symlink_to(source)
    (store / "below" / "round").symlink_to(store)
    source.mkdir()
    (source / "good.txt").write_text("good")
    (source / "out.txt").symlink_to(store / "key.txt")
    (source / "dots.txt").symlink_to("../store/key.txt")
    (source / "folder").symlink_to(store)
    (source / "again").symlink_to(store / "below")
    (source / "itself").symlink_to(source)
    (source / "above").symlink_to(tmp_path)
    (source / "in.txt").symlink_to("good.txt")
    (source / "nowhere.txt").symlink_to("missing")
    (source / "circle.txt").symlink_to("circle.txt")
    os.mkfifo(source / "pipe.txt")
    return source


def test_links_are_followed_and_circles_end(tmp_path: Path) -> None:
    source = make_linked(tmp_path)
    documents, reasons = read_all(Source(str(source), "text"))
    assert named(documents) == {
        "again/deep.txt": "outside below/deep.txt",
        "dots.txt": "outside key.txt",
        "folder/key.txt": "outside key.txt",
        "good.txt": "good",
        "in.txt": "good",
        "out.txt": "outside key.txt",
    }
    assert of_kind(reasons, "refused") == {
        "file cannot be read": 1,
        "link to nothing": 1,
        "not a regular file": 1,
        "link to a folder that the source lies in": 1,
    }
    assert of_kind(reasons, "passed over") == {SEEN: 4}


def test_a_pattern_through_links_reads_each_file_once(tmp_path: Path) -> None:
    source = make_linked(tmp_path)
    (source / "above").unlink()
    documents, reasons = read_all(Source(str(source / "**" / "*.txt"), "text"))
    texts = Counter(document.text for document in documents)
    assert texts == {"good": 2, "outside key.txt": 3, "outside below/deep.txt": 1}
    assert reasons[SEEN] == 4


def test_what_was_fetched_leads_nowhere_outside(tmp_path: Path) -> None:
    source = make_linked(tmp_path)
    documents, reasons = read_all(Source(str(source), "text", release={"version": "1"}))
    assert named(documents) == {"good.txt": "good", "in.txt": "good"}
    assert reasons["link out of the source"] == 5
    pattern = Source(str(source / "**" / "*.txt"), "text", release={"version": "1"})
    assert {d.text for d in read_all(pattern)[0]} == {"good"}


def test_a_cache_of_links_is_read(tmp_path: Path) -> None:
    """Names in one folder, contents in another under their digests, also named one by one."""
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshot").mkdir()
    row = json.dumps({"text": "a row"}).encode()
    for name, data in (("a.txt", b"a text"), ("b.jsonl", row), ("c.jsonl.gz", gzip.compress(row))):
        blob = tmp_path / "blobs" / blake3(data).hexdigest()
        blob.write_bytes(data)
        (tmp_path / "snapshot" / name).symlink_to(f"../blobs/{blob.name}")
    documents, rejected = read(tmp_path / "snapshot")
    assert [d.text for d in documents] == ["a text", "a row", "a row"] and not rejected
    assert named(read(tmp_path / "snapshot" / "b.jsonl")[0]) == {"b.jsonl@0": "a row"}


def test_a_hidden_store_in_the_source_is_read_through_its_links(tmp_path: Path) -> None:
    store = tmp_path / ".store" / "ab"
    store.mkdir(parents=True)
    (store / "a.txt").write_text("stored")
    (tmp_path / "data").symlink_to(store)
    (tmp_path / "b.txt").symlink_to(store / "a.txt")
    documents, rejected = read(tmp_path)
    assert list(named(documents)) == ["b.txt", "data/a.txt"] and not rejected


def test_files_passed_over_are_counted_with_the_first_of_them(tmp_path: Path) -> None:
    for name in ("a.txt", "b.csv2", "c.json", "sub/d.json", ".git/x.txt", ".e.txt", "f", "Z.JSON"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    documents, reasons = read_all(Source(str(tmp_path), "text"))
    assert list(named(documents)) == ["a.txt"]
    assert {kind_of(reason) for reason in reasons} == {"passed over"}
    rows = {row["reason"]: (row["count"], row["example"]) for row in table_rows(reasons)}
    assert rows == {
        "suffix .json": (3, "Z.JSON"),
        "suffix .csv2": (1, "b.csv2"),
        "no usual suffix": (1, "f"),
        "file named .*": (1, ".e.txt"),
        "folder named .*": (1, ".git"),
    }
    for number in range(40):
        (tmp_path / f"x.s{number}").touch()
    assert len(read_all(Source(str(tmp_path), "text"))[1]) <= 14


def test_what_whorl_wrote_is_no_data(tmp_path: Path) -> None:
    """Its home, by its name; a record of another home, by what it is."""
    (tmp_path / "a.txt").write_text("data")
    for name in ("runs/t/notes.txt", f"old/t/train/{'0a' * 16}/x.txt", f"{'1b' * 16}.run/log.txt"):
        path = tmp_path / name
        path.parent.mkdir(parents=True)
        path.write_text("not data")
    (tmp_path / f"old/t/train/{'0a' * 16}/manifest.json").write_text("{}")
    home = str(tmp_path / "runs")
    for place in (tmp_path, tmp_path / "**" / "*.txt"):
        documents, _ = read_all(Source(str(place), "text", apart=(home,)))
        assert list(named(documents)) == ["a.txt"], place
    documents, _ = read_all(Source(str(tmp_path / "runs" / "t"), "text", apart=(home,)))
    assert list(named(documents)) == ["notes.txt"], "a source in the home was asked for"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_folders_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    (tmp_path / "closed").mkdir(mode=0)
    documents, rejected = read(tmp_path)
    assert len(documents) == 1 and rejected == {"folder cannot be read": 1}


@pytest.mark.parametrize("folder", ["[ab]", "a*b?", "plain", "[!x]", "10:30", "a[b"])
@pytest.mark.parametrize(
    "source", ["texts", "texts/*.txt", "10:30", "t*/[ab].txt", "./texts/../*/"]
)
def test_pattern_signs_in_the_recipes_folder_are_letters(
    tmp_path: Path, folder: str, source: str
) -> None:
    for below in ("texts", "10:30"):
        (tmp_path / folder / below).mkdir(parents=True)
        (tmp_path / folder / below / "a.txt").write_text(f"{below}/a.txt")
    if source.endswith("/"):
        with pytest.raises(DataError, match="holds no file to read"):
            read_all(Source(source, "text", folder=str(tmp_path / folder)))
        return
    documents, _ = read_all(Source(source, "text", folder=str(tmp_path / folder)))
    (document,) = documents
    assert document.text == ("10:30/a.txt" if source == "10:30" else "texts/a.txt")
    assert document.name == ("texts/a.txt" if source.startswith("t*") else "a.txt")
