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


def test_an_unknown_item_is_told_with_the_nearest_name() -> None:
    films = LabelCodec([f"film {number}" for number in range(40)] + ["Casablanca"], "item")
    with pytest.raises(DataError, match="no item 'Casblanca'; did you mean Casablanca") as caught:
        films.encode("Casblanca")
    assert "41 in all" in str(caught.value.expected)
    with pytest.raises(DataError) as caught:
        films.encode("\0" * 10_000)
    assert "did you mean" not in str(caught.value) and len(str(caught.value)) < 1_000


def test_the_vocabulary_is_in_the_contracts_digest() -> None:
    def digest(*names: str) -> str:
        return Tokens.build({"item": LabelCodec(names, "item")}, 32).contract.digest

    assert digest("a", "b") == digest("a", "b") != digest("b", "a")


@pytest.mark.parametrize("data", [b"", b"[]", b'{"labels": 3}', b'{"labels": [1]}', b"\xff"])
def test_damaged_files_are_refused(data: bytes) -> None:
    with pytest.raises(RecordError, match="label"):
        load("label", {"labels.json": data})
    with pytest.raises(RecordError):
        load("label", {})


def test_labels_are_printed_by_the_token_contract() -> None:
    tokens = Tokens.build({"label": LabelCodec(["cat", "dog"])}, 32)
    assert tokens.decode([16, 17]) == "catdog"
