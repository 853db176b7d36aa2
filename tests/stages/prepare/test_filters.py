"""Repetition: degenerate text goes and prose stays, in Chinese as in English."""

from __future__ import annotations

import itertools

import pytest

from tests.stages.prepare.prose import (
    CHINESE,
    DEGENERATE,
    ENGLISH,
    degenerate_chinese,
    degenerate_english,
)
from whorl.spec.resolved import PrepareConfig
from whorl.stages.prepare.filters import SHORT_BYTES, is_repetitive, zlib_ratio
from whorl.stages.prepare.shingles import repeated_share, sketch

CONFIG = PrepareConfig(vocab_size=512, seq_len=64)


def goes(text: str) -> bool:
    data = text.encode()
    share = float(sketch([data]).repeated_share[0])
    return is_repetitive(data, share, CONFIG.max_repetition_ratio, CONFIG.max_repeated_windows)


@pytest.mark.parametrize("text", DEGENERATE, ids=lambda text: f"{text[:12]}-{len(text)}")
def test_degenerate_text_goes(text: str) -> None:
    assert goes(text)


@pytest.mark.parametrize("text", [*CHINESE, *ENGLISH], ids=lambda text: text[:12])
def test_prose_stays(text: str) -> None:
    assert not goes(text)
    assert zlib_ratio(text.encode()) < CONFIG.max_repetition_ratio / 2
    assert repeated_share(text.encode()) < CONFIG.max_repeated_windows / 2


def test_long_prose_stays() -> None:
    """Longer texts of the same sentences in other orders, so that zlib finds what there is."""
    for language in (CHINESE, ENGLISH):
        whole = "\n\n".join(language)
        assert not goes(whole) and not goes(whole[::-1])


def test_prose_and_its_quotation_stay() -> None:
    """Half of a text repeated once, as a reply quotes a letter: not degenerate."""
    for text in (*CHINESE, *ENGLISH):
        assert not goes(text + "\n> " + text[: len(text) // 2])


def test_repetition_hidden_in_prose_goes_when_it_prevails() -> None:
    for prose, degenerate in ((CHINESE, degenerate_chinese), (ENGLISH, degenerate_english)):
        whole = "".join(prose)
        assert goes(whole + degenerate(200)) and not goes(whole + degenerate(3))


def test_far_repetition_is_seen() -> None:
    """Beyond the 32 kB that zlib looks back: a long text that comes five times."""
    words = [a + b for a, b in itertools.product("bdfglmnprst", "aeiou")]
    state, pieces = 1, []
    for _ in range(40_000):
        state = state * 48271 % (2**31 - 1)
        pieces.append(words[state % len(words)] + (" " if state & 0x300 else ""))
    text = "".join(pieces)
    assert len(text) > 3 * SHORT_BYTES and not goes(text)
    assert zlib_ratio((text * 5).encode()) < CONFIG.max_repetition_ratio
    assert goes(text * 5)


@pytest.mark.parametrize("text", ["", "a", "ha ha ha", "=" * 80, "1. 2. 3. 4. 5."])
def test_short_texts_stay(text: str) -> None:
    assert not goes(text)
