"""Which encoding a text is in: what its first bytes say, what a recipe says, and a guess.

Text is UTF-8 unless a byte order mark says UTF-16 or UTF-32, or a recipe names an encoding for
what is not UTF-8. A guess is never read by: it only tells a person what to write.
"""

from __future__ import annotations

import codecs
import difflib
import encodings.aliases
import re

from whorl.core.errors import SpecError

__all__ = ["BOMS", "check_encoding", "encoding_of", "guess", "guessed", "is_wide"]

BOMS = (  # of UTF-32 first: its little-endian mark begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
NO_BYTES_OF_FILES = ("idna", "punycode", "undefined", "unicode_escape", "raw_unicode_escape")
MARKED = {"utf-16": "utf-16-le", "utf-32": "utf-32-le"}  # without a mark
GUESS_BYTES = 2**16
MIN_HIGH = 4  # bytes beyond ASCII, from which on other scripts than Latin are guessed
MIN_PAIRS = 3  # of bytes, from which on zeros say something
MIN_SCORE = 0.6  # share of the signs beyond ASCII that have to be usual ones
KANA = "\u3041-\u30fa\u30fc"
KANJI = "\u4e00-\u9fff"
LATIN = "A-Za-zÀ-ÖØ-öø-ÿŒœŠšŽžŸ"
WESTERN = f"(?<=[\0-\x7f])[{LATIN}’]{{1,2}}(?=[\0-\x7f]|$)|\\b[À-Öà-ö](?=[a-z])|[“”„–—…«»€©®°§·¡¿½]"


def check_encoding(name: str) -> str:
    """The name, if it is of an encoding of text. Raises SpecError with the nearest right one."""
    if _is_of_text(name):
        return name
    known = {*encodings.aliases.aliases.values(), "latin-1", "shift-jis"}
    near = difflib.get_close_matches(name.lower(), sorted(filter(_is_of_text, known)), n=1)
    raise SpecError(
        "it is no encoding of text",
        found=repr(name),
        expected=f"did you mean {near[0]}?" if near else "such as latin-1, cp1252, shift-jis",
    )


def _is_of_text(name: str) -> bool:
    try:
        found = codecs.lookup(name)
    except (LookupError, ValueError):
        return False
    return found._is_text_encoding and found.name not in NO_BYTES_OF_FILES


def encoding_of(head: bytes, given: str = "") -> tuple[str, int]:
    """(encoding, length of its byte order mark) of text that begins so; "": it is UTF-8.

    given: what a recipe says of the files that are not UTF-8. A mark says more than a recipe, and
    so do bytes beyond ASCII that are UTF-8.
    """
    for mark, name in BOMS:
        if head.startswith(mark):
            return name, len(mark)
    name = codecs.lookup(given).name if given else "utf-8"
    if name in ("utf-8", "utf-8-sig") or _is_utf8_beyond_ascii(head):
        return "", 0
    return MARKED.get(name, name), 0


def _is_utf8_beyond_ascii(head: bytes) -> bool:
    """The last sign may be cut."""
    try:
        return not codecs.getincrementaldecoder("utf-8")().decode(head).isascii()
    except UnicodeDecodeError:
        return False


def _jis(text: str) -> float:
    kana = len(re.findall(f"[{KANA}]", text))
    return 0.0 if 10 * kana < len(text) else (kana + _level(text, "euc_jp", 0xB0, 0xCF)) / len(text)


def _level(text: str, codec: str, first: int, last: int) -> int:
    """How many ideographs are of the common ones, which this codec begins with."""
    signs = re.findall(f"[{KANJI}]", text)
    return sum(first <= sign.encode(codec, "replace")[0] <= last for sign in signs)


def _share(pattern: str, text: str, whole: str) -> float:
    """Of the signs beyond ASCII (text), those that match where they stand (in whole)."""
    matches = "".join(re.findall(pattern, whole))
    return sum(not sign.isascii() for sign in matches) / len(text)


def _beside(small: str, large: str) -> str:
    """Letters beside letters of the same script; capitals only where words begin."""
    return f"(?<=[{small}{large}])[{small}]|[{small}](?=[{small}])|\\b[{large}](?=[{small}])"


def _score(codec: str, text: str, whole: str) -> float:
    """How usual the signs beyond ASCII are for the languages that write in this codec."""
    if codec in ("cp932", "euc_jp"):
        return _jis(text)
    if codec == "gb18030":
        return _level(text, "gb2312", 0xB0, 0xD7) / len(text)
    if codec == "big5":
        return _level(text, "big5", 0xA4, 0xC6) / len(text)
    pattern = {
        "euc_kr": "[\uac00-\ud7a3]",
        "cp1251": _beside("а-яё", "А-ЯЁ"),  # in KOI8 read as this, capitals stand within words
        "koi8_r": _beside("а-яё", "А-ЯЁ"),
        "cp1253": _beside("ά-ώ", "Α-Ω"),
        "cp1255": _beside("א-ת", "א-ת"),
        "cp1256": _beside("ء-ي", "ء-ي"),
        "cp874": _beside("ก-ฺเ-๎", "ก-ฺเ-๎"),
        "cp1250": "(?<=[A-Za-z])[ąćęłńśźżčďěňřšťůžőűăşţ]|[ąćęłńśźżčďěňřšťůžőűăşţ](?=[A-Za-z])",
        "cp1252": WESTERN,
    }[codec]
    return _share(pattern, text, whole)


# What it is called, and the codec that reads it; the first of equal scores is taken.
CANDIDATES = (
    ("Shift-JIS", "cp932"),
    ("EUC-JP", "euc_jp"),
    ("EUC-KR", "euc_kr"),
    ("GB18030", "gb18030"),
    ("Big5", "big5"),
    ("cp1255", "cp1255"),
    ("cp1251", "cp1251"),
    ("KOI8-R", "koi8_r"),
    ("cp1253", "cp1253"),
    ("cp1256", "cp1256"),
    ("cp874", "cp874"),
    ("latin-1", "cp1252"),
    ("cp1250", "cp1250"),
)


def guess(data: bytes) -> str:
    """The encoding that text which is not UTF-8 looks like; "" if it looks like none of ours."""
    data = data[: GUESS_BYTES // 4 * 4]
    if wide := _wide(data):
        return wide
    if not data or sum(data.count(byte) for byte in (*range(9), *range(14, 27))) * 50 > len(data):
        return ""  # no text
    best, best_score = "", MIN_SCORE
    num_high = len(re.findall(rb"[\x80-\xff]", data))
    for name, codec in CANDIDATES if num_high >= MIN_HIGH else CANDIDATES[-2:]:
        try:
            whole = codecs.getincrementaldecoder(codec)().decode(data)
        except UnicodeDecodeError:
            continue
        text = re.sub("[\0-\x7f\u3000-\u3020\uff00-\uffef]+", "", whole)
        score = _score(codec, text, whole) if text else 0.0
        if score > best_score:
            best, best_score = name, score
    if best == "latin-1" and re.search(rb"[\x80-\x9f]", data):
        return "cp1252"
    return best


def _wide(data: bytes) -> str:
    """UTF-16 or UTF-32 without a mark, by where the zeros of common signs stand."""
    pairs = len(data) // 2
    if pairs >= MIN_PAIRS and data.count(0) * 4 >= len(data):
        for name, start, low in (("UTF-32-LE", 2, 0), ("UTF-32-BE", 0, 3)):
            high = data[start::4] + data[start + 1 :: 4]
            if high.count(0) > 0.95 * len(high) and data[low::4].strip(b"\0"):
                return name
        for name, start in (("UTF-16-LE", 1), ("UTF-16-BE", 0)):
            if data[start::2].count(0) > 0.6 * pairs and data[1 - start :: 2].count(0) < pairs / 10:
                return name
    return ""


def is_wide(data: bytes) -> bool:
    """Whether text is UTF-16 or UTF-32 without a mark, by its zeros."""
    return bool(_wide(data[: GUESS_BYTES // 4 * 4]))


def guessed(data: bytes) -> tuple[str, str]:
    """(words of a reason, what to write) for text that is not UTF-8."""
    signs = data[:GUESS_BYTES].decode("utf-8", "replace")
    num_bad = signs.count("\ufffd")
    if sum(not sign.isascii() for sign in signs) > 2 * num_bad:
        return "UTF-8 with damaged signs", "mend the file at that place"
    name = guess(data)
    if not name:
        return "not UTF-8", "name its encoding in the data entry, such as encoding: latin-1"
    return f"not UTF-8, looks like {name}", f"write encoding: {name.lower()} in the data entry"
