"""Texts that are nothing like prose, of any size: what makes tokenizers and filters slow."""

from __future__ import annotations

import base64
import random
from collections.abc import Callable, Mapping
from typing import Final

__all__ = ["ODD_TEXTS", "PROSE", "odd_text"]

PROSE = "prose"
COMMON = "the of and to in a is that for it was as on with be by at from this which or an are not"
LETTERS = "etaoinshrdlucmfwypvbgkjqxz"  # of English, most frequent first
BLANKS = " \t\u00a0\u2003\u3000"
SYLLABLES = "\u0e01\u0e02\u0e04\u0e07\u0e08\u0e0a\u0e14\u0e15\u0e17\u0e19"  # of Thai


def prose(chooser: random.Random, num_bytes: int) -> str:
    """Words as often as in a natural language (Zipf), in lines and sentences."""
    words = COMMON.split()
    weights = [1 / (place + 2) for place in range(len(LETTERS))]
    words += [
        "".join(chooser.choices(LETTERS, weights, k=2 + place % 11)) for place in range(20000)
    ]
    shares = [1 / (place + 3) for place in range(len(words))]
    drawn = chooser.choices(words, shares, k=num_bytes // 5)
    ends = chooser.choices([" ", ", ", ".\n"], [12, 1, 1], k=len(drawn))
    return "".join([word + end for word, end in zip(drawn, ends, strict=True)])[:num_bytes]


def _drawn(signs: str, bytes_per_sign: int = 1) -> Callable[[random.Random, int], str]:
    """Signs drawn evenly between two letters, as no text is blank."""

    def text(chooser: random.Random, num_bytes: int) -> str:
        return "x" + "".join(chooser.choices(signs, k=num_bytes // bytes_per_sign)) + "y"

    return text


def _range(first: int, last: int) -> str:
    return "".join(map(chr, range(first, last + 1)))


def _base64(chooser: random.Random, num_bytes: int) -> str:
    return base64.b64encode(chooser.randbytes(num_bytes * 3 // 4)).decode()


def _short_words(chooser: random.Random, num_bytes: int) -> str:
    letters = chooser.choices(LETTERS, k=num_bytes)
    letters[5::6] = " " * len(letters[5::6])
    return "".join(letters)


# Name -> (random numbers, bytes) -> a text of about so many.
ODD_TEXTS: Final[Mapping[str, Callable[[random.Random, int], str]]] = {
    PROSE: prose,
    "one sign": _drawn("^"),
    "one letter": _drawn("a"),
    "one word": lambda _, num_bytes: "word " * (num_bytes // 5),
    "random signs": _drawn(_range(33, 126)),
    "brackets": _drawn("[]()!+"),
    "random words": _short_words,
    "base64": _base64,
    "genome": _drawn("ACGT"),
    "digits": _drawn("0123456789"),
    "Chinese": _drawn(_range(0x4E00, 0x5FFF), 3),
    "Thai": _drawn(SYLLABLES + "\u0e34\u0e48", 3),
    "marks": _drawn(_range(0x300, 0x32F), 2),
    "one mark": _drawn("\u0301", 2),
    "spaces": _drawn(" "),
    "blanks": _drawn(BLANKS, 2),
    "line ends": _drawn("\r\n"),
    "emoji": _drawn(_range(0x1F600, 0x1F63F), 4),
    "braille": _drawn(_range(0x2800, 0x28FF), 3),
    "any character": _drawn(_range(0x20, 0xD7FF) + _range(0xE000, 0x1FFFF), 3),
}


def odd_text(kind: str, num_bytes: int, seed: int = 0) -> str:
    """About num_bytes of one of ODD_TEXTS; the same for the same seed."""
    return ODD_TEXTS[kind](random.Random(seed), num_bytes)
