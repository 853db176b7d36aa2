"""What of a text is compared with other texts, so that the same text is the same in any dress.

Left out, of what is compared and never of what is trained on: how lines end, white space of any
kind (but one blank stays between two digits), signs that nobody sees, a byte order mark, and what
stands before the text: front matter and a comment with a licence. Unicode is in NFC.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from whorl.codecs.tokenizer import nfc

__all__ = ["comparable", "comparable_value", "letters"]

# Controls but white space, and what Unicode calls default-ignorable or a format sign.
INVISIBLE = re.compile(
    "[\0-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\xad\u034f\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891"
    "\u08e2\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U000110bd\U000110cd\U00013430-\U0001343f"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]+"
)
INVISIBLE_ASCII = bytes({*range(32), 127} - set(b"\t\n\v\f\r\x1c\x1d\x1e\x1f"))
BETWEEN_DIGITS = re.compile(r"(\d)[\s\u2800]+(?=\d)")  # U+2800: the blank of Braille

COMMENTS = (  # (begin, end) of what may stand before a text
    *(("/*", "*/"), ("<!--", "-->"), ("(*", "*)"), ("{-", "-}"), ("#|", "|#"), ("<#", "#>")),
    *(('"""', '"""'), ("'''", "'''"), ("--[[", "]]"), ("=begin", "=end"), ("{#", "#}")),
    ("<%--", "--%>"),
)
LINE_COMMENTS = ("//", "#", ";", "--", "%", "!", '" ', "' ", "..", "*", "REM ", "rem ", "dnl ")
LICENCE = re.compile(r"copyright|©|\(c\)\s*\d{4}|spdx-|licen[cs]|版权|版權|著作权|著作權", re.I)
TERMS = re.compile(r"permission|licen[cs]|warrant|redistribut|rights reserved", re.I)
OWNER = re.compile(r"copyright|©|\(c\)\s*\d{4}|spdx-|版权|版權|著作权|著作權", re.I)
NOTICE = re.compile(
    r"(?:copyright|©|\(c\)\s*\d{4}|spdx-|版权|版權)[^\n]*(?:\n[^\n]*\S[^\n]*)*", re.I
)
PRELUDE = re.compile(
    r"#![^\n]*|<\?php\b|<\?xml[^>]*>|<!doctype[^>]*>|[#;%/]+[^\n]{0,40}coding[:=][^\n]*", re.I
)
MAX_BLOCKS = 8  # before the text
FRONT_MATTER = {"---": ("---", "..."), "+++": ("+++",)}  # YAML, TOML: opening line, closing ones
YAML_LINE = re.compile(r"\s|$|[-#]|[a-z][\w-]*:(?:\s|$)")
FRONT_LINE = re.compile(r"\s|$|[-\]})#]|\[|[\"']?[\w.@/ -]+[\"']?\s*[:=]")

# Signs that stand for a syllable or a word: from, to (exclusive), …
WORD_SIGNS = np.array(
    [
        *(0x2E80, 0xA4D0, 0xAC00, 0xD7B0, 0xF900, 0xFB00),  # Chinese, Japanese, Yi; Korean
        *(0x12000, 0x13430, 0x14400, 0x14680),  # cuneiform, hieroglyphs
        *(0x17000, 0x19000, 0x1B000, 0x1B300, 0x20000, 0x40000),  # Tangut, kana, Chinese
    ],
    np.uint32,
)
CHUNK_SIGNS = 2**16


def comparable(text: str) -> str:
    """The signs of a text that are compared; of one that is nothing but a licence, all."""
    visible = _visible(text)
    return _without_blanks(_body(visible)) or _without_blanks(visible)


def comparable_value(value: Any) -> Any:
    """A document's value with every text in it as it is compared, but licences kept."""
    if isinstance(value, str):
        return _without_blanks(_visible(value))
    if isinstance(value, list | tuple):
        return type(value)(comparable_value(item) for item in value)
    if isinstance(value, dict):
        return {key: comparable_value(item) for key, item in value.items()}
    return value


