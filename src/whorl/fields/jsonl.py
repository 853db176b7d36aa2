"""Rows of JSON as they are found: one to a line, and what else is written under this name.

Each line is parsed strictly and fast. What that refuses is tried again by `Lenient`, which takes
rows however they stand: in an array, over several lines, ended by CR or begun by RS, with commas
after them, with NaN, NUL or numbers of thousands of digits. Each such row is counted as mended. A
file in which no line is a row is read so from its beginning.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, BinaryIO

from whorl.core import streams
from whorl.fields.chat_turns import is_message
from whorl.fields.places import Places

__all__ = ["Lenient", "Row", "is_by_lines", "json_rows"]

Row = Mapping[str, Any]

BLOCK_SIGNS = 2**20
LONG_NUMBER = 4000  # digits; Python refuses to read numbers of more than 4300
LINE_END = re.compile("[\n\r]")
SEPARATORS = re.compile("[\\s,\x1a\x1e\0\ufeff\\[\\]]*+")
STRING = r'"(?:[^"\\]|\\.)*+"'
BRACKETS = re.compile(rf"{STRING}?|[{{}}\[\]]", re.S)  # a string may be cut by the text's end
INNER_COMMA = re.compile(rf"({STRING})|,(?=\s*+[}}\]])", re.S)
OUTER_NUL = re.compile(rf"({STRING})|\0", re.S)
OUT_OF_PLACE = ((OUTER_NUL, "NUL between rows"), (INNER_COMMA, "comma after a last value"))
BETWEEN = {"\x1e": "RS before a row", "\0": "NUL between rows"}
CONTROLS = re.compile("[\0-\x08\x0b\x0c\x0e-\x1f]")
LIST_ROW = "a line that is a list of messages read as one chat"
OUTER_COMMA = "comma after a row"
UNTERMINATED = "Unterminated"
MAX_REFUSED = 100  # rows one after another, before the rest of their line is left
CUT_SIGNS = 16  # so near the end a row may be broken because the rest was not read yet
BAD_BYTES = re.compile("[\udc80-\udcff]")  # bytes that are not UTF-8, as they are decoded here


class _Constant(ValueError):
    pass


def _refuse_constant(name: str) -> None:
    raise _Constant(name)


STRICT = json.JSONDecoder(parse_constant=_refuse_constant)


def is_by_lines(head: bytes) -> bool:
    """Whether a file that begins so has one row to a line; else it is read as one stream.

    So it is if one whole line of the beginning is a row, or no line ends there.
    """
    *whole, rest = head.split(b"\n")
    if not whole:
        return head.lstrip(b"\xef\xbb\xbf\x1e \t\0")[:1] == b"{" and b"\r" not in rest.strip()
    return any(_first_row(line) is not None for line in whole if b"{" in line[:16])


def _first_row(line: bytes) -> Row | None:
    if line[:1] in (b" ", b"\t") or b"\r" in line.rstrip():
        return None
    try:
        found = next(Lenient().rows(line.decode()), None)
    except (ValueError, RecursionError):
        return None
    return found.row if found else None


def json_rows(content: BinaryIO, places: Places) -> Iterator[tuple[int, Row]]:
    """(byte of the line, or number of the row, row) of each row; places are told as they are read.

    Raises SourceFault if the rest of the file cannot be read.
    """
    lenient = Lenient()
    start, end = places.item.start, places.item.end
    if start == 0 and not is_by_lines(streams.head_of(content)):
        yield from _stream_rows(content, places)
        return
    for number, (offset, line) in enumerate(streams.lines(content, start, end), 1):
        if number == 1 and start:
            places.offset_bytes = offset
        places.at(number)
        if line is None:
            places.refuse(streams.too_long())
            continue
        if line.isspace():
            continue
        try:
            row = STRICT.decode(line.decode("utf-8-sig"))
        except UnicodeDecodeError as error:
            places.at(number, error.start + 1).refuse_bytes(line)
            continue
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, list) and row and all(map(is_message, row)):
            row = {"messages": row}
            places.mend(LIST_ROW)
        if isinstance(row, dict):
            yield offset, row
            continue
        if row is not None and not _is_rows(row):
            places.refuse("JSON but not an object", f"it is {_kind(row)}")
            continue
        for count, found in enumerate(lenient.rows(line.decode("utf-8-sig").rstrip())):
            if _told(found, places, number):
                yield offset + count, found.row  # type: ignore[misc]


def _stream_rows(content: BinaryIO, places: Places) -> Iterator[tuple[int, Row]]:
    """All rows of a file that has none in its lines; numbered from 0 on."""
    text = io.TextIOWrapper(content, "utf-8-sig", "surrogateescape", newline="")
    try:
        for number, found in enumerate(Lenient().rows("", text.read)):
            if _told(found, places, None):
                yield number, found.row  # type: ignore[misc]
    finally:
        text.detach()


def _told(found: FoundRow, places: Places, line: int | None) -> bool:
    """Whether a row is there; what was mended or refused is counted."""
    places.at(line or found.line, found.column)
    if found.row is None and BAD_BYTES.search(found.refused):
        places.refuse_bytes(found.refused.encode("utf-8", "surrogateescape"))
    elif found.row is None:
        places.refuse(found.reason, found.hint)
    else:
        for words in dict.fromkeys(found.mended):
            places.mend(words)
    places.column = None
    return found.row is not None


def _is_rows(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(v, dict) for v in value)


def _kind(value: Any) -> str:
    names = {list: "an array", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


# ------------------------------------------------------------------ the second try


@dataclass
class FoundRow:
    """A row, or why there is none; line and column from 1 on, where it begins or is broken."""

    line: int
    column: int
    row: Row | None = None
    mended: tuple[str, ...] = ()
    reason: str = ""
    hint: str = ""
    refused: str = ""  # its text


class _Text:
    """Text of which more is read as it is needed, and lines are counted."""

    def __init__(self, text: str, read: Callable[[int], str] | None) -> None:
        self.text, self.at, self.line, self._line_start = text, 0, 1, 0
        self._read, self.ended = read, read is None

    def grow(self) -> None:
        """Read as much again; what was passed is forgotten."""
        assert self._read is not None
        left = self.text[self.at :]
        block = self._read(max(BLOCK_SIGNS, len(left)))
        self.ended = not block
        self._line_start -= self.at
        self.text, self.at = left + block, 0

    def move(self, to: int) -> None:
        self.line, self._line_start = self.place(to)
        self.at = to

    def place(self, to: int) -> tuple[int, int]:
        """(line, where it begins) of a place after this one; a line may end by CR alone."""
        mark = "\n" if self.text.find("\n", self.at, to) >= 0 else "\r"
        count = self.text.count(mark, self.at, to)
        start = self.text.rfind(mark, self.at, to) + 1 if count else self._line_start
        return self.line + count, start

    def refusal(self, reason: str, end: int, hint: str = "") -> FoundRow:
        """Of what stands from here to end."""
        column = self.at - self._line_start + 1
        return FoundRow(self.line, column, None, (), reason, hint, self.text[self.at : end])

    def indent(self) -> str:
        """What stands between the last line's end and this place, if that is white space."""
        before = self.text[max(0, self._line_start) : self.at]
        return before if before.isspace() else ""


