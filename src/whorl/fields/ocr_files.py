"""Images of printed lines with their texts, as people have them.

A `.txt` of the same name beside each image, or tables of path and text (csv, tsv, jsonl, parquet)
anywhere in the source. Splits by the folders' or tables' names, or a column, as of images.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any

from whorl.core.errors import DataError
from whorl.core.memory import forgets
from whorl.core.ports import Source
from whorl.core.reasons import and_refused, shown_path
from whorl.core.sources import PASSED_OVER, FileItem
from whorl.fields.files import EXCLUDED, ROW_FORMATS, bare_suffix, file_items
from whorl.fields.formats import lines_of, rows_of
from whorl.fields.image_sources import (
    IMAGE_SUFFIXES,
    PATH_KEYS,
    SPLIT_KEYS,
    SPLITS,
    folder_split,
    joined_path,
    value_of,
)
from whorl.fields.places import KeptReasons, Places
from whorl.fields.whole import LastSources, key_of

__all__ = [
    "TABLE",
    "TEXT_BESIDE",
    "KnownLine",
    "LineLayout",
    "known_lines",
    "line_layout",
    "text_beside",
]

TABLE, TEXT_BESIDE = "table of lines", "text beside"  # kinds of items beside "file"
TEXT_SUFFIX = ".txt"
TEXT_KEYS = ("text", "transcription", "transcript", "line", "ground_truth", "label", "words")

_KNOWN: LastSources[LineLayout] = LastSources()
forgets(_KNOWN.clear)


@dataclass(frozen=True)
class KnownLine:
    """text: "": it stands in the file beside. split: "": it is not said."""

    text: str
    split: str
    beside: FileItem | None = None


@dataclass
class LineLayout:
    """items: in the order of names. wanted: name of an image -> what is known of it.

    told: of each table what is wrong with its rows.
    """

    items: list[FileItem]
    wanted: dict[str, KnownLine] = field(default_factory=dict)
    told: dict[str, KeptReasons] = field(default_factory=dict)

    @property
    def asked(self) -> str:
        """The split that is held out; "": a share of what is there."""
        said = {known.split for known in self.wanted.values()}
        return next((split for split in ("test", "valid") if {split, "train"} <= said), "")


def line_layout(source: Source) -> LineLayout:
    """Raises DataError when the source is missing or has no image with a text."""
    only, place = None, source
    if os.path.isfile(source.path):  # one table: its images lie beside or below it
        only = os.path.basename(source.path)
        place = replace(source, source=os.path.dirname(source.path), folder=".")
    suffixes = (*IMAGE_SUFFIXES, *ROW_FORMATS, TEXT_SUFFIX)
    layout = LineLayout(list(file_items(place, suffixes, EXCLUDED)))
    images = {item.name: item for item in layout.items if _is(item, IMAGE_SUFFIXES)}
    for number, item in enumerate(layout.items):
        if _is(item, tuple(ROW_FORMATS)) and only in (None, item.name):
            layout.items[number] = _read_table(item, layout, images)
    texts = {item.name: item for item in layout.items if _is(item, (TEXT_SUFFIX,))}
    for name in images if only is None else ():
        beside = texts.get(os.path.splitext(name)[0] + TEXT_SUFFIX)
        if beside is not None and name not in layout.wanted:
            layout.wanted[name] = KnownLine("", folder_split(name), beside)
    if not layout.wanted:
        counts = f"{len(images)} images, {len(texts)} texts, {len(layout.told)} tables"
        raise DataError(
            f"source {source.source} has no image with a text",
            found=and_refused(counts, itertools.chain(*layout.told.values())),
            expected="a .txt of the same name beside each image, or a table of path and text",
        )
    used = {known.beside.name for known in layout.wanted.values() if known.beside is not None}
    layout.items = [_with_kind(item, layout, used) for item in layout.items]
    _KNOWN[key_of(source)] = layout
    return layout


def known_lines(source: Source) -> LineLayout:
    """As it was last found in this process: a folder is not walked again for each image."""
    return _KNOWN.get(key_of(source)) or line_layout(source)


def text_beside(item: FileItem, places: Places) -> str:
    """All that stands in a file of one line, as one. Raises nothing: "" if it cannot be read."""
    return " ".join(" ".join(itertools.islice(lines_of(item, places), 100)).split())


def _is(item: FileItem, suffixes: Sequence[str]) -> bool:
    return item.is_read and item.kind == "file" and bare_suffix(item.name) in suffixes


def _with_kind(item: FileItem, layout: LineLayout, used: set[str]) -> FileItem:
    if not item.is_read or item.kind == TABLE or item.name in layout.wanted:
        return item
    if item.name in used:
        return replace(item, kind=TEXT_BESIDE)
    is_image = bare_suffix(item.name) in IMAGE_SUFFIXES
    reason = "image without a text" if is_image else "file that is the text of no image"
    return replace(item, kind=PASSED_OVER, reason=reason)


def _table_split(name: str) -> str:
    """By the table's own name, else by its folders: train.tsv, test/lines.csv."""
    words = re.findall("t10k|[a-z]+", PurePosixPath(name).name.lower().partition(".")[0])
    return next((SPLITS[word] for word in words if word in SPLITS), folder_split(name))


def _rows(item: FileItem, places: Places) -> Iterator[Mapping[str, Any]]:
    """Of a tsv also without names of columns, where the first one is an image."""
    item = replace(item, kind=ROW_FORMATS[bare_suffix(item.name)])
    first = next(lines_of(item, lambda reason: None), "") if item.kind == "tsv" else ""
    if not first.partition("\t")[0].lower().endswith(IMAGE_SUFFIXES):
        yield from (row for _, row in rows_of(item, (), places))
        return
    for line in lines_of(item, places):
        path, _, text = line.partition("\t")
        yield {"path": path, "text": text}


def _read_table(item: FileItem, layout: LineLayout, images: dict[str, FileItem]) -> FileItem:
    told = KeptReasons()
    places = Places(item, told)
    folder = PurePosixPath(item.name).parent
    is_table = False
    for row in _rows(item, places):
        path, text = (value_of(row, keys) for keys in (PATH_KEYS, TEXT_KEYS))
        said = value_of(row, SPLIT_KEYS) or ""
        name = joined_path(folder, path, item.root) if path else None
        if path is None or text is None:
            places.refuse(
                "row without a path and a text", f"it has {', '.join(map(str, row))}"[:120]
            )
            continue
        is_table = True
        if name is None:
            places.refuse("row whose path leads out of the source")
        elif name not in images:
            places.refuse("row whose image is not there", shown_path(path)[:80])
        elif name in layout.wanted:
            places.refuse("row of an image that has a text already", shown_path(name)[:80])
        elif said and said.lower() not in SPLITS:
            places.refuse("row of an unknown split", f"expected: {', '.join(SPLITS)}")
        else:
            split = SPLITS.get(said.lower(), "") or _table_split(item.name)
            layout.wanted[name] = KnownLine(" ".join(text.split()), split)
    if not is_table:
        return replace(item, kind=PASSED_OVER, reason="table that names no image")
    layout.told[item.name] = told
    return replace(item, kind=TABLE)
