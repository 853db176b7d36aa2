"""NFC: Python's own result, but in time proportional to the text."""

from __future__ import annotations

import random
import sys
import time
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import normalizers

from whorl.codecs.tokenizer import nfc

# Marks of several classes, and what decomposes into marks alone.
MARKS = "\u0300\u0301\u0316\u0327\u0345\u0344\u0340\u0f73\u0f81\u05b0\u3099\u0338\U0001d165"
STARTERS = "aeo\u00e9\u1e69\uac00\u1100\u1161 \n\u4e00"
runs = st.lists(
    st.one_of(st.text(STARTERS, max_size=3), st.text(MARKS, max_size=90)), max_size=5
).map("".join)


@given(runs)
def test_it_is_pythons(text: str) -> None:
    assert nfc(text) == unicodedata.normalize("NFC", text)


def test_what_is_normal_stays() -> None:
    """Also by the library, of every code point, those newer than its tables among them."""
    library = normalizers.NFC()
    for code in (*range(0xD800), *range(0xE000, sys.maxunicode + 1)):
        text = unicodedata.normalize("NFC", f"a{chr(code)}\u0316\u0301")
        assert nfc(text) is text and library.normalize_str(text) == text


@pytest.mark.parametrize("marks", ["\u0316\u0301", "\u0f73", "\u0327\u0300\u0345\u0344"])
def test_long_runs_take_no_square_of_time(marks: str) -> None:
    """200,000 marks take Python minutes; sorted by class they take it none."""
    chooser = random.Random(0)
    run = chooser.choices(marks, k=200_000)
    begin = time.process_time()
    found = nfc("a" + "".join(run) + "b")
    assert time.process_time() - begin < 5
    parts = "".join(unicodedata.normalize("NFD", mark) for mark in run)
    ordered = "".join(sorted(parts, key=unicodedata.combining))
    assert found == unicodedata.normalize("NFC", f"a{ordered}b")
