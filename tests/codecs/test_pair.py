"""Two labels side by side: both directions, what is refused, damaged files."""

from __future__ import annotations

import itertools

import pytest

from whorl.codecs.kinds import load_codec
from whorl.codecs.pair import PairCodec
from whorl.core.errors import DataError, RecordError

LABELS = ["a1", "b2", "b2q", "h8"]


def test_every_pair_comes_back_from_its_ids_and_files() -> None:
    codec = PairCodec(LABELS, 2, "move")
    again = load_codec(codec.kind, "move", codec.files())
    firsts = [label for label in LABELS if len(label) == 2]
    for (i, one), (j, other) in itertools.product(enumerate(LABELS), enumerate(LABELS)):
        if one in firsts:
            assert codec.encode(one + other) == again.encode(one + other) == [i, j]
            assert codec.decode([i, j]) == one + other
            assert codec.from_bytes(codec.to_bytes(one + other)) == one + other
    assert codec.decode([0, 1, 3, 2]) == "a1b2 h8b2q" and codec.decode([3]) == "h8"


@pytest.mark.parametrize("value", ["", "a1", "a1c3", "b2qa1", "a1 b2", None, 7, ["a1", "b2"]])
def test_what_is_no_pair_is_refused(value: object) -> None:
    with pytest.raises(DataError, match="there is no move"):
        PairCodec(LABELS, 2, "move").encode(value)


def test_lists_and_files_that_cannot_be_are_refused() -> None:
    for labels, width in ((["a", "a"], 1), (["abc"], 2), ([], 1)):
        with pytest.raises(DataError, match="distinct labels"):
            PairCodec(labels, width)
    for data in (b"{}", b"[1]", b'{"labels": ["a"], "width": "1"}', b'{"labels": [1], "width": 1}'):
        with pytest.raises(RecordError, match="not a codec of pairs"):
            load_codec("label-pair", "move", {"labels.json": data})
