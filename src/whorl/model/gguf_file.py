"""A GGUF file's header, read within bounds: facts about the model, and where its tensors lie.

The library gguf reads such a file too, but believes every count in it: a file of a hundred bytes
can keep it busy for ever. Here nothing is read, or allocated, that the file has no room for. The
format: github.com/ggml-org/ggml, docs/gguf.md. What a block of weights means is the library's.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whorl.core.errors import DataError, MissingExtra

__all__ = ["KINDS", "GgufFile", "GgufTensor", "open_gguf"]

AGAIN = "take the file from its source again: it was cut short, or is damaged"
MAGIC, BIG_ENDIAN_MAGIC, VERSIONS = b"GGUF", b"FUGG", (2, 3)
MAX_AXES, MAX_ITEMS = 4, 4_000_000  # items of a list: a vocabulary has a tenth
ALIGNMENT = 32  # bytes, unless general.alignment says another
# Types of facts: number in the file -> code of `struct`; two more are texts and lists.
NUMBERS = dict(zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIif?Qqd", strict=True))
TEXT, LIST = 8, 9
# Types of tensors that are read: number in the file -> (name, weights of a block, its bytes).
KINDS = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    8: ("Q8_0", 32, 34),
    12: ("Q4_K", 256, 144),
    14: ("Q6_K", 256, 210),
    30: ("BF16", 1, 2),
}


@dataclass(frozen=True)
class GgufTensor:
    """Where a tensor lies. sizes: in the order of torch, rows first."""

    kind: str
    sizes: tuple[int, ...]
    start: int  # bytes from the start of the file
    num_bytes: int


@dataclass(frozen=True)
class GgufFile:
    path: Path
    facts: Mapping[str, Any]
    tensors: Mapping[str, GgufTensor]

    def fact(self, key: str, kind: type | tuple[type, ...], default: Any = None) -> Any:
        """A fact of a type; the default if it is not there. Raises DataError on another type."""
        value = self.facts.get(key)
        if value is None:
            return default
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise DataError(f"{self.path}: {key}", found=repr(value)[:60], expected=kind)
        return value

    def read(self, name: str) -> NDArray[Any]:
        """A tensor's numbers: float16 for F16, uint16 (its bits) for BF16, else float32.

        Raises MissingExtra without the library gguf, where blocks are to be decoded.
        """
        tensor = self.tensors[name]
        data = np.memmap(self.path, np.uint8, "r", tensor.start, (tensor.num_bytes,))
        plain = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}.get(tensor.kind)
        if plain is not None:
            return np.array(data.view(plain)).reshape(tensor.sizes)
        try:
            from gguf import GGMLQuantizationType
            from gguf.quants import dequantize
        except ImportError as error:
            raise MissingExtra.of("gguf", "gguf", f"{tensor.kind} weights") from error
        rows = data.reshape(*tensor.sizes[:-1], -1)
        numbers = dequantize(rows, GGMLQuantizationType[tensor.kind])
        return np.asarray(numbers, np.float32).reshape(tensor.sizes)


def open_gguf(path: Path) -> GgufFile:
    """Read the header and check that all it claims is there. Raises DataError saying where not."""
    try:
        with path.open("rb") as file:
            start = file.read(8)
            _check_start(path, start)
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _Header(path, data).file()
    except (OSError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        do = "look at the file and at who may read it"
        raise DataError(f"{path} cannot be read", found=error, do=do) from error


def _check_start(path: Path, start: bytes) -> None:
    version = int.from_bytes(start[4:8], "little")
    if start[:4] == BIG_ENDIAN_MAGIC or (start[:4] == MAGIC and version and not version & 0xFFFF):
        raise DataError(
            f"{path} is a big-endian GGUF file",
            expected="a little-endian one",
            do="convert it by gguf-convert-endian, a command of the package gguf",
        )
    if start[:4] != MAGIC:
        raise DataError(
            f"{path} is not a GGUF file",
            found=repr(start[:4]) if start else "an empty file",
            expected="GGUF as its first bytes",
            do=AGAIN if len(start) < 4 else "name another file, or correct its ending",
        )
    if len(start) < 8:
        found = f"{len(start)} bytes"
        raise DataError(f"{path} ends within its first bytes", found=found, do=AGAIN)
    if version not in VERSIONS:
        raise DataError(
            f"{path} is GGUF of version {version}",
            expected="version 2 or 3",
            do="convert the model again with llama.cpp's convert_hf_to_gguf.py of today",
        )


class _Header:
    """Reads on from a place in the file; never beyond its end."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path, self.data, self.at = path, data, 8

    def file(self) -> GgufFile:
        num_tensors = self.count("tensors", 24)
        num_facts = self.count("facts", 13)
        facts: dict[str, Any] = {}
        for _ in range(num_facts):
            key = self.text("the name of a fact")
            if key in facts:
                raise self.error(f"the fact {key} stands twice")
            facts[key] = self.value(self.number("I", key), key)
        tensors: dict[str, GgufTensor] = {}
        for _ in range(num_tensors):
            name, tensor = self.tensor()
            if name in tensors:
                raise self.error(f"the tensor {name} stands twice")
            tensors[name] = tensor
        return GgufFile(self.path, facts, self.placed(tensors, facts))

    def error(self, what: str, **more: Any) -> DataError:
        return DataError(f"{self.path}, byte {self.at:,}: {what}", **more)

    def take(self, num_bytes: int, what: str) -> int:
        """Move on by so many bytes; gives where they start."""
        begin, self.at = self.at, self.at + num_bytes
        if self.at > len(self.data):
            self.at = begin
            raise self.error(
                f"the file ends within {what}",
                found=f"{len(self.data):,} bytes",
                expected=f"at least {begin + num_bytes:,}",
                do=AGAIN,
            )
        return begin

    def number(self, code: str, what: str) -> Any:
        size = struct.calcsize(f"<{code}")
        return struct.unpack_from(f"<{code}", self.data, self.take(size, what))[0]

    def count(self, what: str, least_bytes: int) -> int:
        """How many things of at least so many bytes follow; no more than there is room for."""
        number: int = self.number("Q", f"the number of {what}")
        room = (len(self.data) - self.at) // least_bytes
        if number > room:
            raise self.error(
                f"more {what} than the file has room for",
                found=f"{number:,}",
                expected=f"at most {room:,}",
                do=AGAIN,
            )
        return number

    def text(self, what: str) -> str:
        length = self.count(f"bytes of {what}", 1)
        begin = self.take(length, what)
        try:
            return self.data[begin : begin + length].decode()
        except UnicodeDecodeError as error:
            raise self.error(f"{what} is not UTF-8", found=error.reason) from error

    def value(self, kind: int, what: str) -> Any:
        if kind == TEXT:
            return self.text(what)
        if kind in NUMBERS:
            return self.number(NUMBERS[kind], what)
        if kind != LIST:
            raise self.error(f"{what} is of a type that GGUF does not have", found=kind)
        inner = self.number("I", what)
        if inner != TEXT and inner not in NUMBERS:
            raise self.error(f"{what} is a list of something else than texts or numbers")
        size = 8 if inner == TEXT else struct.calcsize(NUMBERS[inner])
        length = self.count(f"items of {what}", size)
        if length > MAX_ITEMS:
            raise self.error(f"{what} is too long", found=length, expected=f"{MAX_ITEMS:,} items")
        if inner == TEXT:
            return [self.text(what) for _ in range(length)]
        code = f"<{length}{NUMBERS[inner]}"
        return list(struct.unpack_from(code, self.data, self.take(size * length, what)))

    def tensor(self) -> tuple[str, GgufTensor]:
        """(name, tensor); its start still from the start of the tensors' data."""
        name = self.text("the name of a tensor")
        axes = self.number("I", name)
        if not 1 <= axes <= MAX_AXES:
            raise self.error(f"{name} has {axes} axes", expected=f"1 to {MAX_AXES}")
        sizes = tuple(reversed([self.number("Q", name) for _ in range(axes)]))
        kind, offset = self.number("I", name), self.number("Q", name)
        if kind not in KINDS:
            raise self.error(
                f"{name} is of a type that whorl does not read",
                found=f"type {kind}",
                expected=", ".join(label for label, _, _ in KINDS.values()),
            )
        label, block, block_bytes = KINDS[kind]
        if min(sizes) < 1 or sizes[-1] % block:
            raise self.error(f"{name}: sizes {sizes} are not whole blocks of {block} weights")
        return name, GgufTensor(label, sizes, offset, prod(sizes) // block * block_bytes)

    def placed(
        self, tensors: Mapping[str, GgufTensor], facts: Mapping[str, Any]
    ) -> dict[str, GgufTensor]:
        """The tensors where they are in the file. Raises DataError if two lie on each other."""
        alignment = facts.get("general.alignment", ALIGNMENT)
        if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
            raise self.error("general.alignment", found=alignment, expected="a power of two")
        first = -(-self.at // alignment) * alignment
        end, placed = first, {}
        for name, tensor in sorted(tensors.items(), key=lambda item: item[1].start):
            start = first + tensor.start
            if start < end or tensor.start % alignment:
                raise self.error(f"{name} does not begin where the tensor before it ends", do=AGAIN)
            end = start + tensor.num_bytes
            if end > len(self.data):
                raise self.error(
                    f"the file ends within the tensor {name}",
                    found=f"{len(self.data):,} bytes",
                    expected=f"at least {end:,}",
                    do=AGAIN,
                )
            placed[name] = GgufTensor(tensor.kind, tensor.sizes, start, tensor.num_bytes)
        return placed
