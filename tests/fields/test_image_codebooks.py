"""Codebooks of images are learned without holding all of them."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="needs the extra train")

from whorl.core.ports import Document, Part
from whorl.fields.base import find_field

FIELD = find_field("images")


def test_codebooks_are_learned_from_every_so_many_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 80 images 21 of 8 x 8 bytes: every fourth is kept, and no others are held."""
    rng, alive, most = np.random.default_rng(0), weakref.WeakSet[Any](), [0]
    pixels = rng.integers(0, 256, (80, 8, 8)).astype(np.uint8)

    class Held(np.ndarray):  # type: ignore[type-arg]
        __hash__ = object.__hash__

    def documents(numbers: Iterable[int]) -> Iterator[Document]:
        for number in numbers:
            image = pixels[number].copy().view(Held)
            alive.add(image)
            most[0] = max(most[0], len(alive))
            parts = [Part("image", image), Part("special", "<|answer|>"), Part("label", "a")]
            yield Document(str(number), (*parts, Part("special", "<|end|>")), "train")
            del image, parts

    options = {"vocab_size": 40, "seed": 0, "options": {**FIELD.options, "books": "shared"}}
    expected = FIELD.fit_codecs(documents(range(0, 80, 4)), options)["image"].files()
    monkeypatch.setattr("whorl.fields.image_options.MAX_FIT_BYTES", 21 * 64)
    most[0] = 0
    assert FIELD.fit_codecs(documents(range(80)), options)["image"].files() == expected
    assert most[0] < 30
