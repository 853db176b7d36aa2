"""Images with their classes as people keep them.

A folder for each class, perhaps below train, val and test; tables of path and label; files of the
MNIST kind (`whorl.fields.image_idx`). What is found is a function of names and tables alone: images
are opened when they are read.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any

from whorl.core.errors import DataError
from whorl.core.memory import forgets
from whorl.core.ports import Source
from whorl.core.sources import PASSED_OVER, REJECTED, FileItem
from whorl.fields.files import EXCLUDED, ROW_FORMATS, bare_suffix, file_items
from whorl.fields.formats import rows_of
from whorl.fields.image_idx import labels_beside
from whorl.fields.places import Places, Reject
from whorl.fields.whole import LastSources, key_of

__all__ = [
    "IMAGES",
    "IMAGE_SUFFIXES",
    "LABELS",
    "PATH_KEYS",
    "SPLITS",
    "SPLIT_KEYS",
    "SUFFIXES",
    "TABLE",
    "ImageLayout",
    "KnownImage",
    "folder_split",
    "joined_path",
    "known_layout",
    "layout_of",
    "tell_refused_rows",
    "value_of",
]

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".gif")
IDX_SUFFIXES = ("", ".idx3-ubyte", ".idx1-ubyte")  # "": train-images-idx3-ubyte
TABLE_SUFFIXES = tuple(ROW_FORMATS)
SUFFIXES = (*IMAGE_SUFFIXES, *TABLE_SUFFIXES, *IDX_SUFFIXES)
FOLDERS, TABLES, IDX = "folders", "tables", "idx"
IMAGES, LABELS, TABLE = "idx images", "idx labels", "table"  # kinds of items beside "file"
PATH_KEYS = ("path", "file", "image", "filename", "file_name", "filepath", "image_path", "img")
LABEL_KEYS = ("label", "class", "category", "target", "y", "label_name", "class_name")
SPLIT_KEYS = ("split", "set", "subset")
SPLITS = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("test", "testing", "t10k", "tst"), "test"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "eval"), "valid"),
}
UNNAMED = "image that no table names"
MAX_LABEL = 200  # signs
SHOWN_CLASSES = 12

_KNOWN: LastSources[ImageLayout] = LastSources()  # of sources, as they were last found
forgets(_KNOWN.clear)


@dataclass(frozen=True)
class KnownImage:
    """What is known of an image before it is read. split: "": it is not said."""

    label: str
    split: str = ""


@dataclass
class ImageLayout:
    """items: in the order of names. wanted: name of an image, or a file of them -> what is known.

    labels: of a file of images of the MNIST kind, that of its labels.
    """

    items: list[FileItem]
    kind: str  # FOLDERS, TABLES or IDX
    wanted: dict[str, KnownImage] = field(default_factory=dict)
    labels: Mapping[str, FileItem] = field(default_factory=dict)

    @property
    def splits(self) -> set[str]:
        """Those that are said."""
        return {wanted.split for wanted in self.wanted.values()} - {""}

    @property
    def asked(self) -> str:
        """The split that is held out; "": a share of what is there."""
        return next((split for split in ("test", "valid") if split in self.splits), "")

    @property
    def told(self) -> str:
        """What the source was taken for."""
        if self.kind == IDX:
            return f"files of images and labels: {', '.join(self.wanted)}"
        counts = Counter(wanted.label for wanted in self.wanted.values())
        shown = [f"{label} ({count:,})" for label, count in sorted(counts.items())]
        more = f" … ({len(shown)} classes)" if len(shown) > SHOWN_CLASSES else ""
        return f"classes by {self.kind}: {', '.join(shown[:SHOWN_CLASSES])}{more}"


def layout_of(source: Source) -> ImageLayout:
    """Raises DataError when the source is missing or holds nothing of these kinds."""
    if os.path.isfile(source.path) and bare_suffix(source.path) in TABLE_SUFFIXES:
        folder = os.path.dirname(source.path)
        beside = file_items(replace(source, source=folder), IMAGE_SUFFIXES, EXCLUDED)
        items = [*file_items(source, SUFFIXES, EXCLUDED), *beside]
    else:
        items = file_items(source, SUFFIXES, EXCLUDED)
    found = _KNOWN[key_of(source)] = _layout(tuple(items))
    return found


def known_layout(source: Source) -> ImageLayout:
    """As it was last found in this process: a folder is not walked again for each of its images."""
    return _KNOWN.get(key_of(source)) or layout_of(source)


def _layout(items: tuple[FileItem, ...]) -> ImageLayout:
    pairs = {item.name: labels for item in items if (labels := labels_beside(item, items))}
    if pairs:
        return _idx_layout(items, pairs)
    images = [item for item in items if item.is_read and _is_image(item)]
    tables = [item for item in items if item.is_read and bare_suffix(item.name) in TABLE_SUFFIXES]
    named = ImageLayout([*items], TABLES)
    for item in tables:
        _read_table(item, named, lambda reason: None)
    if named.wanted:
        return _with_kinds(named)
    found = ImageLayout([*items], FOLDERS)
    _by_folders(images, found)
    return _with_kinds(found)


def _is_image(item: FileItem) -> bool:
    return bare_suffix(item.name) in IMAGE_SUFFIXES


def _with_kinds(layout: ImageLayout) -> ImageLayout:
    """Each item with what it is. What names no image, or is named by none, is passed over."""
    for place, item in enumerate(layout.items):
        if not item.is_read or item.name in layout.wanted:
            continue
        if bare_suffix(item.name) in TABLE_SUFFIXES and layout.kind == TABLES:
            layout.items[place] = replace(item, kind=TABLE)
        elif not _is_image(item):
            hint = "expected: images, or tables with columns path and label"
            layout.items[place] = _as(PASSED_OVER, item, "file that names no image", hint)
        elif layout.kind == TABLES:
            layout.items[place] = _as(PASSED_OVER, item, UNNAMED)
        else:
            hint = "expected: a folder for each class, perhaps below train and test"
            layout.items[place] = _as(REJECTED, item, "image outside the folders of classes", hint)
    return layout


def _as(kind: str, item: FileItem, reason: str, hint: str = "") -> FileItem:
    return replace(item, kind=kind, reason=reason, hint=hint)


# ------------------------------------------------------------------ folders


def _by_folders(images: list[FileItem], layout: ImageLayout) -> None:
    """The first folder is the class, or the split where all first folders are splits.

    Raises DataError where train and another split stand beside folders that are none.
    """
    paths = {item.name: PurePosixPath(item.name).parts for item in images}
    tops = {parts[0].lower() for parts in paths.values() if len(parts) > 1}
    has_splits = bool(tops) and tops <= SPLITS.keys() and "train" in map(SPLITS.get, tops)
    said = {SPLITS[parts[0].lower()] for parts in paths.values()
            if len(parts) > 2 and parts[0].lower() in SPLITS}  # fmt: skip
    if not has_splits and len(said) > 1 and "train" in said:
        raise DataError(
            "folders of splits stand beside others",
            found=", ".join(sorted(tops)[:SHOWN_CLASSES]),
            expected="train, test and val alone, or a folder for each class",
            do="take the others out of the source",
        )
    for name, parts in paths.items():
        if has_splits and len(parts) > 2:
            layout.wanted[name] = KnownImage(parts[1], SPLITS[parts[0].lower()])
        elif not has_splits and len(parts) > 1:
            layout.wanted[name] = KnownImage(parts[0])


# ------------------------------------------------------------------ tables


def _read_table(item: FileItem, layout: ImageLayout, reject: Reject) -> None:
    """Add what its rows say of images, by names relative to the source."""
    places = Places.of(item, reject)
    kind = ROW_FORMATS[bare_suffix(item.name)]
    images = [each for each in layout.items if _is_image(each)]
    known = {each.name for each in images if each.is_read or each.reason == UNNAMED}
    folder = PurePosixPath(item.name).parent
    for _, row in rows_of(replace(item, kind=kind), (), places):
        path, label = (value_of(row, keys) for keys in (PATH_KEYS, LABEL_KEYS))
        split = value_of(row, SPLIT_KEYS) or ""
        if path is None or label is None:
            has = ", ".join(map(str, row))[:120]
            places.refuse("row without a path and a label", f"it has {has}")
        elif (name := joined_path(folder, path, item.root)) is None:
            places.refuse("row whose path leads out of the source")
        elif name not in known:
            places.refuse("row whose image is not there")
        elif name in layout.wanted:
            places.refuse("row of an image that has one already")
        elif split and split.lower() not in SPLITS:
            places.refuse("row of an unknown split", f"expected: {', '.join(SPLITS)}")
        else:
            layout.wanted[name] = KnownImage(label[:MAX_LABEL], SPLITS.get(split.lower(), ""))


def tell_refused_rows(table: FileItem, layout: ImageLayout, reject: Reject) -> None:
    """The rows of a table that name no image, told with their lines."""
    again = ImageLayout(layout.items, layout.kind)
    for item in layout.items:
        if item.kind == TABLE:
            _read_table(item, again, reject if item.name == table.name else lambda reason: None)
        if item.name == table.name:
            return


def value_of(row: Mapping[str, Any], keys: tuple[str, ...]) -> str | None:
    """The first of these columns, whatever its case, as text."""
    by_name = {str(key).strip().lower(): value for key, value in row.items()}
    for key in keys:
        value = by_name.get(key)
        if isinstance(value, bool | int | str) and str(value).strip():
            return str(value).strip()
    return None


def folder_split(name: str) -> str:
    """By the nearest folder of a file in whose name a word says it; "": none does."""
    words = re.findall("t10k|[a-z]+", os.path.dirname(name).lower())
    return next((SPLITS[word] for word in reversed(words) if word in SPLITS), "")


def joined_path(folder: PurePosixPath, path: str, root: str) -> str | None:
    """A path of a table as a name of the source; None: it leads out."""
    if os.path.isabs(path):
        path = os.path.relpath(path, root)
        folder = PurePosixPath()
    name = os.path.normpath(os.path.join(str(folder), path.replace("\\", "/")))
    return None if name.startswith("..") or "\0" in name else name


# ------------------------------------------------------------------ files of the MNIST kind


def _idx_layout(items: tuple[FileItem, ...], pairs: Mapping[str, FileItem]) -> ImageLayout:
    labels = {item.name for item in pairs.values()}
    layout = ImageLayout([], IDX, labels=pairs)
    for item in items:
        if item.name in pairs:
            first = PurePosixPath(item.name).name.lower().split("-")[0]
            layout.wanted[item.name] = KnownImage("", SPLITS.get(first, "train"))
            layout.items.append(replace(item, kind=IMAGES))
        elif item.name in labels:
            layout.items.append(replace(item, kind=LABELS))
        elif item.is_read:
            layout.items.append(_as(PASSED_OVER, item, "file beside those of images and labels"))
        else:
            layout.items.append(item)
    return layout
