"""Encodings: by mark, by the recipe, by guess; beside what Python's own codecs wrote."""

from __future__ import annotations

import codecs

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whorl.core.encodings import check_encoding, encoding_of, guess, guessed
from whorl.core.errors import SpecError

TEXTS = {
    "latin-1": "Müller geht über die Straße, und später kommt er zurück; déjà vu, señor.",
    "cp1252": "It’s “quoted” – a dash… for 5 €, naïve café",
    "cp1250": "Zażółć gęślą jaźń, a příliš žluťoučký kůň",
    "Shift-JIS": "これは文書です。日本語の文章を書いています。",
    "EUC-JP": "これは文書です。日本語の文章を書いています。",
    "GB18030": "这是一个普通的中文句子,讲的是今天的天气和明天的路。",
    "Big5": "這是一個普通的中文句子,講的是今天的天氣和明天的路。",
    "EUC-KR": "이것은 날씨에 관한 평범한 문장입니다.",
    "cp1251": "Это обычный русский текст о погоде, и больше ничего.",
    "KOI8-R": "Это обычный русский текст о погоде, и больше ничего.",
    "cp1253": "Αυτό είναι ένα απλό κείμενο για τον καιρό.",
    "cp1255": "זהו טקסט פשוט על מזג האוויר",
    "cp1256": "هذا نص بسيط حول الطقس",
    "cp874": "นี่คือข้อความธรรมดาเกี่ยวกับอากาศ",
    "UTF-16-LE": "plain text\nand a second line",
    "UTF-16-BE": "plain text\nand a second line",
    "UTF-32-LE": "plain text\nand a second line",
    "UTF-32-BE": "plain text\nand a second line",
}


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("times", [1, 500])
def test_an_encoding_is_guessed_by_the_name_that_reads_it(name: str, times: int) -> None:
    data = (TEXTS[name] + "\n").encode(name) * times
    assert guess(data) == name
    assert data.decode(check_encoding(name.lower())).startswith(TEXTS[name])
    if not name.startswith("UTF"):
        assert guess(data[:-1]) == name


@pytest.mark.parametrize("data", [b"", b"\xff", bytes(range(256)), b"\x80\x81\x82" * 9, b"\0" * 99])
def test_what_is_no_text_is_not_guessed(data: bytes) -> None:
    assert guess(data) == ""
    assert guessed(data)[0] == "not UTF-8"


def test_damaged_utf8_is_not_taken_for_another_encoding() -> None:
    data = "größer und schöner".encode() * 3 + b"\xc3"
    assert guessed(data) == ("UTF-8 with damaged signs", "mend the file at that place")


@given(st.binary(max_size=300))
def test_any_bytes_can_be_guessed(data: bytes) -> None:
    name = guess(data)
    assert name == "" or codecs.lookup(name)


@given(st.text(min_size=1).filter(lambda text: text[0] not in "\ufeff\0"))
def test_marks_name_what_was_written(text: str) -> None:
    for mark, name in (
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
        (codecs.BOM_UTF32_LE, "utf-32-le"),
        (codecs.BOM_UTF32_BE, "utf-32-be"),
    ):
        data = mark + text.encode(name, "replace")
        found, num_bytes = encoding_of(data, "latin-1")
        assert data[num_bytes:].decode(found) == text.encode(name, "replace").decode(name)
    assert encoding_of(codecs.BOM_UTF8 + text.encode("utf-8", "replace")) == ("", 0)


def test_the_recipe_says_what_is_not_utf8() -> None:
    assert encoding_of("é".encode("latin-1"), "latin-1") == ("iso8859-1", 0)
    assert encoding_of("é".encode(), "latin-1") == ("", 0), "UTF-8 beyond ASCII says so itself"
    assert encoding_of("é".encode()[:1] + b"x", "latin-1") == ("iso8859-1", 0)
    assert encoding_of("x 字字".encode()[:-1], "shift-jis") == ("", 0), "cut within a sign"
    assert encoding_of("日本".encode("iso-2022-jp"), "iso-2022-jp")[0] == "iso2022_jp"
    assert encoding_of("ab".encode("utf-16-be"), "UTF-16-BE")[0] == "utf-16-be"
    assert encoding_of("ab".encode("utf-16-le"), "utf-16") == ("utf-16-le", 0)
    assert encoding_of(b"abc", "utf8") == encoding_of(b"abc") == ("", 0)


@pytest.mark.parametrize(
    "name", ["shift-jiss", "latin1x", "rot13", "hex", "zlib", "idna", "\0", "x" * 999]
)
def test_a_wrong_encoding_is_refused_with_the_nearest(name: str) -> None:
    with pytest.raises(SpecError, match="no encoding of text") as error:
        check_encoding(name)
    if name == "shift-jiss":
        assert "did you mean shift" in str(error.value)
