"""Boxes on images as people keep them: COCO's json beside the images.

    {"images": [{"id", "file_name", "width", "height"}], "categories": [{"id", "name"}],
     "annotations": [{"image_id", "category_id", "bbox": [x, y, width, height]}]}

(Lin et al. 2014, arXiv 1405.0312; https://cocodataset.org/#format-data). Any number of such files,
each of a split by its name or its folder's: instances_val2017.json, test/_annotations.coco.json.
"""

from __future__ import annotations

import itertools
import json
import os
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import isfinite
from pathlib import PurePosixPath
from typing import Any

from whorl.core import streams
from whorl.core.errors import DataError
from whorl.core.memory import forgets
from whorl.core.ports import Source
from whorl.core.reasons import Place, Reason, and_refused, shown_path
from whorl.core.sources import PASSED_OVER, REJECTED, FileItem
from whorl.fields.files import EXCLUDED, bare_suffix, file_items
from whorl.fields.image_sources import IMAGE_SUFFIXES, SPLITS, folder_split
from whorl.fields.places import KeptReasons, Places
from whorl.fields.whole import LastSources, key_of

__all__ = [
    "LIST",
    "LOST",
    "MOST_BOXES",
    "BoxLayout",
    "ListedBox",
    "ListedImage",
    "box_layout",
    "known_boxes",
]

LIST, UNLISTED = "list of boxes", "image that no list names"
LOST = "image of whose boxes one is not read"  # its answer would not be whole
LIST_SUFFIX = ".json"
MAX_LIST_BYTES = 2**29  # COCO's own of 2017 has 448,701,811
MOST_BOXES = 20  # on one image: an answer is no longer
MAX_LABEL = 200  # signs
SHOWN_LABELS = 12
HINT = 'expected: {"images": […], "annotations": […], "categories": […]}'

_KNOWN: LastSources[BoxLayout] = LastSources()  # of sources, as they were last found
forgets(_KNOWN.clear)


@dataclass(frozen=True)
class ListedBox:
    """One box in pixels of its image as it is listed."""

    x: float
    y: float
    width: float
    height: float
    label: str
    told: str = ""  # which annotation


@dataclass
class ListedImage:
    """What a list says of an image. size: None: it does not say; split: "": it is not said."""

    list_name: str
    size: tuple[float, float] | None
    split: str
    boxes: list[ListedBox] = field(default_factory=list)
    is_whole: bool = True  # no box of it was refused or passed over


@dataclass
class BoxLayout:
    """items: in the order of names. wanted: name of an image -> what is known of it.

    told: of each list what is wrong with its rows. refused: images -> why.
    """

    items: list[FileItem]
    wanted: dict[str, ListedImage] = field(default_factory=dict)
    told: dict[str, KeptReasons] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)

    @property
    def asked(self) -> str:
        """The split that is held out; "": a share of what is there."""
        said = {known.split for known in self.wanted.values()}
        return next((split for split in ("test", "valid") if {split, "train"} <= said), "")

    @property
    def summary(self) -> str:
        """What the source was taken for."""
        counts = Counter(box.label for known in self.wanted.values() for box in known.boxes)
        shown = [f"{label} ({count:,})" for label, count in sorted(counts.items())]
        more = f" … ({len(shown)} labels)" if len(shown) > SHOWN_LABELS else ""
        return f"boxes by lists of COCO's kind: {', '.join(shown[:SHOWN_LABELS])}{more}"


def box_layout(source: Source) -> BoxLayout:
    """Raises DataError when the source is missing or has no image with boxes."""
    only = None
    place = source
    if os.path.isfile(source.path):  # one list: its images lie beside or below it
        only = os.path.basename(source.path)
        place = replace(source, source=os.path.dirname(source.path), folder=".")
    layout = BoxLayout(list(file_items(place, (*IMAGE_SUFFIXES, LIST_SUFFIX), EXCLUDED)))
    images = [item for item in layout.items if item.is_read and not _is_list(item)]
    finder = _Finder({item.name for item in images})
    for number, item in enumerate(layout.items):
        if not item.is_read or not _is_list(item):
            continue
        if only in (None, item.name):
            layout.items[number] = _read_list(item, layout, finder)
        else:
            layout.items[number] = _passed_over(item, "another list than the source")
    if not layout.wanted:
        reasons = itertools.chain(*layout.told.values(), layout.refused.values())
        raise DataError(
            f"source {source.source} has no image with boxes",
            found=and_refused(f"{len(images)} images, {len(layout.told)} lists", reasons),
            expected="COCO's json of images, annotations and categories beside the images",
        )
    layout.items = [_with_kind(item, layout) for item in layout.items]
    _KNOWN[key_of(source)] = layout
    return layout


