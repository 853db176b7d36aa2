"""Repetition: degenerate text goes; prose and long texts that repeat much stay, in any script."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from tests.stages.prepare.long_texts import FIRST_LETTERS, LONG_TEXTS, book, in_letters
from tests.stages.prepare.prose import (
    CHINESE,
    DEGENERATE,
    ENGLISH,
    degenerate_chinese,
    degenerate_english,
)
from whorl.spec.resolved import PrepareConfig
from whorl.stages.prepare.comparable import comparable, letters
from whorl.stages.prepare.filters import SHORT_BYTES, is_repetitive, zlib_ratio
from whorl.stages.prepare.shingles import repeated_share, sketch

CONFIG = PrepareConfig(vocab_size=512, seq_len=64)
CLAUSES = {  # a clause, and the verbs it may end with
    "German": (
        "Da sich die Modelle immer weiter erneuern, wird ihre Zukunft auch weiterhin {}. ",
        "wachsen steigen reifen blühen gedeihen reichen",
    ),
    "Russian": (
        "По мере обновления моделей будущее больших моделей будет и дальше {}. ",
        "расти крепнуть меняться развиваться шириться",
    ),
    "Japanese": (
        "モデルの絶え間ない革新とともに、大規模モデルの未来も絶えず{}。",
        "進む 伸びる 広がる 変わる 深まる 高まる",
    ),
    "Arabic": (
        "مع استمرار تجديد النماذج فإن مستقبل النماذج الكبيرة سوف {}. ",
        "ينمو يتقدم يتغير يتطور يتحسن",
    ),
}
BOOK = book(num_lines=300)
COUNTS = (5, 8, 20, 45, 62, 100, 2000)
SCRIPTS: dict[str, Callable[[str], str]] = {
    "Latin": str,
    **{script: lambda text, script=script: in_letters(text, script) for script in FIRST_LETTERS},
}


def loop(language: str, count: int) -> str:
    clause, verbs = CLAUSES[language]
    ends = itertools.islice(itertools.cycle(verbs.split()), count)
    return "".join(clause.format(verb) for verb in ends)


def goes(text: str) -> bool:
    data = letters(comparable(text))
    share = float(sketch([data]).repeated_share[0])
    return is_repetitive(data, share, CONFIG.max_repetition_ratio, CONFIG.max_repeated_windows)


@pytest.mark.parametrize("text", DEGENERATE, ids=lambda text: f"{text[:12]}-{len(text)}")
def test_degenerate_text_goes(text: str) -> None:
    assert goes(text)


@pytest.mark.parametrize("count", COUNTS)
def test_a_clause_whose_last_verb_changes_goes_in_any_language(count: int) -> None:
    for language in CLAUSES:
        assert goes(loop(language, count)), language
    for dress in SCRIPTS.values():
        assert goes(dress(degenerate_english(count)))
    assert goes(degenerate_chinese(count))


@pytest.mark.parametrize("kind", LONG_TEXTS)
def test_long_texts_that_repeat_much_stay(kind: str) -> None:
    """In every alphabet, and as one of several in one document."""
    for seed in range(3):
        text = LONG_TEXTS[kind](seed)
        assert len(comparable(text)) > 500
        for script, dress in SCRIPTS.items():
            assert not goes(dress(text)), (script, seed)
        assert not goes("\n\n".join([text, *CHINESE, LONG_TEXTS[kind](seed + 10)]))


def test_one_book_is_judged_alike_in_two_alphabets() -> None:
    """Also where the old limit of windows would fall between them."""
    for text in (book(), BOOK, BOOK * 2, BOOK * 3, degenerate_english(30), ENGLISH[0] * 4):
        verdicts = {goes(dress(text)) for dress in SCRIPTS.values()}
        assert len(verdicts) == 1
    assert not goes(book()) and goes(BOOK * 3)


def test_a_text_twice_stays_and_three_times_goes() -> None:
    for text in ("\n".join(ENGLISH), "".join(CHINESE), LONG_TEXTS["statute"](1)):
        assert not goes(text * 2) and goes(text * 4)


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
