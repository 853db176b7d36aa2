"""Words with tags as people have them: CoNLL, CoNLL-U, and word/tag as the Brown corpus has it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from whorl.core.errors import SpecError
from whorl.core.sources import FileItem
from whorl.fields.formats import lines_of
from whorl.fields.places import Places

__all__ = ["EXCLUDED", "SUFFIXES", "Sentence", "sentences_of"]

EXCLUDED = (".*", "README*", "CONTENTS*", "LICENSE*", "*.json")
SUFFIXES = (".conllu", ".conll", ".iob", ".bio", ".pos", ".tagged", ".txt", ".tsv")
UNIVERSAL = {"form": 1, "lemma": 2, "upos": 3, "xpos": 4}  # columns of CoNLL-U, from 0 on
NUM_UNIVERSAL = 10
RANGE = re.compile(r"\d+[-.]\d+")  # a word of several, or one that is not written
BOUNDARY = "-DOCSTART-"
MAX_WORD = 100


@dataclass(frozen=True)
class Sentence:
    name: str
    words: tuple[str, ...]
    tags: tuple[str, ...]


def sentences_of(item: FileItem, options: Mapping[str, str], places: Places) -> Iterator[Sentence]:
    """The sentences of a file: one a line where words have tags behind a /, else by columns."""
    rows: list[tuple[str, str]] = []
    last, number, width = 0, 0, _width(item)
    for line in lines_of(item, places):
        at = places.line or 0
        if not line.strip():
            continue  # as an empty one
        if "/" in line and all("/" in word for word in line.split()):
            apart = (word.rpartition("/") for word in line.split())
            found = [_checked(word, tag, options["cut"], places) for word, _, tag in apart]
            yield from _sentence(f"{item.name}@{at}", [pair for pair in found if pair])
            continue
        if at != last + 1 or _begins(line):  # an empty line was passed over
            yield from _sentence(f"{item.name}@{number}", rows)
            rows, number = [], at
        last = at
        pair = _row(line, width, options, places)
        if pair is not None:
            rows.append(pair)
    yield from _sentence(f"{item.name}@{number}", rows)


def _sentence(name: str, rows: list[tuple[str, str]]) -> Iterator[Sentence]:
    if rows:
        words, tags = zip(*rows, strict=True)
        yield Sentence(name, words, tags)


def _begins(line: str) -> bool:
    return line.startswith(BOUNDARY)


def _columns(line: str) -> list[str]:
    return line.split("\t") if "\t" in line else line.split()


def _width(item: FileItem) -> int:
    """Columns of the first row that is no comment for sure: a word may begin with # too."""
    lines = lines_of(item, lambda reason: None)
    plain = (line for line in lines if line.strip() and not line.startswith(("#", BOUNDARY)))
    return len(_columns(next(plain, "")))


def _row(
    line: str, width: int, options: Mapping[str, str], places: Places
) -> tuple[str, str] | None:
    """(word, tag) of a line of columns; None: a comment, or refused."""
    columns, is_wide = _columns(line), width == NUM_UNIVERSAL
    if _begins(line) or (is_wide and RANGE.fullmatch(columns[0])):
        return None
    if line.startswith("#") and (len(columns) != width or columns[2:3] == ["="]):
        return None
    is_universal = len(columns) == NUM_UNIVERSAL and columns[0].isdecimal()
    word = UNIVERSAL["form"] if is_universal else 0
    tag = _column(options["column"], is_universal)
    if len(columns) < 2 or not -len(columns) <= tag < len(columns):
        places.refuse("line without a tag", f"it has {len(columns)} columns")
        return None
    return _checked(columns[word], columns[tag], options["cut"], places)


def _column(column: str, is_universal: bool) -> int:
    """Where the tag stands, from 0 on. Raises SpecError if the option says no column."""
    text = column.strip().lower()
    if not text:
        return UNIVERSAL["upos"] if is_universal else -1
    if text in UNIVERSAL:
        return UNIVERSAL[text]
    if text.isdecimal() and int(text):
        return int(text) - 1
    expected = f"{', '.join(UNIVERSAL)}, or a number from 1 on"
    raise SpecError("data.options.column is no column", found=column, expected=expected)


def _checked(word: str, tag: str, cut: str, places: Places) -> tuple[str, str] | None:
    word, tag = word.strip(), tag.strip()
    tag = tag[:1] + next((tag[1:at] for at, c in enumerate(tag) if at and c in cut), tag[1:])
    if not word or not tag or tag == "_":
        places.refuse("word without a tag" if word else "tag without a word")
    elif len(word) > MAX_WORD or not (word + tag).isprintable() or len(tag) > MAX_WORD:
        places.refuse(f"word or tag of control signs, or of more than {MAX_WORD}")
    else:
        return word, tag
    return None
