"""Digests against the blake3 package and hashlib-like oracles; sealed JSON under every bit flip."""

from __future__ import annotations

import errno
import json
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from whorl.core import digests
from whorl.core.digests import (
    canonical_json,
    digest_bytes,
    digest_file,
    digest_parts,
    digest_value,
    read_sealed,
    write_bytes,
    write_file,
    write_sealed,
)
from whorl.core.errors import RecordError, ResourceError

EMPTY = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"  # BLAKE3 test vector
JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=[])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def test_published_vector_and_the_package_itself(tmp_path: Path) -> None:
    assert digest_bytes(b"") == EMPTY
    path = tmp_path / "x"
    path.write_bytes(b"whorl" * 1000)
    assert digest_file(path) == blake3(b"whorl" * 1000).hexdigest()


@pytest.mark.parametrize("extra", [-1, 0, 1, digests.CHUNK_BYTES, digests.CHUNK_BYTES + 7])
def test_chunks_are_those_of_the_whole(tmp_path: Path, extra: int) -> None:
    data = random.Random(extra).randbytes(digests.CHUNK_BYTES + extra)
    path = tmp_path / "x"
    path.write_bytes(data)
    whole, chunks, size_bytes = digest_parts(path)
    pieces = [data[at : at + 4 * 2**20] for at in range(0, len(data), 4 * 2**20)]
    assert whole == blake3(data).hexdigest() and size_bytes == len(data)
    assert list(chunks) == [blake3(piece).hexdigest()[:16] for piece in pieces]


def test_value_digest_ignores_order_and_kind_of_keys() -> None:
    assert digest_value({"a": 1, "b": [1, 2]}) == digest_value({"b": (1, 2), "a": 1})
    assert digest_value({9: 1, 10: 2}) == digest_value({"10": 2, "9": 1})
    assert digest_value({"a": 1}) != digest_value({"a": 1.5})
    with pytest.raises(ValueError, match="JSON compliant"):
        canonical_json({"loss": float("nan")})


@settings(max_examples=40)
@given(st.dictionaries(st.text(), JSON_VALUES, max_size=5))
def test_sealed_values_come_back(tmp_path_factory: pytest.TempPathFactory, value: object) -> None:
    assert isinstance(value, dict)
    value.pop("blake3", None)
    path = tmp_path_factory.getbasetemp() / f"sealed-{os.getpid()}.json"
    write_sealed(path, value)
    assert read_sealed(path) == json.loads(json.dumps(value))


def test_every_bit_flip_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "sealed.json"
    write_sealed(path, {"text": "随 ü \ud800", "n": [1, 2.5, None, True]})
    whole = path.read_bytes()
    for bit in range(8 * len(whole)):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        with pytest.raises(RecordError, match=r"sealed\.json"):
            read_sealed(path)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "null", "{", "[" * 100_000, '{"blake3": 1}', "\x00"]
)
def test_what_is_not_sealed_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "sealed.json"
    path.write_text(text)
    with pytest.raises(RecordError):
        read_sealed(path)


def test_repeated_keys_and_blanks_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "sealed.json"
    write_sealed(path, {"a": 1})
    whole = path.read_bytes()
    for other in (whole + b"\n", whole.replace(b'"a"', b'"a": 2, "a"'), whole[:-1], b" " + whole):
        path.write_bytes(other)
        with pytest.raises(RecordError):
            read_sealed(path)


def test_write_is_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x"
    write_bytes(path, b"old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResourceError, match=r"1,000 bytes of room"):
        write_bytes(path, b"n" * 1000)
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["x"]


def test_write_into_a_missing_folder_says_so(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="No such file") as caught:
        write_bytes(tmp_path / "gone/x", b"1")
    assert caught.value.expected is None


def test_random_flips_of_a_file_are_named_by_chunk(
    tmp_path: Path, trials: Callable[[int], int]
) -> None:
    rng = random.Random(5)
    data = rng.randbytes(digests.CHUNK_BYTES + 999)
    path = tmp_path / "x"
    path.write_bytes(data)
    _, chunks, _ = digest_parts(path)
    for _ in range(trials(10)):
        bit = rng.randrange(8 * len(data))
        with path.open("r+b") as file:
            file.seek(bit // 8)
            file.write(bytes([data[bit // 8] ^ 1 << bit % 8]))
        found = digest_parts(path)[1]
        path.write_bytes(data)
        differing = [n for n in range(len(chunks)) if found[n] != chunks[n]]
        assert differing == [bit // 8 // digests.CHUNK_BYTES]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, OSError])
def test_what_cannot_be_made_leaves_what_was_there(
    tmp_path: Path, error: type[BaseException]
) -> None:
    def fill(temporary: Path) -> None:
        temporary.write_bytes(b"half")
        raise error

    (tmp_path / "x").write_bytes(b"old")
    with pytest.raises(ResourceError if error is OSError else error):
        write_file(tmp_path / "x", fill)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("x", b"old")]
