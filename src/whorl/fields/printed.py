"""Lines of text drawn in fonts: the data of the field `ocr` where there are no scans.

Of a file's texts (a key of its rows, or its lines) and some fonts. A share of the lines and some of
the fonts are held out. What is drawn depends on the seed, the texts, the fonts and Pillow alone.
"""

from __future__ import annotations

import fnmatch
import functools
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whorl.core.errors import DataError
from whorl.core.memory import forgets
from whorl.core.ports import Source, Split
from whorl.core.sources import REJECTED, DatasetItem, FileItem
from whorl.fields.files import EXCLUDED, ROW_FORMATS, file_items, text_items
from whorl.fields.formats import lines_of, rows_of
from whorl.fields.places import Places
from whorl.fields.whole import number_of, share_of, share_option

__all__ = [
    "FONT",
    "LEAST",
    "NEW_FONT",
    "DrawnLine",
    "Printed",
    "drawn_again",
    "known_fonts",
    "line_key",
    "tell_lines",
]

LOGIC_VERSION = 1
FONT, FONTS = "font", "fonts/"  # kind of an item; how its name begins
FONT_SUFFIXES = (".ttf", ".otf")
BATCH = 500  # lines of one item
LEAST, MARGIN_PX = 4, 24  # signs of a line; background round it
SIZES_PX, BLUR_PX, NOISE = (18, 34), (0.0, 1.1), 14.0  # of letters; of the finished image
DARK, LIGHT, NEGATIVE = (0, 110), (170, 256), 0.1  # levels of print and paper; share turned round
NEW_FONT = "new font "  # how the names of lines in held-out fonts begin
PRINTABLE = range(32, 127)

_LINES: dict[Any, tuple[str, ...]] = {}  # of the last source
forgets(_LINES.clear)

Grey = NDArray[np.uint8]


@dataclass(frozen=True)
class DrawnLine:
    """One image of a line."""

    name: str
    image: Grey
    text: str
    split: Split


