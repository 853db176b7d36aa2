"""The distance of sounds that `benchmarks/speaking.py` tells, beside another way to find it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

pytest.importorskip("soundfile", reason="needs the extra audio: soundfile")

from speaking import NATS_TO_DB, mel_distance


def cheapest(one: np.ndarray, other: np.ndarray) -> set[float]:
    """Means along all ways whose sum is the least, by trying every way."""
    costs = np.sqrt(((one[:, None] - other[None]) ** 2).mean(-1)) * NATS_TO_DB
    ways: list[list[tuple[int, int]]] = [[(0, 0)]]
    whole = []
    while ways:
        way = ways.pop()
        i, j = way[-1]
        if (i, j) == (len(one) - 1, len(other) - 1):
            whole.append(way)
            continue
        for a, b in ((1, 1), (1, 0), (0, 1)):
            if i + a < len(one) and j + b < len(other):
                ways.append([*way, (i + a, j + b)])
    sums = [sum(costs[place] for place in way) for way in whole]
    return {s / len(w) for s, w in zip(sums, whole, strict=True) if s <= min(sums) + 1e-9}


def test_frames_are_paired_the_cheapest_way() -> None:
    rng = np.random.default_rng(0)
    for lengths in itertools.product((1, 3, 4), (1, 2, 4)):
        one, other = (rng.normal(size=(length, 5)) for length in lengths)
        assert any(mel_distance(one, other) == pytest.approx(mean) for mean in cheapest(one, other))
    frames = rng.normal(size=(6, 5))
    assert mel_distance(frames, frames) == 0
    assert mel_distance(np.repeat(frames, 2, axis=0), frames) == 0  # said slowly
    assert mel_distance(frames + 1, frames) <= NATS_TO_DB + 1e-9