def known_boxes(source: Source) -> BoxLayout:
    """As it was last found in this process: lists are not read again for each image."""
    return _KNOWN.get(key_of(source)) or box_layout(source)


def _is_list(item: FileItem) -> bool:
    return bare_suffix(item.name) == LIST_SUFFIX


def _with_kind(item: FileItem, layout: BoxLayout) -> FileItem:
    if not item.is_read or item.kind == LIST or item.name in layout.wanted:
        return item
    if item.name in layout.refused:
        return replace(item, kind=REJECTED, reason=layout.refused[item.name])
    return _passed_over(item, UNLISTED)


def _passed_over(item: FileItem, reason: str, hint: str = "") -> FileItem:
    return replace(item, kind=PASSED_OVER, reason=reason, hint=hint)


def _split_of(name: str) -> str:
    """By the last word of a path that is one."""
    words = re.findall("[a-z]+", name.lower())
    return next((SPLITS[word] for word in reversed(words) if word in SPLITS), "")


@dataclass
class _Finder:
    """Images by what lists call them: beside the list, from the source's folder, or by their names
    alone where only one is called so."""

    names: set[str]
    by_end: dict[str, list[str]] = field(init=False)

    def __post_init__(self) -> None:
        self.by_end = {}
        for name in self.names:
            self.by_end.setdefault(PurePosixPath(name).name, []).append(name)

    def name_of(self, item: FileItem, file: str) -> tuple[str, str]:
        """(the image's name, why there is none)."""
        file = file.replace("\\", "/")
        folder = os.path.dirname(item.name)
        tried = [os.path.normpath(os.path.join(below, file)) for below in (folder, "")]
        if os.path.isabs(file) or "\0" in file or tried[0].startswith(".."):
            return "", "image outside of the source"
        if found := next((name for name in tried if name in self.names), ""):
            return found, ""
        alike = self.by_end.get(PurePosixPath(file).name, [])
        mine = [name for name in alike if folder_split(name) == _split_of(item.name)]
        for some in (alike, mine):
            if len(some) == 1:
                return some[0], ""
        return "", "image that is there several times" if alike else "image that is not there"


# ------------------------------------------------------------------ one list


def _read_list(item: FileItem, layout: BoxLayout, finder: _Finder) -> FileItem:
    """Adds what a list says; gives the item as what it turned out to be. Raises DataError on one
    that is too long."""
    told = KeptReasons()
    places = Places(item, told)
    try:
        with streams.open_source(item.path, item.root, item.num_bytes, item.encoding) as opened:
            data = opened.content.read(MAX_LIST_BYTES + 1)
        if opened.fault:
            raise streams.SourceFault(opened.fault)
        value = json.loads(data) if len(data) <= MAX_LIST_BYTES else None
    except streams.SourceFault as fault:
        places.refuse(*fault.args)
        value = None
    except (ValueError, RecursionError) as error:
        places.refuse("list that is no json", str(error)[:120])
        value = None
    else:
        if len(data) > MAX_LIST_BYTES:
            raise _too_long(item)
    is_list = isinstance(value, dict) and isinstance(value.get("images"), list)
    if value is not None and not is_list:
        return _passed_over(item, "json that lists no boxes", HINT)
    if value is not None:
        names = _labels(value.get("categories"), places)
        images = _images(value["images"], item, layout, finder, places)
        _boxes(value.get("annotations"), names, images, places)
        for name in [name for name in layout.wanted if layout.wanted[name].list_name == item.name]:
            known = layout.wanted[name]
            if not known.is_whole or len(known.boxes) > MOST_BOXES:
                many = f"image of more than {MOST_BOXES} boxes"
                layout.refused[name] = many if known.is_whole else LOST
                del layout.wanted[name]
    layout.told[item.name] = told
    return replace(item, kind=LIST)


