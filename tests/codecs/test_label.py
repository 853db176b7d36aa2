"""Label codec: round trips through its files, and what it refuses."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whorl.codecs.contract import Tokens
from whorl.codecs.kinds import load_codec
from whorl.codecs.label import LabelCodec, load
from whorl.core.errors import DataError, RecordError


@given(st.lists(st.text(min_size=1), min_size=1, unique=True))
def test_every_label_comes_back_through_the_files(labels: list[str]) -> None:
    codec = LabelCodec.fit([*labels, *reversed(labels)])
    again = load_codec("label", "label", codec.files())
    assert codec.num_ids == len(labels) and codec.labels == tuple(sorted(labels))
    for label in labels:
        ids = codec.encode(label)
        assert len(ids) == 1 and again.encode(label) == ids and again.decode(ids) == label
    assert again.files() == codec.files()


def test_unknown_labels_and_bad_lists_are_refused() -> None:
    codec = LabelCodec(["cat", "dog"])
    for value in ("cow", 3, None):
        with pytest.raises(DataError, match="cat, dog"):
            codec.encode(value)
    with pytest.raises(DataError, match="distinct"):
        LabelCodec(["a", "a"])
    with pytest.raises(DataError, match="distinct"):
        LabelCodec.fit([])


@pytest.mark.parametrize("data", [b"", b"[]", b'{"labels": 3}', b'{"labels": [1]}', b"\xff"])
def test_damaged_files_are_refused(data: bytes) -> None:
    with pytest.raises(RecordError, match="label"):
        load("label", {"labels.json": data})
    with pytest.raises(RecordError):
        load("label", {})


def test_labels_are_printed_by_the_token_contract() -> None:
    tokens = Tokens.build({"label": LabelCodec(["cat", "dog"])}, 32)
    assert tokens.decode([16, 17]) == "catdog"