class Lenient:
    """Rows from text as it is found. One reader serves any number of texts."""

    def __init__(self) -> None:
        self._decoder = json.JSONDecoder(
            strict=False, parse_constant=self._constant, parse_int=self._whole
        )
        self._notes: list[str] = []

    def _constant(self, name: str) -> float:
        self._notes.append("NaN or Infinity in JSON")
        return float(name)

    def _whole(self, digits: str) -> int | float:
        if len(digits) <= LONG_NUMBER:
            return int(digits)
        self._notes.append(f"number of more than {LONG_NUMBER:,} digits")
        return float(digits)

    def rows(self, text: str, read: Callable[[int], str] | None = None) -> Iterator[FoundRow]:
        """Every row in a text, and in what `read(signs)` gives after it until that is empty.

        Raises SourceFault if a row is too long to be held.
        """
        source, arrays, refused = _Text(text, read), 0, 0
        while True:
            match = SEPARATORS.match(source.text, source.at)
            assert match is not None
            arrays = max(0, arrays + match[0].count("[") - match[0].count("]"))
            source.move(match.end())
            if source.at == len(source.text):
                if source.ended:
                    return
                source.grow()
                continue
            self._notes = [words for sign, words in BETWEEN.items() if sign in match[0]]
            found, end = self._row(source)
            if found is None:
                source.grow()
                continue
            if found.row is not None and arrays:
                left = (words for words in found.mended if words != OUTER_COMMA)
                found.mended = (*left, "rows in an array")
            elif found.row is not None and read is not None:
                found.mended += (_layout(source, end),)
            yield found
            source.move(max(end, source.at + 1))
            refused = 0 if found.row is not None else refused + 1
            if refused == MAX_REFUSED and (rest := _rest_of_line(source)) is not None:
                yield rest

    def _row(self, source: _Text) -> tuple[FoundRow | None, int]:
        """(what begins here, where it ends); None: more has to be read to know."""
        try:
            row, end = self._decoder.raw_decode(source.text, source.at)
            return self._checked(source, row, end), end
        except (RecursionError, json.JSONDecodeError) as caught:
            error = caught
        end, is_whole = _end_of(source)
        if isinstance(error, json.JSONDecodeError):
            near_end = error.pos >= len(source.text) - CUT_SIGNS
            is_whole &= not near_end and not error.msg.startswith(UNTERMINATED)
        if not source.ended and not is_whole:
            if len(source.text) - source.at < streams.MAX_ROW_BYTES:
                return None, source.at
            raise streams.SourceFault(f"{streams.too_long()}, the rest was not read") from error
        if isinstance(error, RecursionError):
            return source.refusal("JSON nested too deeply", end), end
        return self._mended(source, error, end), end

    def _checked(self, source: _Text, row: Any, end: int) -> FoundRow:
        text = source.text[source.at : end]
        if not isinstance(row, dict):
            return source.refusal("JSON but not an object", end, f"it is {_kind(row)}")
        if BAD_BYTES.search(text):
            return source.refusal("not UTF-8", end)
        if CONTROLS.search(text):
            self._notes.append("control signs in JSON")
        if source.text[end : end + 1] == ",":
            self._notes.append(OUTER_COMMA)
        return replace(source.refusal("", end), row=row, mended=tuple(dict.fromkeys(self._notes)))

    def _mended(self, source: _Text, error: json.JSONDecodeError, end: int) -> FoundRow:
        """A row without the commas and NULs that should not be there, or the refusal of it."""
        text, notes = source.text[source.at : end], []
        for pattern, words in OUT_OF_PLACE:
            without = pattern.sub(lambda match: match[1] or "", text)
            if without != text:
                notes.append(words)
            text = without
        self._notes += notes
        try:
            row = self._decoder.decode(text.strip()) if notes else None
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict):
            return self._checked(source, row, end)
        ends_early = error.pos >= len(source.text.rstrip()) or error.msg.startswith(UNTERMINATED)
        found = source.refusal("JSON ends too early" if ends_early else "not JSON", end)
        found.line, line_start = source.place(min(error.pos, len(source.text)))
        found.column = error.pos - line_start + 1
        return found


