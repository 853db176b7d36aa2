"""Files in other encodings and compressions, beside what Python's codecs and compressors wrote."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from tests.fields.test_files import of_kind, read_all
from whorl.core import streams
from whorl.core.ports import Source

LINES = [f"Zeile {number}: größer, 貝殼, 🐚 und раковина" for number in range(400)]
TEXT = "\n".join(LINES) + "\n"
PACK: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "zst": zstandard.compress,
    "bz2": bz2.compress,
    "xz": lambda data: lzma.compress(data, preset=0),
}


def file(tmp_path: Path, name: str, data: bytes, encoding: str = "") -> Source:
    (tmp_path / name).write_bytes(data)
    return Source(str(tmp_path / name), "text", encoding=encoding)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("pack", ["", *PACK])
def test_marks_are_obeyed_in_texts_rows_and_tables(
    tmp_path: Path, encoding: str, pack: str
) -> None:
    rows = "\n".join(json.dumps({"text": line}, ensure_ascii=False) for line in LINES)
    table = "id,text\n" + "\n".join(f'1,"{line}"' for line in LINES)
    for name, text, count in (("a.txt", TEXT, 1), ("a.jsonl", rows, 400), ("a.csv", table, 400)):
        data = text.encode(encoding)
        source = file(tmp_path, name, PACK[pack](data) if pack else data)
        documents, reasons = read_all(source)
        assert not reasons and len(documents) == count
        assert documents[-1].text == (TEXT if count == 1 else LINES[-1])


def test_long_texts_of_another_encoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "WHOLE_BYTES", 3000)
    monkeypatch.setattr(streams, "PIECE_BYTES", 1000)
    monkeypatch.setattr(streams, "ALIGN_BYTES", 101)  # decoded at a time: within signs
    for encoding, given in (("utf-16", ""), ("utf-16-be", "utf-16-be"), ("gb18030", "gb18030")):
        documents, reasons = read_all(file(tmp_path, "a.txt", TEXT.encode(encoding), given))
        assert "".join(document.text or "" for document in documents) == TEXT and not reasons
        assert len(documents) > 10


def test_the_recipe_names_what_is_not_utf8(tmp_path: Path) -> None:
    for name, encoding in (("a.txt", "latin-1"), ("b.txt", "utf-8"), ("c.txt", "utf-16")):
        (tmp_path / name).write_text("größer und schöner", encoding)
    documents, reasons = read_all(Source(str(tmp_path), "text"))
    assert len(documents) == 2 and reasons == {"not UTF-8, looks like latin-1": 1}
    documents, reasons = read_all(Source(str(tmp_path), "text", encoding="latin-1"))
    assert [d.text for d in documents] == ["größer und schöner"] * 3 and not reasons


def test_a_wrong_encoding_is_told_and_keeps_what_came_before(tmp_path: Path) -> None:
    data = "これは文書です。\n".encode("shift-jis") * 9 + b"\xff\xff\n"
    documents, reasons = read_all(file(tmp_path, "a.txt", data, "shift-jis"))
    assert documents[0].text == "これは文書です。\n" * 9
    assert of_kind(reasons, "refused") == {"not shift_jis from some place on": 1}


def test_utf16_without_a_mark_is_recognised(tmp_path: Path) -> None:
    data = "plain words\n".encode("utf-16-le") * 9
    documents, reasons = read_all(file(tmp_path, "a.txt", data))
    assert not documents and reasons == {"NUL in text, looks like UTF-16-LE": 1}
    documents, _ = read_all(file(tmp_path, "a.txt", data, "utf-16-le"))
    assert documents[0].text == "plain words\n" * 9
    for name in ("a.jsonl", "a.csv"):
        source = file(tmp_path, name, '{"text": "plain"}\n'.encode("utf-16-be") * 9)
        assert read_all(source)[1] == {"NUL in text, looks like UTF-16-BE": 1}


@pytest.mark.parametrize("pack", PACK)
@pytest.mark.parametrize("name", ["a.txt", "a.TXT.GZ", "a.txt.Zst", "a.md.gz.zst"])
def test_compression_is_seen_whatever_the_name_says(tmp_path: Path, pack: str, name: str) -> None:
    for data in (PACK[pack](TEXT.encode()), PACK[pack](PACK["gz"](TEXT.encode()))):
        (tmp_path / name).write_bytes(data)
        documents, reasons = read_all(Source(str(tmp_path), "text"))
        assert [document.text for document in documents] == [TEXT] and not reasons


@pytest.mark.parametrize("pack", PACK)
def test_a_cut_file_keeps_what_came_before(tmp_path: Path, pack: str) -> None:
    text = "".join(f"{number} größer {number * number % 9973}\n" for number in range(90_000))
    data = PACK[pack](text.encode())
    for name in ("a.txt", "a.jsonl"):
        rows = "".join(json.dumps({"text": line}) + "\n" for line in text.splitlines())
        packed = data if name == "a.txt" else PACK[pack](rows.encode())
        documents, reasons = read_all(file(tmp_path, name, packed[: len(packed) * 3 // 4]))
        assert reasons[streams.DAMAGED] == 1
        joined = ("" if name == "a.txt" else "\n").join(d.text or "" for d in documents)
        assert text.startswith(joined) and len(joined) > len(text) // 4


def test_a_text_that_begins_like_compression_is_a_text(tmp_path: Path) -> None:
    for data in (b"BZh is a name", b"PK and so on", b"BZh91AY"):
        documents, reasons = read_all(file(tmp_path, "a.txt", data))
        assert [document.text for document in documents] == [data.decode()] and not reasons
