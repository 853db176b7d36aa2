"""Why a part of the data was not read, or not as it was written, and where that was first met.

A field calls `reject(reason)` with any text. Our readers give a `Reason`, which is a text that
also knows its kind and its place: a Counter of reasons keeps the first one of equal words, and so
the first example, however the counts of several processes are added up.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from whorl.core.errors import DataError, listed
from whorl.core.ports import Document, Field, Source

__all__ = [
    "REPETITION",
    "Kind",
    "Place",
    "Reason",
    "and_refused",
    "documents_of",
    "kind_of",
    "table_rows",
    "unreadable",
]

# refused: a row or file is not read; mended: it is read, but was not written as it should be;
# passed over: a file that was never meant to be read; read: no fault, but what it was taken for.
Kind = Literal["refused", "mended", "passed over", "read"]
DROPPED = "dropped"  # of a reason without a place: what cleaning and others' fields refuse
ORDER = ("read", "refused", DROPPED, "mended", "passed over")
MAX_COUNTED_BYTES = 2**30  # of a file that are read again to find the number of a line
BLOCK_BYTES = 2**20
CHECK = "check the source, its field, text_key and encoding"
REPETITION = "repetition"  # of a text: what cleaning calls it
REPEATED = "give other text, or raise prepare.max_repetition_ratio and max_repeated_windows"
NUM_SHOWN = 3  # commonest reasons in an error


@dataclass(frozen=True)
class Place:
    """Where in a source: a file's name, and perhaps a line and a column, from 1 on.

    offset_bytes: where line 1 begins in the plain file `path`; "": in the file as it is read.
    """

    name: str
    line: int | None = None
    column: int | None = None
    path: str = ""
    offset_bytes: int = 0

    def __str__(self) -> str:
        line = self._line_of_file()
        if self.line is None:
            return self.name
        if line is None:
            return f"{self.name}, line {self.line} after byte {self.offset_bytes:,}"
        column = "" if self.column is None else f", column {self.column}"
        return f"{self.name}, line {line}{column}"

    def _line_of_file(self) -> int | None:
        """None: not known, or too dear to find out."""
        if self.line is None or not self.offset_bytes:
            return self.line
        if not self.path or self.offset_bytes > MAX_COUNTED_BYTES:
            return None
        num_lines, left_bytes = 0, self.offset_bytes
        try:
            with open(self.path, "rb") as file:
                while left_bytes and (block := file.read(min(BLOCK_BYTES, left_bytes))):
                    num_lines += block.count(b"\n")
                    left_bytes -= len(block)
        except OSError:
            return None
        return self.line + num_lines


class Reason(str):
    """The words of a reason, equal to all others of the same words."""

    kind: Kind
    place: Place | None
    hint: str  # what would help, or what was found instead

    def __new__(
        cls, words: str, kind: Kind = "refused", place: Place | None = None, hint: str = ""
    ) -> Reason:
        self = super().__new__(cls, words)
        self.kind, self.place, self.hint = kind, place, hint
        return self


def kind_of(reason: str) -> Kind:
    """A reason of a field that gives plain text is a refusal."""
    return reason.kind if isinstance(reason, Reason) else "refused"


def table_rows(reasons: Mapping[str, int]) -> list[dict[str, Any]]:
    """One plain row per reason, by kind and then the commonest first: what a table shows."""
    rows = []
    for reason, count in reasons.items():
        if isinstance(reason, Reason):
            example = "" if reason.place is None else str(reason.place)
            facts = {"what": reason.kind, "example": example, "hint": reason.hint}
        else:
            facts = {"what": DROPPED, "example": "", "hint": ""}
        rows.append({**facts, "count": count, "reason": str(reason)})
    return sorted(rows, key=lambda row: (ORDER.index(row["what"]), -row["count"], row["reason"]))


def unreadable(reasons: Iterable[Counter[str]]) -> tuple[str, str]:
    """(found, do) of an error: the commonest reasons why nothing was read, and what would help."""
    rows = table_rows(sum(reasons, Counter[str]()))
    rows = _refused(rows) or rows
    hints = dict.fromkeys(row["hint"] for row in rows[:NUM_SHOWN] if row["hint"])
    usual = REPEATED if rows and rows[0]["reason"] == REPETITION else CHECK
    do = "; ".join(hints) or usual
    return _commonest(rows) or "no document at all", do


def and_refused(found: object, reasons: Iterable[str]) -> object:
    """The same, and of what was refused the commonest reasons with their first places and hints."""
    rows = _refused(table_rows(Counter(reasons)))
    if not rows:
        return found
    told = f"refused: {_commonest(rows, has_hints=True)}"
    return told if found is None else f"{listed(found)}; {told}"


def documents_of(
    field: Field, source: Source, item: Any, reject: Callable[[str], None]
) -> Iterator[Document]:
    """What a field reads of an item. A DataError also says what was refused before it."""
    told = Counter[str]()

    def noted(reason: str) -> None:
        told[reason] += 1
        reject(reason)

    try:
        yield from field.read(source, item, noted)
    except DataError as error:
        found = and_refused(error.found, told)
        raise DataError(error.what, found=found, expected=error.expected, do=error.do) from error


def _refused(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in rows if row["what"] in ("refused", DROPPED)]


def _commonest(rows: list[dict[str, Any]], has_hints: bool = False) -> str:
    shown = []
    for row in rows[:NUM_SHOWN]:
        hint = row["hint"] if has_hints else ""
        first = ": ".join(filter(None, (row["example"], hint)))
        shown.append(f"{row['count']:,} x {row['reason']}{first and f' (first: {first})'}")
    left = f", and {len(rows) - NUM_SHOWN} reasons more" if len(rows) > NUM_SHOWN else ""
    return ", ".join(shown) + left


def shown_path(path: str) -> str:
    """A path as text, whatever its bytes are."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
