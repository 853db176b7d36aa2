"""Sources whose files are read together: a graph, everybody's ratings, a table with its types.

Their files are items as they are of other fields, and all of them are read with the first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from whorl.core.errors import DataError, SpecError
from whorl.core.ports import Source
from whorl.core.sources import FileItem
from whorl.fields.files import EXCLUDED, file_items
from whorl.fields.places import Places, Reject

__all__ = [
    "LastSources",
    "begins",
    "check_sides",
    "copies_of",
    "files_of",
    "is_test",
    "key_of",
    "number_of",
    "share_of",
    "share_option",
    "tell_copies",
    "whole_items",
]

FIRST = "first"  # kind of the item with which all are read
MOST_SOURCES = 4  # of which it is remembered what was found
Found = TypeVar("Found")


class LastSources(dict[tuple[Any, ...], Found]):
    """What was last found of a few sources in this process, by `key_of`: no folder is walked again
    for each of its items. All are forgotten where one more would be too many, and with
    `forgets(its.clear)` beside it when a training begins.
    """

    def __setitem__(self, key: tuple[Any, ...], found: Found) -> None:
        if len(self) >= MOST_SOURCES:
            self.clear()
        super().__setitem__(key, found)


def whole_items(
    source: Source, suffixes: Sequence[str], exclude: Sequence[str] = EXCLUDED
) -> list[FileItem]:
    """The first that is read is marked: with it all are.

    Raises DataError when the source is missing, empty or holds no file of these suffixes.
    """
    items = file_items(source, suffixes, exclude)
    first = next((place for place, item in enumerate(items) if item.is_read), None)
    if first is not None:
        items[first] = replace(items[first], kind=FIRST)
    return items


def files_of(
    source: Source, suffixes: Sequence[str], exclude: Sequence[str] = EXCLUDED
) -> list[FileItem]:
    """Those that are read, in their order."""
    return [item for item in file_items(source, suffixes, exclude) if item.is_read]


def key_of(source: Source) -> tuple[Any, ...]:
    """Of all that says which files a source has."""
    return source.path, source.pattern, source.apart, source.encoding, source.release is None


def begins(item: FileItem, reject: Reject) -> bool:
    """Whether this is the first item, with which all are read; why one is not read is told."""
    if not item.is_read:
        Places.of(item, reject).refuse_item()
        return False
    return item.kind == FIRST


def is_test(item: FileItem) -> bool:
    """Whether its name says that it is held out: test.tsv, folder/test-2.pgn."""
    return item.name.rpartition("/")[2].lower().startswith("test")


def check_sides(source: Source, things: str, num_learned: int, num_asked: int) -> None:
    """Raises DataError if a source, by its own files or by shares, leaves one side without any."""
    if not num_learned or not num_asked:
        some = f"give more {things}; a file named test… says what is held out"
        none = "mend what is refused; or it is another field's, or its options name what is there"
        raise DataError(
            f"source {source.source} leaves nothing to learn or to ask",
            found=f"{num_learned:,} {things} to learn, {num_asked:,} to ask",
            expected="some of each",
            do=some if num_learned or num_asked else none,
        )


def share_of(*words: object) -> float:
    """A number in [0, 1) that depends on these words alone: what is held out, and in what order."""
    text = "\0".join(map(str, words)).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") / 2.0**64


def number_of(options: Mapping[str, str], key: str, least: int = 0) -> int:
    """An option that is a whole number. Raises SpecError if it is none, or too small."""
    text = options[key].strip()
    if not text.isdecimal() or int(text) < least:
        expected = f"a whole number, at least {least}"
        raise SpecError(f"data.options.{key} is no such number", found=text, expected=expected)
    return int(text)


def copies_of(options: Mapping[str, str], count: int, wanted: int, most: int) -> int:
    """The option copies; auto: as many of `count` things as give `wanted` of them, at most `most`.

    Raises SpecError if it is neither.
    """
    if options["copies"].strip().lower() == "auto":
        return min(most, max(1, wanted // max(1, count)))
    return number_of(options, "copies", 1)


def tell_copies(places: Places, num: int, things: str, copies: int) -> None:
    """Why there are more documents than there are things, and equal ones among them."""
    if copies > 1:
        words = f"{num:,} {things}, those to learn from {copies} times"
        places.tell(f"{words} (option copies; equal ones are dropped)")


def share_option(options: Mapping[str, str], key: str, with_ends: bool = False) -> float:
    """An option that is a share between 0 and 1. Raises SpecError if it is none."""
    try:
        value = float(options[key])
    except ValueError:
        value = -1.0
    if not (0 < value < 1 or (with_ends and value in (0, 1))):
        expected = f"{'0, 1 or ' if with_ends else ''}between 0 and 1, such as 0.1"
        raise SpecError(f"data.options.{key} is no share", found=options[key], expected=expected)
    return value