def _rest_of_line(source: _Text) -> FoundRow | None:
    """Moves to the end of a line of which nothing is JSON, as each try reads far ahead."""
    ends = LINE_END.search(source.text, source.at)
    if ends is None and not source.ended:
        raise streams.SourceFault("not JSON, the rest was not read")
    end = len(source.text) if ends is None else ends.start()
    found = source.refusal("not JSON, the rest of its line was not read", end)
    is_blank = not source.text[source.at : end].strip()
    source.move(end)
    return None if is_blank else found


def _layout(source: _Text, end: int) -> str:
    """How the rows of a file stand that has none in its lines."""
    row, after = source.text[source.at : end], source.text[end : end + 2]
    if "\n" in row or "\r" in row:
        return "rows over several lines"
    return "rows ended by CR" if after[:1] == "\r" != after[1:] else "several rows in a line"


def _end_of(source: _Text) -> tuple[int, bool]:
    """Where a broken row ends: with its last bracket, but before the next row begins.

    False: neither was found, it ends where the text does.
    """
    begins = re.compile(rf"[\n\r]{re.escape(source.indent())}[\x1e\0]*\{{")
    following = begins.search(source.text, source.at + 1)
    limit = following.start() if following else len(source.text)
    if source.text[source.at] != "{":
        ends = LINE_END.search(source.text, source.at + 1, limit)
        return (ends.start() if ends else limit), ends is not None or following is not None
    depth = 0
    for match in BRACKETS.finditer(source.text, source.at, limit):
        depth += {"{": 1, "[": 1, "}": -1, "]": -1}.get(match[0], 0)
        if depth == 0 and match[0] in "}]":
            return match.end(), True
    return limit, following is not None
