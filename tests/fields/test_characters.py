"""Characters: words without their tags, and Witten and Bell's model against a slow one."""

from __future__ import annotations

import math
import random
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("scipy", reason="needs the extra train")

from whorl.core.errors import SpecError
from whorl.core.ports import Document, Part, Source
from whorl.fields.base import options_of
from whorl.fields.characters import FIELD, untagged
from whorl.fields.witten_bell import ORDER, bits_of_texts


def slow_model(before: bytes) -> Callable[[bytes, int], float]:
    """P(next byte | context) by the definition, with dictionaries."""
    after: dict[bytes, Counter[int]] = defaultdict(Counter)
    for place, byte in enumerate(before):
        for order in range(min(place, ORDER) + 1):
            after[before[place - order : place]][byte] += 1

    def chance(context: bytes, byte: int) -> float:
        lower = chance(context[1:], byte) if context else 1 / 256
        seen = after.get(context)
        if not seen:
            return lower
        return (seen[byte] + len(seen) * lower) / (seen.total() + len(seen))

    return chance


def test_witten_bell_is_that_of_the_definition() -> None:
    rng = random.Random(0)
    before = "".join(rng.choice(["aba", "cad", "ab ", "zebra "]) for _ in range(200)).encode()
    texts = [b"abacadabra zebra", b"qq", b"a", "zébra".encode(), bytes(range(256))]
    chance = slow_model(before)
    expected = [
        -sum(
            math.log2(chance(text[max(0, place - ORDER) : place], byte))
            for place, byte in enumerate(text)
        )
        for text in texts
    ]
    assert bits_of_texts(before, texts) == pytest.approx(expected)
    assert bits_of_texts(b"", [b"ab"]) == pytest.approx([16])


def test_its_chances_add_up_to_one() -> None:
    before = b"the cat sat on the mat"
    bits = bits_of_texts(before, [b"the" + bytes([byte]) for byte in range(256)])
    assert np.exp2(-(bits - bits_of_texts(before, [b"the"])[0])).sum() == pytest.approx(1)


def test_words_lose_their_tags_alone(tmp_path: Path) -> None:
    tagged = "\n\n\tThe/at 1/2/cd jury/nn-hl said/vbd ./.\n\n\n\tno tag\n"
    assert untagged(tagged) == "The 1/2 jury said .\nno tag\n"
    (tmp_path / "a.txt").write_text(tagged)

    def texts(said: str) -> list[str | None]:
        source = Source(str(tmp_path), "characters", options=options_of(FIELD, {"tagged": said}))
        return [d.text for i in FIELD.items(source) for d in FIELD.read(source, i, pytest.fail)]

    assert texts("yes") == ["The 1/2 jury said .\nno tag\n"] and texts("no") == [tagged]
    with pytest.raises(SpecError, match="tagged"):
        texts("maybe")


def test_baselines_are_in_bits_of_the_same_documents() -> None:
    rng = random.Random(0)
    words = ["alpha", "beta", "gamma", "delta"]

    def text() -> str:
        return " ".join(rng.choice(words) for _ in range(300))

    train = [Document(f"t{n}", (Part("text", text()),)) for n in range(20)]
    heldout = [Document(f"h{n}", (Part("text", text()),)) for n in range(4)]
    scores = {
        score.name.partition(",")[0]: score for score in FIELD.baselines(train, heldout, None)
    }
    found = scores["Witten-Bell of bytes"]
    # Two bits a word of 5.75 signs are what there is to say; counting costs a little.
    assert 2 / 5.75 < found.value < 0.45 and found.num_documents == 4
    assert found.value < scores["xz -9"].value
