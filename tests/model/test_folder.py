"""Model folders of a record: which variants, and cards that are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from whorl.core.digests import write_sealed
from whorl.core.errors import RecordError
from whorl.core.records import Record, RecordKey, RecordStore
from whorl.core.variants import Variant
from whorl.model.folder import model_folders

INT8 = {"format": "openvino", "weights": "int8"}


def record_of(home: Path, *cards: dict[str, Any]) -> Record:
    store, key = RecordStore(home, "tiny"), RecordKey("compress", {"cards": list(cards)})
    with store.write(key) as writer:
        for number, card in enumerate(cards):
            (writer.path / f"m{number}").mkdir()
            write_sealed(writer.path / f"m{number}/whorl.json", card)
    return store.published(key)


def test_folders_are_listed_by_the_bits_of_a_weight(tmp_path: Path) -> None:
    record = record_of(
        tmp_path, {"variant": {"format": "hf", "weights": "bf16"}}, {"variant": INT8}
    )
    found = {variant: folder.name for variant, folder in model_folders(record).items()}
    assert list(found.items()) == [
        (Variant("openvino", "int8"), "m1"),
        (Variant("hf", "bf16"), "m0"),
    ]


@pytest.mark.parametrize(
    "card",
    [
        {},
        {"variant": "int8"},
        {"variant": {"format": "hf"}},
        {"variant": INT8 | {"bits": 8}},
        {"variant": {"format": "hf", "weights": 8}},
    ],
)
def test_a_card_without_variant_is_refused(card: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"whorl\.json is not a model card"):
        model_folders(record_of(tmp_path, card))


def test_two_folders_of_one_variant_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="holds openvino int8 twice; found: m0 and m1"):
        model_folders(record_of(tmp_path, {"variant": INT8}, {"variant": INT8}))
