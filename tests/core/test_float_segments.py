"""Float segments: what is written is read, and nothing else is taken for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from whorl.core.errors import DataError, RecordError
from whorl.core.float_segments import FloatSegment, read_float_segments, write_float_segments


def vectors(count: int, width: int = 3) -> NDArray[np.float32]:
    return np.random.default_rng(count).normal(size=(count, width)).astype(np.float32)


def test_round_trip(tmp_path: Path) -> None:
    segments = [FloatSegment(0, 1, vectors(4)), FloatSegment(0, 5, vectors(2))]
    segments += [FloatSegment(7, 0, vectors(1)), FloatSegment(9, 2, vectors(0))]
    path = tmp_path / "rows" / "train-00000.floats"
    write_float_segments(path, segments, width=3)
    found = read_float_segments(path)
    assert [(s.row, s.position) for s in found] == [(0, 1), (0, 5), (7, 0), (9, 2)]
    for ours, theirs in zip(segments, found, strict=True):
        np.testing.assert_array_equal(ours.vectors, theirs.vectors)
    assert [s.position for s in read_float_segments(path, row=0)] == [1, 5]
    assert read_float_segments(path, row=3) == []


def test_nothing_round_trips_too(tmp_path: Path) -> None:
    write_float_segments(tmp_path / "empty.floats", [], width=5)
    assert read_float_segments(tmp_path / "empty.floats") == []


@pytest.mark.parametrize(
    "segments",
    [
        [FloatSegment(1, 0, vectors(2)), FloatSegment(0, 0, vectors(2))],
        [FloatSegment(0, 0, vectors(2)), FloatSegment(0, 1, vectors(2))],
        [FloatSegment(0, 0, vectors(2, width=4))],
        [FloatSegment(0, -1, vectors(2))],
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path: Path, segments: list[FloatSegment]) -> None:
    with pytest.raises(DataError, match="float segments"):
        write_float_segments(tmp_path / "x.floats", segments, width=3)


def test_damage_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.floats"
    write_float_segments(path, [FloatSegment(0, 0, vectors(2))], width=3)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(RecordError, match="cannot be read"):
        read_float_segments(path)
    with pytest.raises(RecordError, match="cannot be read"):
        read_float_segments(tmp_path / "missing.floats")
