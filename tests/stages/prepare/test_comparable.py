"""What is compared of a text: the same for its copies in any dress, different for other texts."""

from __future__ import annotations

import os
import sys
import time
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.stages.prepare.disguises import DISGUISES, LICENCES, MIT, OWNER
from tests.stages.prepare.long_texts import in_letters
from tests.stages.prepare.prose import CHINESE, ENGLISH
from tests.stages.prepare.support import story
from tests.stages.prepare.test_shingles import windows
from whorl.stages.prepare.comparable import comparable, comparable_value, letters

TRIALS = int(float(os.environ.get("WHORL_TRIALS", "1")) * 100)
FUNCTION = "def add(first, second):\n    if first:\n        return first + second\n    return 0\n"
BASES = (
    ENGLISH[0],
    CHINESE[1],
    FUNCTION,
    "Grüße, ça va?\n",
    "tiny",
    story(3),
    "x = 1\n",
    "क्या हाल है?\n",
)

LINE_ENDS = (
    *("CRLF", "CR", "NEL", "CRLF and mark", "line separator", "paragraph separator"),
    "double spaced",
)


@pytest.mark.parametrize("disguise", DISGUISES)
def test_a_copy_is_the_same(disguise: str) -> None:
    for text in BASES:
        assert comparable(DISGUISES[disguise](text)) == comparable(text)


@settings(max_examples=TRIALS)
@given(
    st.sampled_from(BASES),
    st.lists(st.sampled_from(sorted(DISGUISES)), max_size=4, unique=True),
)
def test_so_is_a_copy_in_several_dresses(text: str, names: list[str]) -> None:
    """At most one licence and one way to end lines: two ways double the lines of a licence."""
    heads = [name for name in names if name in LICENCES][:1]
    ends = [name for name in names if name in LINE_ENDS][:1]
    others = [name for name in names if name not in (*LICENCES, *LINE_ENDS)]
    copy = text
    for name in [*heads, *others, *ends]:
        if not (heads and name == "double spaced"):
            copy = DISGUISES[name](copy)
    assert comparable(copy) == comparable(text)


def test_every_sign_that_nobody_sees_is_left_out() -> None:
    for code in range(sys.maxunicode + 1):
        sign, category = chr(code), unicodedata.category(chr(code))
        unseen = category == "Cf" or (category == "Cc" and not sign.isspace())
        if unseen or sign.isspace():
            assert comparable(f"a{sign}b") == "ab", hex(code)
        elif category[0] in "LNPS" and code < 0x1100:
            assert comparable(f"a{sign}b") != "ab", hex(code)


def test_nothing_visible_is_nothing() -> None:
    assert comparable(" \n\t\u00a0\ufeff\u200b\u2028\0") == ""


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("1 23", "12 3"),
        ("a b\n1\n2\n", "a b\n12\n"),
        ("yes", "Yes"),
        ("x = 1", "x = -1"),
        ("resume", "résumé"),
        ("---\nkind: a\n---\nname: c\n", "---\nkind: b\n---\nname: c\n"),
        ("---\n\nOne.\n\n---\n\nTwo.\n", "---\n\nThree.\n\n---\n\nTwo.\n"),
        ("---\ntitle: One\n---\n", "---\ntitle: Two\n---\n"),
        (LICENCES["hash"], LICENCES["spdx"]),
        (f"{OWNER}\n", f"{MIT}\n"),
        ("# One\n\nThe text.\n", "# Two\n\nThe text.\n"),
        ("#!/bin/sh\nls\n", "#!/bin/sh\npwd\n"),
        ('"""Adds."""\nx = 1\n', '"""Removes."""\nx = 1\n'),
        ("/* never closed, copyright\nx", "/* never closed, copyright\ny"),
    ],
)
def test_other_texts_are_others(first: str, second: str) -> None:
    assert comparable(first) != comparable(second)


def test_parts_of_other_kinds_are_compared_alike() -> None:
    chat = [{"role": "user", "content": "Hello there\r\n"}, ("a\u200bb", 7, None)]
    same = [{"role": "user", "content": "\ufeffHello\u00a0there"}, ("ab", 7, None)]
    assert comparable_value(chat) == comparable_value(same) != comparable_value(["Hello there"])


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("# What license does Flask use?\nBSD-3", "# What license does Jinja use?\nBSD-3"),
        (
            "Copyright 2023 Reuters. The river rose.\n\nAll rights reserved.",
            "Copyright 2023 Reuters. The harvest was good.\n\nAll rights reserved.",
        ),
    ],
)
def test_what_is_nothing_but_a_notice_is_compared_whole(first: str, second: str) -> None:
    assert comparable(first) != comparable(second)


# ------------------------------------------------------------------ time


@pytest.mark.parametrize(
    "text",
    [
        "\u0301\u0323" * 150_000,
        "1" + " " * 300_000 + "x",
        '"""' * 100_000,
        "/* copyright */" * 20_000,
        "# copyright\n" * 30_000,
        "---\n" * 70_000,
        "---\na: b\n" + "c: d\n" * 60_000,
        "copyright\n" + " \n" * 150_000,
        "(c)" + " " * 300_000,
        "\u115f" * 300_000 + "a",
    ],
    ids=lambda text: repr(text[:12]),
)
def test_the_time_is_that_of_reading(text: str) -> None:
    began = time.process_time()
    comparable(text)
    assert time.process_time() - began < 3


# ------------------------------------------------------------------ letters


@pytest.mark.parametrize("script", ["Tibetan", "Greek", "Devanagari"])
def test_a_letter_is_a_byte_in_any_alphabet(script: str) -> None:
    text = "".join(ENGLISH).lower()
    other = in_letters(text, script)
    first, second = letters(text), letters(other)
    assert len(first) == len(second) == len(text)
    assert len(set(windows(first))) == len(set(windows(second)))
    assert not set(windows(first)) & set(windows(second))


def test_neighbouring_alphabets_differ() -> None:
    """Indic scripts have the same letters in the same order, 128 code points apart."""
    text = in_letters("".join(ENGLISH), "Devanagari")
    versions = [
        "".join(chr(ord(s) + 128 * n) if s > "\u0900" else s for s in text) for n in range(9)
    ]
    found = [set(windows(letters(version))) for version in versions]
    for number, own in enumerate(found):
        assert not any(own & other for other in found[:number])


def test_signs_of_words_are_three_bytes_and_differ() -> None:
    for text in ("漢字かなカナ", "한국어", "𠀀𠀁", "ꀀꀁ"):
        assert len(letters(text)) == 3 * len(text)
    every = [chr(code) for code in range(0x3041, 0xA000)]
    data = letters("".join(every))
    assert len({data[n : n + 3] for n in range(0, len(data), 3)}) == len(every)


@settings(max_examples=TRIALS)
@given(st.text(max_size=50), st.text(max_size=50))
def test_letters_join(first: str, second: str) -> None:
    assert letters(first + second) == letters(first) + letters(second)
    assert letters(first) == first.encode() or not first.isascii()
