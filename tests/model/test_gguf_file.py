"""Headers of GGUF files: what is there, and every way in which a file can lie about itself."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.model.gguf_files import write_gguf
from whorl.core.errors import DataError
from whorl.model.gguf_file import KINDS, open_gguf


def text(value: str) -> bytes:
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def fact(key: str, kind: int, body: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + body


def tensor(name: str, sizes: tuple[int, ...], kind: int, offset: int) -> bytes:
    head = text(name) + struct.pack(f"<I{len(sizes)}Q", len(sizes), *sizes)
    return head + struct.pack("<IQ", kind, offset)


def header(
    facts: bytes = b"",
    num_facts: int = 0,
    tensors: bytes = b"",
    num_tensors: int = 0,
    version: int = 3,
    magic: bytes = b"GGUF",
) -> bytes:
    return magic + struct.pack("<IQQ", version, num_tensors, num_facts) + facts + tensors


def padded(data: bytes, more: int) -> bytes:
    return data + bytes(-len(data) % 32) + bytes(more)


ONE = tensor("a", (8,), 0, 0)
TWO = ONE + tensor("b", (8,), 0, 32)
HOSTILE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "not a GGUF file"),
    "another magic": (header(magic=b"PK\x03\x04"), "not a GGUF file"),
    "big-endian": (header(magic=b"FUGG"), "big-endian"),
    "big-endian by its version": (b"GGUF\0\0\0\x03" + bytes(16), "big-endian"),
    "version 1": (header(version=1), "version 1"),
    "version 99": (header(version=99), "version 99"),
    "no counts": (b"GGUF\x03\0\0\0", "ends within the number of tensors"),
    "facts without end": (header(num_facts=2**63), "more facts"),
    "tensors without end": (header(num_tensors=2**62), "more tensors"),
    "a key without end": (header(struct.pack("<Q", 2**40) + b"abcdef", 1), "more bytes of"),
    "a text without end": (header(fact("k", 8, struct.pack("<Q", 2**64 - 1)), 1), "more bytes of"),
    "a list without end": (
        header(fact("k", 9, struct.pack("<IQ", 4, 2**60)), 1),
        "more items of k",
    ),
    "texts without end": (header(fact("k", 9, struct.pack("<IQ", 8, 2**50)), 1), "more items"),
    "a list of lists": (header(fact("k", 9, struct.pack("<IQ", 9, 1)), 1), "something else"),
    "an unknown fact": (header(fact("k", 13, bytes(8)), 1), "type that GGUF does not have"),
    "a fact twice": (header(2 * fact("k", 0, b"\1"), 2), "k stands twice"),
    "no UTF-8": (header(struct.pack("<Q", 2) + b"\xff\xfe" + bytes(8), 1), "not UTF-8"),
    "cut in a tensor": (padded(header(tensors=ONE, num_tensors=1), 31), "ends within the tensor a"),
    "a tensor twice": (padded(header(tensors=2 * ONE, num_tensors=2), 64), "a stands twice"),
    "an unknown type": (
        padded(header(tensors=tensor("a", (32,), 77, 0), num_tensors=1), 64),
        "type 77",
    ),
    "a type that is not read": (
        padded(header(tensors=tensor("a", (256,), 10, 0), num_tensors=1), 256),
        "type 10",
    ),
    "half a block": (
        padded(header(tensors=tensor("a", (33,), 8, 0), num_tensors=1), 99),
        "whole blocks",
    ),
    "no weights": (padded(header(tensors=tensor("a", (0,), 0, 0), num_tensors=1), 9), "sizes"),
    "no axes": (padded(header(tensors=tensor("a", (), 0, 0), num_tensors=1), 9), "0 axes"),
    "nine axes": (padded(header(tensors=tensor("a", (1,) * 9, 0, 0), num_tensors=1), 9), "9 axes"),
    "sizes beyond the file": (
        padded(header(tensors=tensor("a", (2**63, 2**63), 0, 0), num_tensors=1), 64),
        "ends within the tensor a",
    ),
    "on each other": (
        padded(header(tensors=ONE + tensor("b", (8,), 0, 0), num_tensors=2), 64),
        "where the tensor before it ends",
    ),
    "between two": (
        padded(header(tensors=ONE + tensor("b", (8,), 0, 33), num_tensors=2), 96),
        "where the tensor before it ends",
    ),
    "far away": (
        padded(header(tensors=tensor("a", (8,), 0, 2**62), num_tensors=1), 64),
        "ends within the tensor a",
    ),
    "an odd alignment": (
        padded(header(fact("general.alignment", 4, struct.pack("<I", 3)), 1), 9),
        "power of two",
    ),
    "no alignment": (
        padded(header(fact("general.alignment", 4, struct.pack("<I", 0)), 1), 9),
        "power of two",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused(name: str, tmp_path: Path) -> None:
    data, message = HOSTILE[name]
    (tmp_path / "x.gguf").write_bytes(data)
    with pytest.raises(DataError, match=message) as caught:
        open_gguf(tmp_path / "x.gguf")
    assert "x.gguf" in str(caught.value)


def test_a_good_file_is_read(tmp_path: Path) -> None:
    """What the hostile ones are variations of."""
    facts = fact("k", 9, struct.pack("<IQ", 8, 2) + text("é") + text("")) + fact(
        "n", 5, b"\xff" * 4
    )
    data = header(facts, 2, TWO, 2)
    body = np.arange(16, dtype="<f4").tobytes()
    (tmp_path / "x.gguf").write_bytes(padded(data, 0) + body)
    file = open_gguf(tmp_path / "x.gguf")
    assert dict(file.facts) == {"k": ["é", ""], "n": -1}
    assert file.read("b").tolist() == [8, 9, 10, 11, 12, 13, 14, 15]


@given(data=st.data())
def test_any_damage_is_an_error_or_the_same_kind_of_file(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Cut anywhere, or with any bytes changed: read or refused, never anything else."""
    facts = fact("k", 9, struct.pack("<IQ", 8, 2) + text("ab") + text("c"))
    whole = bytearray(padded(header(facts, 1, TWO, 2), 64))
    place = data.draw(st.integers(0, len(whole) - 1))
    if data.draw(st.booleans()):
        whole = whole[:place]
    else:
        change = data.draw(st.binary(min_size=1, max_size=8))
        whole[place : place + len(change)] = change
    path = tmp_path_factory.getbasetemp() / "damaged.gguf"
    path.write_bytes(bytes(whole))
    try:
        file = open_gguf(path)
    except DataError:
        return
    assert all(t.start + t.num_bytes <= len(whole) for t in file.tensors.values())


