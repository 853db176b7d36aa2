"""Documents as bytes: in temporary files between the passes of prepare, and for digests.

One record: a length (4 bytes), a JSON header, then the values' bytes in the header's order.
Values may be text, bytes, numbers, None, numpy arrays, and lists, tuples or dicts of those.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from whorl.core.digests import digest_bytes
from whorl.core.errors import DataError
from whorl.core.ports import Document, Part

__all__ = ["SpillReader", "content_digest", "document_bytes", "document_of"]

LENGTH_BYTES = 4


def document_bytes(document: Document) -> bytes:
    """The record of a document. Raises DataError on a value of another kind."""
    whole = [True] if document.whole else []
    return _record([document.name, document.split, *whole], document.parts)


def content_digest(parts: Sequence[Part]) -> bytes:
    """32 bytes, equal for documents with equal parts, whatever their names."""
    return bytes.fromhex(digest_bytes(_record([], parts)))


def document_of(data: bytes) -> Document:
    """The document of a record."""
    header_bytes = int.from_bytes(data[:LENGTH_BYTES], "little")
    at = LENGTH_BYTES + header_bytes
    header = json.loads(data[LENGTH_BYTES:at])
    (name, split, *whole), parts = header["document"], []
    blobs = []
    for num_bytes in header["blobs"]:
        blobs.append(data[at : at + num_bytes])
        at += num_bytes
    for codec, trained, value in header["parts"]:
        parts.append(Part(codec, _unpack(value, blobs), trained))
    return Document(name, tuple(parts), split, bool(whole))


class SpillReader:
    """Documents of a file of records, by the offset where each begins."""

    def __init__(self, path: Path, offsets: NDArray[np.int64]) -> None:
        """offsets: [n + 1], the last is the file's size."""
        self._file: BinaryIO = path.open("rb")
        self._offsets = offsets

    def document(self, number: int) -> Document:
        start, end = int(self._offsets[number]), int(self._offsets[number + 1])
        self._file.seek(start)
        return document_of(self._file.read(end - start))

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> SpillReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _record(identity: Sequence[str | bool | None], parts: Sequence[Part]) -> bytes:
    blobs: list[bytes] = []
    header: dict[str, list[Any]] = {
        "document": list(identity),
        "parts": [[part.codec, part.trained, _pack(part.value, blobs)] for part in parts],
        "blobs": [],
    }
    header["blobs"] = [len(blob) for blob in blobs]
    data = json.dumps(header, separators=(",", ":"), ensure_ascii=True).encode()
    return b"".join([len(data).to_bytes(LENGTH_BYTES, "little"), data, *blobs])


def _pack(value: Any, blobs: list[bytes]) -> Any:
    """A JSON value with places in `blobs` for text, bytes and arrays."""
    if isinstance(value, str):
        blobs.append(value.encode())
        return {"text": len(blobs) - 1}
    if isinstance(value, bytes):
        blobs.append(value)
        return {"bytes": len(blobs) - 1}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
        array = np.ascontiguousarray(value, value.dtype.newbyteorder("<"))
        blobs.append(array.tobytes())
        return {"array": len(blobs) - 1, "dtype": array.dtype.str, "shape": list(value.shape)}
    if isinstance(value, list | tuple):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [_pack(item, blobs) for item in value]}
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {"dict": [[key, _pack(item, blobs)] for key, item in value.items()]}
    if value is None or isinstance(value, bool | int | float):
        return value
    raise DataError(
        "a document holds a value that prepare cannot keep",
        found=type(value).__name__,
        expected="text, bytes, numbers, numpy arrays, or lists and dicts of those",
    )


def _unpack(value: Any, blobs: Sequence[bytes]) -> Any:
    if not isinstance(value, dict):
        return value
    if "text" in value:
        return blobs[value["text"]].decode()
    if "bytes" in value:
        return blobs[value["bytes"]]
    if "array" in value:
        flat = np.frombuffer(blobs[value["array"]], np.dtype(value["dtype"]))
        return flat.reshape(cast("list[int]", value["shape"])).copy()
    if "dict" in value:
        return {key: _unpack(item, blobs) for key, item in value["dict"]}
    if "list" in value:
        return [_unpack(item, blobs) for item in value["list"]]
    return tuple(_unpack(item, blobs) for item in value["tuple"])
