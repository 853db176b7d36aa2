"""Continuous inputs tied to positions of token rows (patches, mel frames): the format alone.

One safetensors file beside each shard of rows, `rows/train-00000.floats`:

    vectors   f4 [num_vectors, width]   all vectors, segment after segment
    row       i8 [num_segments]         row within the shard, ascending
    position  i8 [num_segments]         of the first vector within the row, ascending in a row
    first     i8 [num_segments + 1]     where each segment's vectors begin; the last is their end

Vector i of a segment stands for position + i of its row, in place of the embedding of that id.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whorl.core.errors import DataError, RecordError

__all__ = ["FloatSegment", "read_float_segments", "write_float_segments"]

NAMES = frozenset({"vectors", "row", "position", "first"})


@dataclass(frozen=True)
class FloatSegment:
    """vectors: float32 [n, width] for positions position..position+n-1 of a row of the shard."""

    row: int
    position: int
    vectors: NDArray[np.float32]


def write_float_segments(path: Path, segments: Sequence[FloatSegment], width: int) -> None:
    """Raises DataError if they are not ordered, overlap or differ in width."""
    from safetensors.numpy import save_file

    end = (-1, 0)  # (row, position after the last vector)
    for segment in segments:
        start = (segment.row, segment.position)
        if min(start) < 0 or start < end or segment.vectors.shape[1:] != (width,):
            raise DataError(
                "float segments must follow each other and have one width",
                found=f"row {start[0]}, position {start[1]}, shape {segment.vectors.shape}",
                expected=f"from row {end[0]}, position {end[1]} on, width {width}",
            )
        end = (segment.row, segment.position + len(segment.vectors))
    counts = [len(segment.vectors) for segment in segments]
    vectors = [np.empty((0, width), np.float32), *(segment.vectors for segment in segments)]
    arrays = {
        "vectors": np.concatenate(vectors).astype("<f4"),
        "row": np.array([segment.row for segment in segments], "<i8"),
        "position": np.array([segment.position for segment in segments], "<i8"),
        "first": np.concatenate([[0], np.cumsum(np.array(counts, np.int64))]).astype("<i8"),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(arrays, path)


def read_float_segments(path: Path, row: int | None = None) -> list[FloatSegment]:
    """The segments of one row, or all. Raises RecordError if the file is not of this format."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        arrays: dict[str, NDArray[Any]] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise RecordError(f"{path} cannot be read", found=error) from error
    rows = arrays.get("row", np.empty(0))
    if (
        set(arrays) != NAMES
        or len(arrays["position"]) != len(rows)
        or len(arrays["first"]) != len(rows) + 1
        or arrays["first"][-1] != len(arrays["vectors"])
    ):
        raise RecordError(f"{path} is no file of float segments", found=sorted(arrays))
    chosen = range(len(rows)) if row is None else np.flatnonzero(rows == row).tolist()
    first = arrays["first"]
    return [
        FloatSegment(
            int(rows[number]),
            int(arrays["position"][number]),
            arrays["vectors"][int(first[number]) : int(first[number + 1])],
        )
        for number in chosen
    ]
