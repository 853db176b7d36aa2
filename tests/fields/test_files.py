"""Readers: what is read, how it is named, and that ranges and pieces join to the whole."""

from __future__ import annotations

import gzip
import io
import json
import os
from collections import Counter
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from whorl.core import streams
from whorl.core.errors import DataError
from whorl.core.ports import Document, Source
from whorl.core.reasons import kind_of
from whorl.fields import files
from whorl.fields.files import text_items
from whorl.fields.formats import read_item

TRIALS = int(float(os.environ.get("WHORL_TRIALS", "1")) * 60)


def read(
    path: Path | str, text_key: str = "text", suffixes: tuple[str, ...] = files.TEXT_SUFFIXES
) -> tuple[list[Document], Counter[str]]:
    """Documents of a source, and what was refused."""
    documents, reasons = read_all(Source(str(path), "text"), text_key, suffixes)
    return documents, of_kind(reasons, "refused")


def read_all(
    source: Source, text_key: str = "text", suffixes: tuple[str, ...] = files.TEXT_SUFFIXES
) -> tuple[list[Document], Counter[str]]:
    """Documents of a source, and every reason that was counted."""
    reasons: Counter[str] = Counter()
    documents = []
    for item in text_items(source, suffixes):
        documents += read_item(item, lambda reason: reasons.update([reason]), text_key)
    return documents, reasons


def of_kind(reasons: Counter[str], kind: str) -> Counter[str]:
    return Counter({reason: n for reason, n in reasons.items() if kind_of(reason) == kind})


def named(documents: list[Document]) -> dict[str, str | None]:
    return {document.name: document.text for document in documents}


def test_a_folder_is_read_with_all_below(tmp_path: Path) -> None:
    for name in ("b.txt", "a/c.md", "a/b/d.rst", ".hidden/x.txt", "__pycache__/y.txt", "pic.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"text of {name}")
    documents, rejected = read(tmp_path)
    assert list(named(documents)) == ["a/b/d.rst", "a/c.md", "b.txt"]
    assert named(documents)["a/c.md"] == "text of a/c.md" and not rejected


def test_a_tree_of_source_code(tmp_path: Path) -> None:
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg" / "mod.py").write_text("x = 1\r\n")
    (tmp_path / "pkg" / "notes.txt").write_text("no code")
    documents, _ = read(tmp_path, suffixes=(".py",))
    assert named(documents) == {"pkg/mod.py": "x = 1\r\n"}


@pytest.mark.parametrize("suffix", ["jsonl", "jsonl.gz", "jsonl.zst", "ndjson"])
def test_jsonl_and_its_compressions(tmp_path: Path, suffix: str) -> None:
    rows = [{"text": "first", "id": 1}, {"text": "zweite Zeile\nmit Umbruch"}, {"text": "三"}]
    data = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode() + b"\n\n"
    if suffix.endswith("gz"):
        data = gzip.compress(data[:40]) + gzip.compress(data[40:])  # two members
    elif suffix.endswith("zst"):
        compressor = zstandard.ZstdCompressor()
        data = compressor.compress(data[:40]) + compressor.compress(data[40:])  # two frames
    (tmp_path / f"rows.{suffix}").write_bytes(data)
    documents, rejected = read(tmp_path)
    assert [document.text for document in documents] == [row["text"] for row in rows]
    assert [document.name for document in documents][:2] == [
        f"rows.{suffix}@0",
        f"rows.{suffix}@27",
    ]
    assert not rejected


def test_files_globs_and_links_that_are_named(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for name in ("one.log", "two.txt"):
        (tmp_path / "data" / name).write_text(name)
    assert named(read(tmp_path / "data" / "one.log")[0]) == {"one.log": "one.log"}
    assert list(named(read(tmp_path / "data" / "*.txt")[0])) == ["two.txt"]
    assert list(named(read(tmp_path / "d*" / "*")[0])) == ["data/one.log", "data/two.txt"]
    (tmp_path / "link").symlink_to(tmp_path / "data")
    assert list(named(read(tmp_path / "link")[0])) == ["two.txt"]


def test_other_text_key(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"content": "yes", "text": 3}\n{"text": "no"}\n')
    documents, rejected = read(tmp_path, "content")
    assert [d.text for d in documents] == ["yes"] and rejected == {"no key content": 1}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"text": ' + b"[" * 100_000, "JSON nested too deeply"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "JSON nested too deeply"),
        (b'{"text": "caf\xe9"}', "not UTF-8, looks like latin-1"),
        (b'\xff\xfe{\x00"\x00', "not UTF-8, looks like UTF-16-LE"),
        (b"[1, 2]", "JSON but not an object"),
        (b'"text"', "JSON but not an object"),
        (b'{"text": null}', "text is not a text"),
        (b'{"text": ["a"]}', "text is not a text"),
        (b'{"text": "  \\n "}', "empty"),
        (b'{"txt": "a"}', "no key text"),
        (b'{"text": "a"', "JSON ends too early"),
        (b'{"text": a}', "not JSON"),
        (b'{"text": 1' + b"0" * 10_000 + b"}", "text is not a text"),
    ],
)
def test_rows_that_are_rejected(tmp_path: Path, line: bytes, reason: str) -> None:
    good = b'{"text": "good"}\n'
    (tmp_path / "x.jsonl").write_bytes(good + line + b"\n" + good)
    documents, rejected = read(tmp_path)
    assert [d.text for d in documents] == ["good", "good"]
    assert rejected == {reason: 1}


