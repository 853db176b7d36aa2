"""BLAKE3 digests of bytes, files and plain values, and JSON files that carry their own digest."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from blake3 import blake3

from whorl.core.errors import RecordError, ResourceError

__all__ = [
    "CHUNK_BYTES",
    "canonical_json",
    "digest_bytes",
    "digest_chunks",
    "digest_file",
    "digest_value",
    "fsync_folder",
    "read_sealed",
    "write_bytes",
    "write_sealed",
]

CHUNK_BYTES = 4 * 2**20  # a flipped bit is reported with the chunk it lies in
DIGEST_CHARS = 64


def canonical_json(value: Any) -> str:
    """One text per value: sorted keys, no NaN, UTF-8 as it is."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False, indent=1)


def digest_bytes(data: bytes) -> str:
    return str(blake3(data).hexdigest())


def digest_value(value: Any) -> str:
    """Digest of a JSON-able value, independent of key order."""
    return digest_bytes(canonical_json(value).encode())


def digest_file(path: Path) -> str:
    """Digest of a whole file. Raises OSError if it cannot be read."""
    hasher = blake3()
    with path.open("rb") as file:
        while block := file.read(CHUNK_BYTES):
            hasher.update(block)
    return str(hasher.hexdigest())


def digest_chunks(path: Path) -> list[str]:
    """Digest (16 hex digits) of each CHUNK_BYTES of a file, to say where it was damaged."""
    with path.open("rb") as file:
        return [str(blake3(block).hexdigest())[:16] for block in iter(lambda: file.read(CHUNK_BYTES), b"")]


def fsync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes(path: Path, data: bytes) -> None:
    """Write and fsync through a temporary name and a rename: whole or not at all.

    Raises ResourceError when the disk is full or cannot be written, with the bytes needed.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        fsync_folder(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise ResourceError(
            f"cannot write {path}",
            found=error.strerror,
            expected=f"{len(data):,} bytes of room",
            do="free some space or set WHORL_HOME to another disk",
        ) from error


def write_sealed(path: Path, value: Mapping[str, Any]) -> None:
    """A JSON object with its own digest under "blake3"; `read_sealed` notices any flipped bit."""
    body = {key: item for key, item in value.items() if key != "blake3"}
    write_bytes(path, canonical_json({**body, "blake3": digest_value(body)}).encode())


def read_sealed(path: Path) -> dict[str, Any]:
    """The object written by `write_sealed`, without its digest. Raises RecordError if damaged."""
    try:
        data = path.read_bytes()
        value = json.loads(data)
        if not isinstance(value, dict):
            raise ValueError("not an object")
        claimed = value.pop("blake3", None)
        whole = canonical_json({**value, "blake3": digest_value(value)}).encode()
    except (OSError, ValueError, RecursionError) as error:
        raise RecordError(f"{path} cannot be read", found=error, expected="a sealed JSON") from error
    if claimed is None or whole != data:
        raise RecordError(
            f"{path} is damaged",
            found="its content does not match its digest",
            do="whorl verify lists every damaged record; delete this one to have it made again",
        )
    return value
