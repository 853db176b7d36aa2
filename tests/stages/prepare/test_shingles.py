"""Window hashes against plain Python sets of windows."""

from __future__ import annotations

import os
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.stages.prepare.prose import CHINESE, ENGLISH
from whorl.stages.prepare.shingles import (
    NUM_BANDS,
    WINDOW_BYTES,
    distinct_windows,
    jaccard,
    repeated_share,
    sketch,
    window_hashes,
)

TRIALS = int(float(os.environ.get("WHORL_TRIALS", "1")) * 60)
# Few letters, so that windows really repeat.
datas = st.lists(st.sampled_from([b"ab" * 20, b"c", b"abcd" * 9, b"\x00", b"xyz"]), max_size=9).map(
    b"".join
)


def windows(data: bytes) -> list[bytes]:
    return [data[i : i + WINDOW_BYTES] for i in range(len(data) - WINDOW_BYTES + 1)]


def edited(text: str, edits: int, seed: int) -> str:
    chooser = random.Random(seed)
    letters = list(text)
    for _ in range(edits):
        letters[chooser.randrange(len(letters))] = chooser.choice("xyz的了是")
    return "".join(letters)


@settings(max_examples=TRIALS)
@given(datas)
def test_equal_windows_have_equal_hashes(data: bytes) -> None:
    hashes = window_hashes(data).tolist()
    found = windows(data)
    assert len(hashes) == len(found)
    assert len(set(hashes)) == len(set(found))
    assert len(dict(zip(found, hashes, strict=True))) == len(set(zip(found, hashes, strict=True)))
    assert len(distinct_windows(data)) == len(set(found))
    if found:
        assert repeated_share(data) == pytest.approx(1 - len(set(found)) / len(found))


@settings(max_examples=TRIALS)
@given(datas, datas)
def test_jaccard_is_that_of_sets(first: bytes, second: bytes) -> None:
    a, b = set(windows(first)), set(windows(second))
    expected = len(a & b) / len(a | b) if a | b else 0.0
    assert jaccard(distinct_windows(first), distinct_windows(second)) == pytest.approx(expected)


def test_chunks_leave_no_seam() -> None:
    data = np.random.default_rng(0).bytes(200_000)
    hashes = window_hashes(data)
    for start in (0, 2**16 - 40, 2**16 - 1, 2**17 - 29, 199_000):
        np.testing.assert_array_equal(hashes[start : start + 50], window_hashes(data[start:])[:50])


@settings(max_examples=TRIALS // 2)
@given(st.lists(st.sampled_from([*CHINESE, *ENGLISH, "", "short", "x" * 31]), max_size=12))
def test_a_text_is_sketched_alike_in_any_company(texts: list[str]) -> None:
    data = [text.encode() for text in texts]
    together = sketch(data)
    for number, text in enumerate(data):
        alone = sketch([text])
        np.testing.assert_array_equal(together.bands[number], alone.bands[0])
        assert together.has_windows[number] == alone.has_windows[0]
        assert together.repeated_share[number] == alone.repeated_share[0]


def test_sampled_repetition_estimates_the_true_one() -> None:
    chooser = random.Random(4)
    sentences = [s + "." for text in ENGLISH for s in text.split(".") if len(s) > 20]
    for _ in range(20):
        data = " ".join(chooser.choice(sentences) for _ in range(80)).encode()
        assert float(sketch([data]).repeated_share[0]) == pytest.approx(
            repeated_share(data), abs=0.08
        )


def test_bands_meet_as_often_as_promised() -> None:
    """Copies of 90% and 50% likeness: the former nearly always share a band, the latter rarely."""
    met = {True: 0, False: 0}
    total = {True: 0, False: 0}
    for seed, text in enumerate([*CHINESE, *ENGLISH] * 6):
        for edits in (1, 16):
            pair = [text.encode(), edited(text, edits, seed).encode()]
            likeness = jaccard(*(distinct_windows(data) for data in pair))
            if 0.55 < likeness < 0.85:
                continue
            bands = sketch(pair).bands
            total[likeness >= 0.85] += 1
            met[likeness >= 0.85] += bool((bands[0] == bands[1]).any())
    assert total[True] > 20 and total[False] > 20
    assert met[True] >= 0.95 * total[True]
    assert met[False] <= 0.35 * total[False]


def test_shapes_of_nothing() -> None:
    empty = sketch([])
    assert empty.bands.shape == (0, NUM_BANDS) and empty.has_windows.shape == (0,)
    short = sketch([b"", b"x" * (WINDOW_BYTES - 1)])
    assert not short.has_windows.any() and short.repeated_share.tolist() == [0.0, 0.0]
    assert repeated_share(b"") == 0.0 and len(distinct_windows(b"abc")) == 0