@pytest.mark.parametrize(
    ("data", "text", "reason"),
    [
        ("\ufeffwith a mark".encode(), "with a mark", None),
        ("für alle".encode("utf-16"), "für alle", None),
        (b"caf\xe9", None, "not UTF-8, looks like latin-1"),
        (b"a\x00b", None, "NUL in text"),
        (b" \n\t", None, "empty"),
        (b'=cmd|"/c calc"!A0,1\n', '=cmd|"/c calc"!A0,1\n', None),
    ],
)
def test_files_as_they_come(
    tmp_path: Path, data: bytes, text: str | None, reason: str | None
) -> None:
    (tmp_path / "x.txt").write_bytes(data)
    documents, rejected = read(tmp_path)
    assert [d.text for d in documents] == ([] if text is None else [text])
    assert rejected == ({} if reason is None else {reason: 1})


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.txt")).write_text("text")
    documents, _ = read(tmp_path)
    assert [d.name for d in documents] == ["caf\\xe9.txt"]


# ------------------------------------------------------------------ errors, one clear line


def test_a_missing_source() -> None:
    for path in ("/no/such/file.jsonl", "/no/such/folder/*.txt"):
        with pytest.raises(DataError, match="does not exist") as error:
            read(path)
        assert "\n" not in str(error.value)


def test_a_source_without_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no file to read; found: nothing; expected: \.txt"):
        read(tmp_path)
    (tmp_path / "a.png").write_text("x")
    with pytest.raises(DataError, match=r"found: 1 other files: 1 x suffix \.png"):
        read(tmp_path)
    with pytest.raises(DataError, match="holds no file to read"):
        read(tmp_path / "*.jsonl")


def test_an_empty_source(tmp_path: Path) -> None:
    (tmp_path / "a.txt").touch()
    with pytest.raises(DataError, match="is empty; found: files of 0 bytes: 1"):
        read(tmp_path)


def test_a_format_that_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "a.arrow").write_bytes(b"ARROW1")
    for path in (tmp_path / "a.arrow", tmp_path / "*.arrow"):
        with pytest.raises(DataError, match=r"format that is not read.*a\.arrow.*convert"):
            read(path)


def test_a_file_that_changes(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_text("before")
    (item,) = text_items(Source(str(tmp_path), "text"))
    path.write_text("before and after")
    with pytest.raises(DataError, match="changed while it was being read"):
        list(read_item(item, lambda reason: None))


# ------------------------------------------------------------------ ranges and pieces


@settings(max_examples=TRIALS)
@given(
    st.lists(st.binary(max_size=30).map(lambda b: b.replace(b"\n", b"")), max_size=20),
    st.lists(st.integers(1, 400), max_size=5),
    st.booleans(),
)
def test_ranges_of_lines_join(rows: list[bytes], cuts: list[int], last_ends: bool) -> None:
    """Each line comes once, from the range it begins in."""
    data = b"\n".join(rows) + (b"\n" if last_ends else b"")
    ends = sorted({cut for cut in cuts if cut < len(data)})
    found = []
    for start, end in zip([0, *ends], [*ends, None], strict=True):
        for offset, line in streams.lines(io.BytesIO(data), start, end):
            assert line is not None and data[offset:].startswith(line)
            assert start <= offset and (end is None or offset < end)
            found.append(line)
    assert b"".join(found) == data
    assert all(line.endswith(b"\n") for line in found[:-1])
    assert all(b"\n" not in line[:-1] for line in found)


@settings(max_examples=TRIALS)
@given(
    st.lists(
        st.sampled_from(["a", "é", "的", "🐚", "\n", "\n\n", "word " * 9, "的" * 40]), max_size=60
    ),
    st.integers(8, 64),
    st.lists(st.integers(1, 2000), max_size=4),
)
def test_pieces_of_text_join(texts: list[str], piece_bytes: int, cuts: list[int]) -> None:
    """Any text cut into ranges and pieces joins to itself, and no character is cut."""
    data = "".join(texts).encode()
    ends = sorted({cut for cut in cuts if cut < len(data)})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams, "PIECE_BYTES", piece_bytes)
        patch.setattr(streams, "WHOLE_BYTES", 4 * piece_bytes)
        patch.setattr(streams, "ALIGN_BYTES", 4)
        found = []
        for start, end in zip([0, *ends], [*ends, None], strict=True):
            for offset, piece in streams.pieces(io.BytesIO(data), start, end):
                assert piece.decode() is not None
                assert offset is None or data[offset:].startswith(piece)
                assert offset is None or len(piece) <= piece_bytes
                found.append(piece)
    assert b"".join(found) == data


