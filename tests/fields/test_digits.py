"""Digits: the split, the copies, the tokens, and support vectors at their published score."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="needs the extra train")

import sklearn
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from whorl.codecs.contract import Tokens
from whorl.core.errors import DataError
from whorl.core.ports import Document, Source
from whorl.fields.digits import FIELD, NUM_COPIES, distort

SOURCE = Source("sklearn:digits", "digits")


def read(*items: int) -> list[Document]:
    parts = FIELD.items(SOURCE)
    return [d for item in items for d in FIELD.read(SOURCE, parts[item], pytest.fail)]


@pytest.fixture(scope="module")
def originals() -> list[Document]:
    return read(0)


def test_the_split_is_scikit_learns_own(originals: list[Document]) -> None:
    images, labels = load_digits(return_X_y=True)
    train, held, train_labels, held_labels = train_test_split(
        images, labels, test_size=0.2, stratify=labels, random_state=0
    )

    def as_set(rows: np.ndarray, answers: np.ndarray) -> set[tuple[bytes, str]]:
        return {
            (row.astype(np.uint8).tobytes(), str(answer))
            for row, answer in zip(rows, answers, strict=True)
        }

    found: dict[str, list[tuple[bytes, str]]] = {"train": [], "heldout": []}
    for document in originals:
        image, answer = document.parts[0].value, document.parts[2].value
        found[str(document.split)].append((image.tobytes(), answer))
    assert len(found["heldout"]) == 360 and len(found["train"]) == 1437
    assert set(found["heldout"]) == as_set(held, held_labels)
    assert set(found["train"]) == as_set(train, train_labels)
    assert len({document.name for document in originals}) == 1797


def test_only_the_answer_is_trained(originals: list[Document]) -> None:
    for document in originals[:20]:
        assert [part.codec for part in document.parts] == ["image", "special", "label"]
        assert [part.trained for part in document.parts] == [False, False, True]


def test_copies_are_of_training_images_alone_and_repeatable(originals: list[Document]) -> None:
    items = FIELD.items(SOURCE)
    assert len({item.identity for item in items}) == len(items) == NUM_COPIES
    assert all(f"scikit-learn {sklearn.__version__}" in item.identity for item in items)
    copies = read(3)
    by_name = {document.name: document for document in originals}
    assert len(copies) == 1437 and {document.split for document in copies} == {"train"}
    differ = 0
    for copy, again in zip(copies, read(3), strict=True):
        source = by_name[copy.name.partition("~")[0]]
        assert source.split == "train" and source.parts[2] == copy.parts[2]
        assert (copy.parts[0].value == again.parts[0].value).all()
        image = copy.parts[0].value
        assert image.shape == (8, 8) and image.dtype == np.uint8 and image.max() <= 16
        differ += not np.array_equal(image, source.parts[0].value)
    assert differ > 1400
    assert not any(
        np.array_equal(a.parts[0].value, b.parts[0].value)
        for a, b in zip(copies, read(4), strict=True)
    )


def test_distortion_keeps_the_ink_and_moves_it_little() -> None:
    image = np.zeros((200, 8, 8), np.uint8)
    image[:, 2:6, 3:5] = 16
    turned = distort(image, seed=1).astype(float)
    ink = turned.sum(axis=(1, 2)) / image[0].sum()
    assert ink.min() > 0.6 and ink.max() < 1.4 and abs(ink.mean() - 1) < 0.05
    rows = (turned.sum(axis=2) @ np.arange(8)) / turned.sum(axis=(1, 2))
    columns = (turned.sum(axis=1) @ np.arange(8)) / turned.sum(axis=(1, 2))
    assert np.abs(rows - 3.5).max() < 1.5 and np.abs(columns - 3.5).max() < 1.5
    assert rows.std() > 0.3 and columns.std() > 0.3


def test_codecs_fit_the_vocabulary_and_the_answer_is_one_token(originals: list[Document]) -> None:
    train = [document for document in originals if document.split == "train"]
    codecs = FIELD.fit_codecs(train + read(1), {"vocab_size": 48, "seed": 0})
    assert (codecs["image"].num_ids, codecs["label"].num_ids) == (32, 10)
    same = FIELD.fit_codecs(train, {"vocab_size": 48, "seed": 0})
    assert same["image"].files() == codecs["image"].files()  # copies do not change the codebook
    ids, mask = Tokens.build(codecs, 64).encode_document(originals[0])
    assert len(ids) == 20 and mask == [False] * 18 + [True, True]
    assert ids[18] == 48 + int(originals[0].parts[2].value)
    assert FIELD.fit_codecs(train, {"vocab_size": 26, "seed": 0})["image"].num_ids == 16


def test_support_vectors_score_what_is_known(originals: list[Document]) -> None:
    held = [document for document in originals if document.split == "heldout"]
    vectors, commonest = FIELD.baselines([], held, None)
    assert vectors.value == pytest.approx(356 / 360)
    assert vectors.low is not None and vectors.high is not None
    assert 0.96 < vectors.low < vectors.value < vectors.high <= 1.0
    assert 0.09 < commonest.value < 0.11 and commonest.num_documents == 360
    (some, _) = FIELD.baselines([], held[:50], None)
    assert some.measure is not None and some.measure.document_names == tuple(
        document.name for document in held[:50]
    )


def test_other_sources_are_refused() -> None:
    with pytest.raises(DataError, match="sklearn:digits"):
        FIELD.items(Source("digits.csv", "digits"))
