"""Every kind of codec: what has been through it once comes through it again as it is, and so it
does through the codec that its files give."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

pytest.importorskip("sklearn", reason="needs the extra train")

from whorl.codecs.boxes import BoxesCodec
from whorl.codecs.image import fit_image_codec
from whorl.codecs.kinds import KINDS, load_codec
from whorl.codecs.label import LabelCodec
from whorl.codecs.line import fit_line_codec
from whorl.codecs.pair import PairCodec
from whorl.codecs.table import TableCodec
from whorl.codecs.text import train_text_codec
from whorl.core.ports import Codec

WITH_PHASES = {"audio-frames"}  # decoding finds phases anew: tests/codecs/test_audio.py
LABELS = ["cat", "dog", "ünï", " "]
SIDES = st.lists(st.integers(0, 8), min_size=2, max_size=2, unique=True).map(sorted)
CELLS = st.one_of(st.none(), st.floats(-1e6, 1e6), st.integers(-100, 100))
Case = tuple[Callable[[], Codec], st.SearchStrategy[Any]]


def image() -> Codec:
    pictures = np.random.default_rng(0).integers(0, 256, (30, 8, 12)).astype(np.uint8)
    return fit_image_codec(pictures, 12, 4, white=255.0)


def line() -> Codec:
    lines = list(np.random.default_rng(0).integers(0, 256, (20, 8, 40)).astype(np.uint8))
    return fit_line_codec(lines, 12, num_books=1, max_width=80)


def table() -> Codec:
    numbers = [*range(50), None]
    return TableCodec.fit({"n": numbers, "w": [LABELS[n % 4] for n in range(51)]}, 16)


def box_line(sides: tuple[list[int], list[int]], label: str) -> str:
    (left, right), (top, bottom) = sides
    box = [side / 8 for side in (left, top, right, bottom)]
    return json.dumps({"box": box, "label": label}, ensure_ascii=False) + "\n"


CASES: dict[str, Case] = {
    "tokenizer": (lambda: train_text_codec(["cats and dogs", "ünï"], 300), st.text(max_size=40)),
    "label": (lambda: LabelCodec(LABELS), st.sampled_from(LABELS)),
    "label-pair": (
        lambda: PairCodec(LABELS[:3], 3),
        st.tuples(st.sampled_from(LABELS[:3]), st.sampled_from(LABELS[:3])).map("".join),
    ),
    "table-row": (
        table,
        st.fixed_dictionaries({"n": CELLS, "w": st.sampled_from([None, "other", *LABELS])}),
    ),
    "boxes": (
        lambda: BoxesCodec(LABELS, 8),
        st.lists(st.builds(box_line, st.tuples(SIDES, SIDES), st.sampled_from(LABELS))).map(
            "".join
        ),
    ),
    "image-patches": (image, arrays(np.uint8, (8, 12))),
    "line-slices": (line, st.integers(1, 80).flatmap(lambda n: arrays(np.uint8, (8, n)))),
}


def test_no_kind_is_forgotten() -> None:
    assert CASES.keys() | WITH_PHASES == KINDS.keys()


@pytest.mark.parametrize("kind", CASES)
def test_what_came_through_once_comes_through_again(kind: str) -> None:
    make, values = CASES[kind]
    codec = make()
    again = load_codec(kind, codec.name, codec.files())

    @settings(max_examples=60, deadline=None)
    @given(values)
    def check(value: Any) -> None:
        ids = codec.encode(value)
        assert all(0 <= number < codec.num_ids for number in ids)
        kept = codec.decode(ids)
        assert codec.encode(kept) == ids == again.encode(value)
        assert np.array_equal(again.decode(ids), kept) or again.decode(ids) == kept

    check()