def random_blocks(kind: int, rows: int, blocks: int) -> np.ndarray:
    """Bytes of whole blocks whose scales, float16, are ordinary numbers."""
    generator = np.random.default_rng(kind)
    _, _, block_bytes = KINDS[kind]
    out = generator.integers(0, 256, (rows, blocks, block_bytes), np.uint8)
    scales = {2: [0], 3: [0, 2], 8: [0], 12: [0, 2], 14: [208]}[kind]
    for place in scales:
        numbers = generator.uniform(-1, 1, (rows, blocks)).astype(np.float16)
        out[..., place : place + 2] = numbers[..., None].view(np.uint8)
    return out.reshape(rows, -1)


@pytest.mark.parametrize("kind", [2, 3, 8, 12, 14])
def test_blocks_are_decoded_as_transformers_does(kind: int, tmp_path: Path) -> None:
    """Every type of block against transformers' own decoder, which is not the library's."""
    pytest.importorskip("gguf", reason="the package gguf is not installed")
    import torch
    from transformers.integrations.gguf import dequant

    label, block, _ = KINDS[kind]
    data = random_blocks(kind, 3, 2)
    head = header(tensors=tensor("a", (2 * block, 3), kind, 0), num_tensors=1)
    (tmp_path / "x.gguf").write_bytes(padded(head, 0) + data.tobytes())
    found = open_gguf(tmp_path / "x.gguf").read("a")
    expected = transformers_decoded(dequant, torch.from_numpy(data), kind, (3, 2 * block))
    assert found.shape == (3, 2 * block), label
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def transformers_decoded(dequant: Any, data: Any, kind: int, sizes: tuple[int, int]) -> Any:
    return dequant.dequantize(data, kind).float().reshape(sizes).numpy()


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16"])
def test_plain_numbers_are_read_as_they_are(kind: str, tmp_path: Path) -> None:
    numbers = np.linspace(-3, 3, 64, dtype=np.float32).reshape(2, 32)
    facts = {"general.architecture": "llama", "x.flag": True, "x.names": ["a", "ü"], "x.n": 7}
    path = write_gguf(tmp_path / "x.gguf", facts, {"a": numbers}, kind)
    file = open_gguf(path)
    assert file.facts["x.flag"] is True and file.facts["x.names"] == ["a", "ü"]
    found = file.read("a")
    if kind == "BF16":
        found = (found.astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_allclose(
        found.astype(np.float32), numbers, rtol={"BF16": 2**-7}.get(kind, 1e-3)
    )


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "an empty file"),
        (b"GG", "take the file from its source again"),
        (b"GGUF", "ends within its first bytes"),
        (b"GGUF\x03\0\0\0", "take the file from its source again"),
        (b"GGUF\x09\0\0\0", "convert the model again"),
        (b"PK\x03\x04 of a zip", "name another file"),
        (b"GGUF\x03\0\0\0" + b"\xff" * 16, "take the file from its source again"),
    ],
)
def test_a_tiny_or_cut_file_is_told_with_what_to_do(
    content: bytes, told: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.gguf"
    path.write_bytes(content)
    with pytest.raises(DataError, match=told) as error:
        open_gguf(path)
    assert error.value.do and str(path) in str(error.value)
