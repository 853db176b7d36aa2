"""Sources whose files are read together: a graph, everybody's ratings, a table with its types.

They are one work item, known by the digests of its files; what is passed over or refused among
them has items of its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from whorl.core.digests import digest_file, digest_value
from whorl.core.errors import SpecError
from whorl.core.ports import Source
from whorl.core.sources import CANNOT_READ, DatasetItem, FileItem
from whorl.fields.files import EXCLUDED, file_items
from whorl.fields.places import Places, Reject

__all__ = ["files_of", "number_of", "share_of", "share_option", "told_unread", "whole_items"]


def whole_items(source: Source, suffixes: Sequence[str]) -> list[DatasetItem | FileItem]:
    """One item of all files that are read, then those that are not.

    Raises DataError when the source is missing, empty or holds no file of these suffixes.
    """
    items = file_items(source, suffixes, EXCLUDED)
    content = [[item.name, _digest(item)] for item in items if item.is_read]
    whole = DatasetItem(0, digest_value(content))
    return [whole, *(item for item in items if not item.is_read)]


def files_of(source: Source, suffixes: Sequence[str]) -> list[FileItem]:
    """The files of that one item, in their order."""
    return [item for item in file_items(source, suffixes, EXCLUDED) if item.is_read]


def told_unread(item: DatasetItem | FileItem, reject: Reject) -> bool:
    """Whether this is an item that is not read, which is told."""
    if isinstance(item, DatasetItem):
        return False
    Places.of(item, reject).refuse_item()
    return True


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


def share_option(options: Mapping[str, str], key: str) -> float:
    """An option that is a share between 0 and 1. Raises SpecError if it is none."""
    try:
        value = float(options[key])
    except ValueError:
        value = -1.0
    if not 0 < value < 1:
        expected = "between 0 and 1, such as 0.1"
        raise SpecError(f"data.options.{key} is no share", found=options[key], expected=expected)
    return value


def _digest(item: FileItem) -> str:
    try:
        return digest_file(Path(item.path))
    except OSError:
        return CANNOT_READ