def test_long_files_become_items_and_documents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "RANGE_BYTES", 5000)
    monkeypatch.setattr(streams, "PIECE_BYTES", 1000)
    monkeypatch.setattr(streams, "WHOLE_BYTES", 4000)
    monkeypatch.setattr(streams, "ALIGN_BYTES", 100)
    text = "".join(f"paragraph {n}\nsecond line\n\n" for n in range(800))
    (tmp_path / "long.txt").write_text(text)
    rows = "".join(json.dumps({"text": f"row {n}"}) + "\n" for n in range(800))
    (tmp_path / "long.jsonl").write_text(rows)
    items = text_items(Source(str(tmp_path), "text"))
    assert len(items) == -(-len(text) // 5000) + -(-len(rows) // 5000)
    documents, rejected = read(tmp_path)
    assert not rejected and len({d.name for d in documents}) == len(documents)
    pieces = [d.text or "" for d in documents if d.name.startswith("long.txt@")]
    assert "".join(pieces) == text and max(map(len, pieces)) <= 1000
    assert sum(piece.endswith("\n\n") for piece in pieces) > 0.7 * len(pieces)
    assert [d.text for d in documents if ".jsonl" in d.name] == [f"row {n}" for n in range(800)]


def test_rows_too_long_are_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "MAX_ROW_BYTES", 100)
    rows = [{"text": "short"}, {"text": "x" * 300}, {"text": "y" * (99 - 12)}, {"text": "end"}]
    (tmp_path / "x.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    documents, rejected = read(tmp_path)
    assert [d.text for d in documents] == ["short", "y" * 87, "end"]
    assert rejected == {"row longer than 100 bytes": 1}


# ------------------------------------------------------------------ compressed files that lie


@pytest.mark.parametrize("suffix", ["gz", "zst"])
def test_damaged_compression_keeps_what_came_before(tmp_path: Path, suffix: str) -> None:
    data = b"".join(b'{"text": "row %d of many"}\n' % n for n in range(20_000))
    packed = gzip.compress(data) if suffix == "gz" else zstandard.compress(data)
    (tmp_path / f"cut.jsonl.{suffix}").write_bytes(packed[: len(packed) // 2])
    (tmp_path / f"bad.jsonl.{suffix}").write_bytes(b"not compressed at all")
    documents, rejected = read(tmp_path)
    assert rejected[streams.DAMAGED] == 1 and rejected["not JSON"] == 1
    assert 4_000 < len(documents) < 11_000
    texts = [document.text for document in documents]
    assert texts == [f"row {n} of many" for n in range(len(texts))]


@pytest.mark.parametrize("suffix", ["gz", "zst"])
def test_a_bomb_is_stopped(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "FREE_BYTES", 2**20)
    bomb = b'{"text": "good"}\n' + b"\n" * (64 * 2**20)
    packed = gzip.compress(bomb) if suffix == "gz" else zstandard.compress(bomb)
    (tmp_path / f"bomb.jsonl.{suffix}").write_bytes(packed)
    documents, rejected = read(tmp_path)
    assert [d.text for d in documents] == ["good"]
    assert rejected == {"file expands more than 200 times": 1}


def test_a_file_swapped_for_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("SECRET")
    source = tmp_path / "source"
    source.mkdir()
    path = source / "x.txt"
    path.write_text("harmless")
    (item,) = text_items(Source(str(source), "text"))
    path.unlink()
    path.symlink_to(tmp_path / "secret.txt")
    rejected: list[str] = []
    assert list(read_item(item, rejected.append)) == [] and rejected == ["link out of the source"]
