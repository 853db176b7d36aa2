"""Boxes: round trips, JSON as it comes id by id, what is refused."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whorl.codecs.boxes import Box, BoxesCodec, box_lines, boxes_in
from whorl.codecs.contract import Tokens
from whorl.codecs.kinds import load_codec
from whorl.core.errors import DataError, RecordError

LABELS = ("cat", 'a "dog"', "Köter")
SHARES = st.floats(0, 1)
BOXES = st.lists(
    st.builds(
        lambda x, y, label: Box(min(x), min(y), max(x), max(y), label),
        *(st.tuples(SHARES, SHARES), st.tuples(SHARES, SHARES), st.sampled_from(LABELS)),
    ),
    max_size=5,
)


@given(BOXES, st.integers(1, 300))
def test_boxes_come_back_within_half_a_step(boxes: list[Box], bins: int) -> None:
    codec = BoxesCodec(LABELS, bins)
    ids = codec.encode(box_lines(boxes))
    assert len(ids) == 5 * len(boxes) and all(0 <= i < codec.num_ids for i in ids)
    found = boxes_in(codec.decode(ids))
    for one, other in zip(sorted(boxes), found, strict=True):
        assert one.label == other.label
        for side, again in zip(one.sides, other.sides, strict=True):
            assert abs(side - again) <= 0.5 / bins + 1.1e-4
    assert codec.encode(codec.decode(ids)) == ids  # rounded once, and not again
    again = load_codec("boxes", "boxes", codec.files())
    assert again.files() == codec.files() and again.decode(ids) == codec.decode(ids)


def test_an_answer_is_json_as_it_comes() -> None:
    tokens = Tokens.build({"boxes": BoxesCodec(LABELS, 48)}, 256)
    text = box_lines([Box(0.5, 0, 1, 0.25, "cat"), Box(0.125, 0.25, 0.375, 0.75, 'a "dog"')])
    ids = [number + 16 for number in tokens.codecs["boxes"].encode(text)]
    shown = [tokens.decode([number]) for number in ids]
    assert shown[:5] == ['{"box":[0.125,', "0.25,", "0.375,", "0.75],", '"label":"a \\"dog\\""}\n']
    rows = [json.loads(line) for line in "".join(shown).splitlines()]
    assert rows == [
        {"box": [0.125, 0.25, 0.375, 0.75], "label": 'a "dog"'},
        {"box": [0.5, 0, 1, 0.25], "label": "cat"},
    ]
    assert tokens.decode(ids) == "".join(shown)


def test_what_is_no_box_is_refused_with_its_line() -> None:
    codec = BoxesCodec(LABELS, 8)
    good = '{"box": [0, 0, 1, 1], "label": "cat"}\n'
    for line in (
        *("cat", "[]", '{"box": [0, 0, 1], "label": "cat"}', '{"box": [0, 0, 1, 1]}'),
        *('{"box": [0, 0, 2, 1], "label": "cat"}', '{"box": [0.5, 0, 0.2, 1], "label": "cat"}'),
        *('{"box": [0, 0, NaN, 1], "label": "cat"}', '{"box": [0, 0, 1, 1], "label": 3}'),
        *("[" * 10_000, f'{{"box": [1{"0" * 400}, 0, 1, 1], "label": "cat"}}'),
    ):
        with pytest.raises(DataError, match="line 2 is no box"):
            codec.encode(good + line)
    with pytest.raises(DataError, match="no boxes label 'cow'"):
        codec.encode(good.replace("cat", "cow"))
    for value in (3, None, [good]):
        with pytest.raises(DataError, match="these are no boxes"):
            codec.encode(value)
    assert codec.from_bytes(good.encode()) == '{"box":[0,0,1,1],"label":"cat"}\n'
    with pytest.raises(DataError):
        codec.from_bytes(b"\xff\xfe")


def test_labels_may_hold_other_ends_of_lines() -> None:
    codec = BoxesCodec(("left\u2028right", "next\x85line"), 8)
    boxes = [Box(0, 0, 0.5, 1, label) for label in codec.labels]
    assert boxes_in(codec.decode(codec.encode(box_lines(boxes)))) == boxes
    assert boxes_in(box_lines(boxes).replace("\n", "\r\n")) == boxes


def test_a_codec_needs_labels_and_its_own_files() -> None:
    for labels, bins in ((), 8), (("a", "a"), 8), (("a",), 0):
        with pytest.raises(DataError, match="distinct labels and steps"):
            BoxesCodec(labels, bins)
    for data in (b"", b"[]", b'{"labels": [1], "bins": 4}', b'{"labels": ["a"], "bins": "4"}'):
        with pytest.raises(RecordError, match="no codec of boxes"):
            load_codec("boxes", "boxes", {"boxes.json": data})