def letters(text: str) -> bytes:
    """The text with one byte per letter of any alphabet, three per sign of a syllable or word.

    So that a stretch of bytes says about as much in every script. ASCII stays; two letters of
    others may share a byte, though none of neighbouring alphabets that have the same order.
    """
    if text.isascii():
        return text.encode()
    starts = range(0, len(text), CHUNK_SIGNS)
    return b"".join(_letters(text[start : start + CHUNK_SIGNS]) for start in starts)


def _letters(text: str) -> bytes:
    codes = np.frombuffer(text.encode("utf-32-le"), "<u4")
    block = codes >> 7
    first = np.where(block > 0, 128 | ((codes + 37 * block) & 127), codes).astype(np.uint8)
    is_word = np.searchsorted(WORD_SIGNS, codes, side="right") % 2 == 1
    counts = np.where(is_word, 3, 1)
    result = np.repeat(first, counts)
    places = (np.cumsum(counts) - counts)[is_word]
    result[places + 2] = result[places]
    result[places + 1] = 128 | (block[is_word] & 127)
    result[places] = 128 | (block[is_word] >> 7)
    return result.tobytes()


def _visible(text: str) -> str:
    if text.isascii():
        return text.encode().translate(None, INVISIBLE_ASCII).decode()
    return INVISIBLE.sub("", text)


def _without_blanks(text: str) -> str:
    apart = BETWEEN_DIGITS.sub("\\1\0", nfc(text))  # no text has this sign, as it is invisible
    return "".join(apart.replace("\u2800", " ").split()).replace("\0", " ")


def _body(text: str) -> str:
    """The text without what stands before it."""
    text = "\n".join(text.replace("\r\r\n", "\n").splitlines())  # CRLF that was made twice
    place = _skip_blanks(text, _front_matter_end(text))
    body = place
    for _ in range(MAX_BLOCKS):
        prelude = PRELUDE.match(text, place)
        end = prelude.end() if prelude else _block_end(text, place)
        if end is None:
            break
        is_licence = prelude or _is_licence(text, place, end)
        place = _skip_blanks(text, end)
        body = place if is_licence else body
    return text[body:]


def _is_licence(text: str, place: int, end: int) -> bool:
    """Whether a block says whose the text is. A line that asks about licences does not, and a
    paragraph without the marks of a comment only if it tells terms, or less than what follows."""
    has_owner = OWNER.search(text, place, end) is not None
    if not text.startswith((*(begin for begin, _ in COMMENTS), *LINE_COMMENTS), place):
        is_short = end - place <= len(text) - end
        return has_owner and (is_short or TERMS.search(text, place, end) is not None)
    is_long = "\n" in text[place:end].strip()
    return has_owner or (is_long and LICENCE.search(text, place, end) is not None)


def _skip_blanks(text: str, place: int) -> int:
    while place < len(text) and text[place].isspace():
        place += 1
    return place


def _block_end(text: str, place: int) -> int | None:
    """Where the comment or notice ends that begins here; None if there is none."""
    for begin, end in COMMENTS:
        if text.startswith(begin, place):
            found = text.find(end, place + len(begin))
            return None if found < 0 else found + len(end)
    for mark in LINE_COMMENTS:
        if text.startswith(mark, place):
            return _lines_end(text, place, mark.strip())
    notice = NOTICE.match(text, place)
    return notice.end() if notice else None


def _lines_end(text: str, place: int, mark: str) -> int:
    """Where lines end that begin with a mark, perhaps indented."""
    while text.startswith(mark, place):
        end = text.find("\n", place)
        if end < 0:
            return len(text)
        place = end + 1
        while place < len(text) and text[place] in " \t":
            place += 1
    return place


def _front_matter_end(text: str) -> int:
    """Where a text begins after front matter; 0 if there is none, or if all of it is YAML."""
    lines = text.lstrip().split("\n") if text.lstrip()[:3] in FRONT_MATTER else [""]
    closing = FRONT_MATTER.get(lines[0].strip(), ())
    for number, line in enumerate(lines[1:], 1):
        if line.strip() in closing:
            rest = "\n".join(lines[number + 1 :])
            is_yaml = all(YAML_LINE.match(other) for other in rest.strip().split("\n"))
            return 0 if number == 1 or is_yaml else len(text) - len(rest)
        if not closing or not FRONT_LINE.match(line):
            return 0
    return 0
