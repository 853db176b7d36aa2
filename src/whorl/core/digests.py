"""BLAKE3 digests of bytes, files and plain values, and JSON files that carry their own digest."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from blake3 import blake3

from whorl.core.disk import disk_error, fsync_folder
from whorl.core.errors import RecordError

__all__ = [
    "CHUNK_BYTES",
    "canonical_json",
    "digest_bytes",
    "digest_file",
    "digest_parts",
    "digest_value",
    "read_sealed",
    "write_bytes",
    "write_file",
    "write_sealed",
]

CHUNK_BYTES = 4 * 2**20  # a flipped bit is reported with the chunk it lies in


def canonical_json(value: Any) -> str:
    """One text per value: sorted keys, no NaN, text as it is.

    Keys become text before they are sorted. Raises ValueError on NaN, TypeError on what JSON lacks.
    """
    plain = json.loads(json.dumps(value, allow_nan=False))
    return json.dumps(plain, sort_keys=True, ensure_ascii=False, allow_nan=False, indent=1)


def _to_bytes(text: str) -> bytes:
    """UTF-8; lone surrogates (file names that are not UTF-8) survive the round trip."""
    return text.encode("utf-8", "surrogatepass")


def digest_bytes(data: bytes) -> str:
    """64 hex digits."""
    return str(blake3(data).hexdigest())


def digest_value(value: Any) -> str:
    """Digest of a JSON-able value, independent of key order."""
    return digest_bytes(_to_bytes(canonical_json(value)))


def digest_file(path: Path) -> str:
    """Digest of a whole file. Raises OSError if it cannot be read."""
    hasher = blake3()
    with path.open("rb") as file:
        while block := file.read(CHUNK_BYTES):
            hasher.update(block)
    return str(hasher.hexdigest())


def digest_parts(path: Path) -> tuple[str, tuple[str, ...], int]:
    """(digest, 16 hex digits of each CHUNK_BYTES, bytes) of a file, in one pass.

    The digest says whether the file is whole, the chunks where it was damaged.
    Raises OSError if it cannot be read.
    """
    hasher = blake3()
    chunks: list[str] = []
    size_bytes = 0
    with path.open("rb") as file:
        while block := file.read(CHUNK_BYTES):
            hasher.update(block)
            chunks.append(digest_bytes(block)[:16])
            size_bytes += len(block)
    return str(hasher.hexdigest()), tuple(chunks), size_bytes


def write_bytes(path: Path, data: bytes) -> None:
    """Write and fsync through a temporary name and a rename: whole or not at all.

    Raises ResourceError when the disk is full or cannot be written.
    """
    write_file(path, lambda temporary: temporary.write_bytes(data), len(data))


def write_file(path: Path, fill: Callable[[Path], object], num_bytes: int | None = None) -> None:
    """`write_bytes` of what `fill` writes to the temporary name, num_bytes where that is known.

    fill may raise; nothing is left of it then.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        fill(temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        fsync_folder(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        raise disk_error(OSError(error.errno, error.strerror), path, num_bytes) from error


def write_sealed(path: Path, value: Mapping[str, Any]) -> None:
    """A JSON object with its own digest under "blake3"; `read_sealed` notices any flipped bit."""
    body = {key: item for key, item in value.items() if key != "blake3"}
    write_bytes(path, _to_bytes(canonical_json({**body, "blake3": digest_value(body)})))


def read_sealed(path: Path) -> dict[str, Any]:
    """The object written by `write_sealed`, without its digest. Raises RecordError if damaged."""
    try:
        data = path.read_bytes()
        value = json.loads(data)
        if not isinstance(value, dict):
            raise ValueError("not an object")
        claimed = value.pop("blake3", None)
        whole = _to_bytes(canonical_json({**value, "blake3": digest_value(value)}))
    except (OSError, ValueError, RecursionError) as error:
        raise RecordError(
            f"{path} cannot be read", found=error, expected="a sealed JSON"
        ) from error
    if claimed is None or whole != data:
        raise RecordError(
            f"{path} is damaged",
            found="its content does not match its digest",
            do="whorl verify lists every damaged record; delete this one to have it made again",
        )
    return value
