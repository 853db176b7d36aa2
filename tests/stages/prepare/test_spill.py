"""Documents survive the way through a temporary file, and equal content has equal digests."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whorl.core.errors import DataError
from whorl.core.ports import Document, Part
from whorl.stages.prepare.spill import (
    SpillReader,
    content_digest,
    document_bytes,
    document_of,
)

TRIALS = int(float(os.environ.get("WHORL_TRIALS", "1")) * 60)
plain = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=9),
    st.binary(max_size=9),
)
values = st.recursive(
    plain,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text("abc", max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=TRIALS)
@given(st.text(), st.lists(st.tuples(st.text("ab"), values, st.booleans()), max_size=4))
def test_round_trip(name: str, parts: list[tuple[str, object, bool]]) -> None:
    document = Document(name, tuple(Part(*part) for part in parts), "heldout")
    assert document_of(document_bytes(document)) == document


@pytest.mark.parametrize("dtype", ["u1", "<i8", ">f4", "?", "f2", "c8"])
def test_arrays_round_trip(dtype: str) -> None:
    array = np.arange(12).reshape(3, 4)[:, ::2].astype(dtype)
    (part,) = document_of(document_bytes(Document("x", (Part("image", [array, 1]),)))).parts
    np.testing.assert_array_equal(part.value[0], array)
    assert part.value[0].shape == (3, 2)
    (part,) = document_of(document_bytes(Document("x", (Part("n", np.float32(0.5)),)))).parts
    assert part.value == 0.5


def test_files_of_many(tmp_path: Path) -> None:
    documents = [Document(f"d{n}", (Part("text", "x" * n),)) for n in range(5)]
    records = [document_bytes(document) for document in documents]
    (tmp_path / "spill").write_bytes(b"".join(records))
    offsets = np.concatenate([[0], np.cumsum([len(record) for record in records])])
    with SpillReader(tmp_path / "spill", offsets) as reader:
        for number in (3, 0, 4, 3):
            assert reader.document(number) == documents[number]


def test_digests_are_of_content() -> None:
    parts = (Part("text", "abc"),)
    base = content_digest(parts)
    assert len(base) == 32 and base == content_digest((Part("text", "abc"),))
    zeros = np.zeros(3, np.float32)
    others = [
        (Part("text", "abd"),),
        (Part("text", "abc", trained=False),),
        (Part("label", "abc"),),
        (Part("text", "ab"), Part("text", "c")),
        (Part("image", zeros),),
        (Part("image", zeros.astype(np.float64)),),
        (Part("image", zeros.reshape(1, 3)),),
    ]
    assert len({base, *(content_digest(other) for other in others)}) == len(others) + 1


@pytest.mark.parametrize("value", [object(), {1: 2}, {3}, np.array([object()]), lambda: 1])
def test_other_values_are_refused(value: object) -> None:
    with pytest.raises(DataError, match="cannot keep"):
        document_bytes(Document("x", (Part("text", value),)))