def _too_long(item: FileItem) -> DataError:
    return DataError(
        f"{item.name}: list of boxes of more than {MAX_LIST_BYTES // 2**20} MiB",
        do="cut it into several lists, each of some of the images",
    )


def _rows(value: object, what: str, places: Places) -> list[Mapping[str, Any]]:
    """Those that are objects; others are refused."""
    if not isinstance(value, list):
        places.refuse(f"list without {what}", HINT)
        return []
    found = [row for row in value if isinstance(row, Mapping)]
    for _ in range(len(value) - len(found)):
        places.refuse(f"row of {what} that is no object")
    return found


def _labels(value: object, places: Places) -> dict[object, str]:
    names: dict[object, str] = {}
    for row in _rows(value, "categories", places):
        number, name = row.get("id"), row.get("name")
        if not isinstance(number, int | str) or not isinstance(name, str) or not name.strip():
            places.refuse("category without an id and a name", str(dict(row))[:80])
        elif number in names:
            places.refuse("category whose id is another's too", str(number)[:80])
        else:
            names[number] = name.strip()[:MAX_LABEL]
    return names


def _images(
    value: list[Any], item: FileItem, layout: BoxLayout, finder: _Finder, places: Places
) -> dict[object, ListedImage]:
    """By their ids; they are added to the layout."""
    images: dict[object, ListedImage] = {}
    for row in _rows(value, "images", places):
        number, file = row.get("id"), row.get("file_name")
        if not isinstance(number, int | str) or not isinstance(file, str) or not file:
            places.refuse("image without an id and a file_name", str(dict(row))[:80])
            continue
        size = _numbers([row.get("width"), row.get("height")])
        is_said = row.get("width") is not None or row.get("height") is not None
        name, reason = finder.name_of(item, file)
        hint = shown_path(file)[:80]
        if is_said and (size is None or min(size) <= 0):
            places.refuse("image of no usable width and height", hint)
        elif reason:
            places.refuse(reason, hint)
        elif number in images:
            places.refuse("image whose id is another's too", hint)
        elif name in layout.wanted:
            places.refuse("image that is listed already", hint)
        else:
            said = (size[0], size[1]) if size is not None else None
            images[number] = ListedImage(item.name, said, _split_of(item.name))
            layout.wanted[name] = images[number]
    return images


def _boxes(
    value: object,
    names: Mapping[object, str],
    images: Mapping[object, ListedImage],
    places: Places,
) -> None:
    for row in _rows(value, "annotations", places):
        hint = f"annotation {str(row.get('id'))[:40]}"
        image, label = (_known(known, row.get(key)) for known, key in
                        ((images, "image_id"), (names, "category_id")))  # fmt: skip
        sides, many = _numbers(row.get("bbox")), len(image.boxes) if image is not None else 0
        if image is None:
            places.refuse("box of an image that is not read", hint)
        elif label is None:
            places.refuse("box of an unknown category", hint)
        elif row.get("iscrowd") in (1, True):
            places.reject(Reason("box around a crowd", "passed over", Place(places.item.name)))
        elif sides is None or len(sides) != 4 or min(sides[2:]) <= 0:
            places.refuse("box without four numbers: x, y, width, height", hint)
        else:
            x, y, width, height = sides
            image.boxes.append(ListedBox(x, y, width, height, label, hint))
        if image is not None and len(image.boxes) == many:
            image.is_whole = False


def _known(values: Mapping[object, Any], key: object) -> Any:
    return values.get(key) if isinstance(key, int | str) else None


def _numbers(value: object) -> list[float] | None:
    """Finite numbers of a list; None if it is none, or holds others."""
    if not isinstance(value, list):
        return None
    good = all(
        isinstance(each, int | float) and not isinstance(each, bool) and abs(each) < 1e9
        for each in value
    )
    return [float(each) for each in value] if good and all(map(isfinite, value)) else None