@dataclass(frozen=True)
class Printed:
    """The lines of a source and the fonts that its options name."""

    source: Source
    options: Mapping[str, str]

    @property
    def fonts(self) -> list[FileItem]:
        """Those that can be read of all sources that the option names, by what lines call them.

        Raises DataError if there is none.
        """
        return [item for item in self._listed_fonts() if item.is_read]

    def _listed_fonts(self) -> list[FileItem]:
        """Fonts, and what is none. Of files of one name each is called by its path."""
        found = [
            (number, item)
            for number, other in enumerate(self.source.others.get("fonts", ()))
            for item in file_items(other, FONT_SUFFIXES, EXCLUDED)
        ]
        counts = Counter(os.path.basename(item.name) for _, item in found)
        named = []
        for number, item in found:
            name = os.path.basename(item.name)
            name = name if counts[name] == 1 else f"{number}/{item.name}"
            named.append(_opened_font(replace(item, name=f"{FONTS}{name}")))
        if not any(item.is_read for item in named):
            told = ", ".join(f"{_label(item)}: {item.reason}" for item in named[:3])
            words = f"options.fonts of {self.source.source} names no font"
            raise DataError(words, found=told or "nothing", expected="whole files of .ttf or .otf")
        return sorted(named, key=lambda item: item.name)

    def fonts_of(self, is_new: bool) -> list[FileItem]:
        """Those that are held out, or the others. Raises DataError where one side has none."""
        patterns = self.options["heldout_fonts"].split()
        sides: dict[bool, list[FileItem]] = {False: [], True: []}
        for item in self.fonts:
            name = os.path.basename(item.name)
            sides[any(fnmatch.fnmatch(name, pattern) for pattern in patterns)].append(item)
        if not sides[False] or (patterns and not sides[True]):
            raise DataError(
                "options.heldout_fonts leaves one side without fonts",
                found=f"{len(sides[False])} to learn from, {len(sides[True])} held out",
            )
        return sides[is_new]

    def items(self) -> list[Any]:
        """Fonts, files of lines, and parts of what is drawn, held-out ones first."""
        versions = f"Pillow {metadata.version('pillow')}"
        counts = [-(-count // BATCH) for _, _, count in self._kinds()]
        drawn = f"drawn lines {LOGIC_VERSION}, {versions}"
        parts = [DatasetItem(number, f"{drawn}, part {number}") for number in range(sum(counts))]
        return [*self._listed_fonts(), *text_items(self.source), *parts]

    def drawn(self, number: int) -> Iterator[DrawnLine]:
        """Part `number` of all."""
        for split, is_new, count in self._kinds():
            parts = -(-count // BATCH)
            if number < parts:
                fonts, lines = self.fonts_of(is_new), self.lines(split)
                for at in range(number * BATCH, min(count, (number + 1) * BATCH)):
                    yield self._one(split, is_new, fonts, lines, at)
                return
            number -= parts

    def _kinds(self) -> list[tuple[Split, bool, int]]:
        """(split, whether in held-out fonts, how many) of the parts, in their order."""
        held = number_of(self.options, "heldout_lines", 1)
        new = held if self.options["heldout_fonts"].split() else 0
        return [
            ("heldout", False, held),
            ("heldout", True, new),
            ("train", False, number_of(self.options, "lines", 1)),
        ]

    def _one(
        self, split: Split, is_new: bool, fonts: Sequence[FileItem], lines: Sequence[str], at: int
    ) -> DrawnLine:
        seed = number_of(self.options, "seed")
        words = [seed, ("train", "heldout").index(split), int(is_new), at]
        rng = np.random.default_rng([*words, 0])
        text = self._shorter(lines[int(rng.integers(len(lines)))], split, words)
        font = fonts[int(rng.integers(len(fonts)))]
        told = _label(font)
        key = " ".join(map(str, words))
        name = f"{NEW_FONT if is_new else ''}{told} [{key}]: {text}"
        return DrawnLine(name, drawn_line(text, font.path, words), text, split)

    def _shorter(self, line: str, split: Split, words: Sequence[int]) -> str:
        """The line, or some words of it: of a share of those to learn from, where to look is seen
        at once. None of a held-out line's text."""
        rng = np.random.default_rng([*words, 2])
        if split == "heldout" or rng.random() >= share_option(
            self.options, "short", with_ends=True
        ):
            return line
        share, seed = share_option(self.options, "heldout"), number_of(self.options, "seed")
        most, parts = number_of(self.options, "short_signs", LEAST), line.split()
        runs = (
            " ".join(parts[first:last])
            for first in range(len(parts))
            for last in range(first + 1, len(parts) + 1)
        )
        fit = [run for run in runs if LEAST <= len(run) <= most]
        mine = [run for run in fit if share_of(seed, run.casefold()) >= share]
        return mine[int(rng.integers(len(mine)))] if mine else line

    def lines(self, split: Split) -> Sequence[str]:
        """Those of one side. Raises DataError where there is none."""
        share, seed = share_option(self.options, "heldout"), number_of(self.options, "seed")
        items = [item for item in text_items(self.source) if item.is_read]
        files = tuple((i.path, i.start, i.num_bytes, i.encoding, _changed(i.path)) for i in items)
        key = (files, self.options["text"], self.options["most"])
        if key not in _LINES:
            _LINES.clear()
            found = (
                text
                for item in items
                for text in tell_lines(item, self.options, lambda reason: None)
            )
            _LINES[key] = tuple(dict.fromkeys(found))
        mine = [
            text
            for text in _LINES[key]
            if (share_of(seed, text.casefold()) < share) == (split == "heldout")
        ]
        if not mine:
            raise DataError(
                f"source {self.source.source} has no lines to draw",
                found=f"{len(_LINES[key])} lines, none of them {split}",
                do="correct options.text (the rows' key), options.most (signs) or options.heldout",
            )
        return mine


def _label(font: FileItem) -> str:
    """What lines call it."""
    return font.name.removeprefix(FONTS)


def _changed(path: str) -> int:
    return os.stat(path).st_mtime_ns


def _opened_font(item: FileItem) -> FileItem:
    """As a font; one that Pillow cannot open is refused."""
    if not item.is_read:
        return item
    fault = _font_fault(item.path, item.num_bytes, _changed(item.path))
    if fault:
        return replace(item, kind=REJECTED, reason="font that cannot be opened", hint=fault)
    return replace(item, kind=FONT)


@functools.lru_cache(maxsize=4_096)
def _font_fault(path: str, num_bytes: int, changed_ns: int) -> str:
    """Why Pillow cannot open it; "" if it can. Of size and time: the file may be another one."""
    from PIL import ImageFont

    try:
        ImageFont.truetype(path, SIZES_PX[0], layout_engine=ImageFont.Layout.BASIC)
    except (OSError, ValueError) as error:
        return f"{type(error).__name__}: {error}"[:120]
    return ""


forgets(_font_fault.cache_clear)


def tell_lines(item: FileItem, options: Mapping[str, str], reject: Any) -> Iterator[str]:
    """The usable texts of a file; others are refused."""
    places, key = Places.of(item, reject), options["text"]
    most = number_of(options, "most", 1)
    texts: Iterator[str] = lines_of(item, places)
    if item.kind in ROW_FORMATS.values():
        texts = (str(row.get(key) or "") for _, row in rows_of(item, (key,), places))
    for text in texts:
        line = " ".join(text.split())
        if not LEAST <= len(line) <= most:
            places.refuse(f"line of fewer than {LEAST} or more than {most} signs")
        elif not all(ord(sign) in PRINTABLE for sign in line):
            places.refuse("line with other signs than those of ASCII")
        else:
            yield line


def line_key(name: str) -> tuple[str, list[int], str] | None:
    """(font, numbers, text) of the name of a drawn line; None: it is none."""
    head, mark, text = name.removeprefix(NEW_FONT).partition("]: ")
    font, bracket, words = head.rpartition(" [")
    numbers = words.split()
    if not mark or not bracket or len(numbers) != 4 or not all(map(str.isdecimal, numbers)):
        return None
    return font, [int(word) for word in numbers], text


def known_fonts(sources: Iterable[Source]) -> dict[str, FileItem | None]:
    """Fonts by what lines call them; None: sources have several of the name."""
    found: dict[str, FileItem | None] = {}
    for source in sources:
        for item in Printed(source, source.options).fonts if source.others.get("fonts") else ():
            last = found.get(_label(item), item)
            is_same = last is not None and last.num_bytes == item.num_bytes
            found[_label(item)] = item if is_same else None
    return found


def drawn_again(name: str, fonts: Mapping[str, FileItem | None]) -> Grey | None:
    """The image of a line by its name; None: its font is not known, or there are several."""
    found = line_key(name)
    font = fonts.get(found[0]) if found is not None else None
    if found is None or font is None:
        return None
    return drawn_line(found[2], font.path, found[1])


def drawn_line(text: str, font_path: str, words: Sequence[int]) -> Grey:
    """Grey levels of a line as it may have been printed and photographed, by some numbers."""
    from PIL import Image, ImageDraw, ImageFilter, ImageFont

    rng = np.random.default_rng([*words, 1])
    size = int(rng.integers(*SIZES_PX))
    font = ImageFont.truetype(font_path, size, layout_engine=ImageFont.Layout.BASIC)
    left, top, right, bottom = (round(side) for side in font.getbbox(text))
    paper, ink = int(rng.integers(*LIGHT)), int(rng.integers(*DARK))
    if rng.random() < NEGATIVE:
        paper, ink = ink, paper
    margins = rng.integers(2, MARGIN_PX, 4).tolist()
    shape = (right - left + margins[0] + margins[1], bottom - top + margins[2] + margins[3])
    image = Image.new("L", (int(shape[0]), int(shape[1])), paper)
    ImageDraw.Draw(image).text((margins[0] - left, margins[2] - top), text, ink, font)
    image = image.filter(ImageFilter.GaussianBlur(float(rng.uniform(*BLUR_PX))))
    levels = np.asarray(image, np.float64)
    levels = levels + rng.normal(0, rng.uniform(0, NOISE), levels.shape)
    return np.asarray(np.round(np.clip(levels, 0, 255)), np.uint8)
