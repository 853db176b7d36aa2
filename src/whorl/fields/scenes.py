"""Scenes made of small images of one thing each: some things on one canvas, and where they are.

Synthetic, and only as hard as this: things lie apart, between scraps of others, on noise. Things of
held-out scenes are those of the test file. A scene depends on the seed and its number alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from whorl.codecs.boxes import Box
from whorl.codecs.image_files import pillow
from whorl.fields.box_scores import overlaps

__all__ = ["LOGIC_VERSION", "Things", "scene"]

LOGIC_VERSION = 1
SIZES = (0.34, 0.6)  # of a thing's longer side, as shares of the canvas
MOST_OVERLAP = 0.02  # of two things
TRIES = 30  # for a place
SCRAPS, SCRAP_PX = (2, 6), (4, 9)  # how many, and their sides
NOISE = 48  # levels, at most
BARE = 24  # levels below which a border is no part of a thing

Grey = NDArray[np.uint8]


@dataclass(frozen=True)
class Things:
    """Images [n, height, width] of one thing each on black, and what each is."""

    images: Grey
    labels: Sequence[str]

    def __len__(self) -> int:
        return len(self.images)


def scene(things: Things, side: int, most: int, words: Sequence[int]) -> tuple[Grey, list[Box]]:
    """A canvas [side, side] of one to `most` things, fewer where no place was found for one.

    words: numbers that it depends on.
    """
    rng = np.random.default_rng(list(words))
    canvas = np.zeros((side, side), np.uint8)
    boxes: list[Box] = []
    for _ in range(int(rng.integers(1, most + 1))):
        number = int(rng.integers(len(things)))
        thing = _resized(_bare(things.images[number]), round(side * float(rng.uniform(*SIZES))))
        place = _place(rng, thing.shape, side, boxes)
        if place is not None:
            _paste(canvas, thing, place)
            boxes.append(_box(place, thing.shape, side, things.labels[number]))
    for _ in range(int(rng.integers(*SCRAPS))):
        _add_scrap(rng, canvas, things, boxes)
    noise = rng.integers(0, NOISE + 1, canvas.shape) * rng.uniform(0, 1)
    return np.minimum(255, canvas + noise).astype(np.uint8), boxes


def _bare(image: Grey) -> Grey:
    """Without rows and columns at its border that show nothing."""
    rows, columns = (np.flatnonzero(image.max(axis) > BARE) for axis in (1, 0))
    if not len(rows):
        return image
    return image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _resized(image: Grey, longest: int) -> Grey:
    library = pillow()
    scale = longest / max(image.shape)
    height, width = (max(2, round(length * scale)) for length in image.shape)
    small = library.fromarray(image).resize((width, height), library.Resampling.BILINEAR)
    return np.asarray(small, np.uint8)


def _place(
    rng: np.random.Generator, shape: tuple[int, ...], side: int, boxes: Sequence[Box]
) -> tuple[int, int] | None:
    """(top, left) where it lies apart from what is there; None if none was found."""
    height, width = shape
    taken = np.array([box.sides for box in boxes]).reshape(-1, 4)
    for _ in range(TRIES):
        top, left = (int(rng.integers(0, side - length + 1)) for length in (height, width))
        sides = np.array([[left, top, left + width, top + height]]) / side
        if not len(taken) or overlaps(sides, taken).max() <= MOST_OVERLAP:
            return top, left
    return None


def _paste(canvas: Grey, thing: Grey, place: tuple[int, int]) -> None:
    (top, left), (height, width) = place, thing.shape
    below = canvas[top : top + height, left : left + width]
    np.maximum(below, thing, out=below)


def _box(place: tuple[int, int], shape: tuple[int, ...], side: int, label: str) -> Box:
    (top, left), (height, width) = place, shape
    return Box(left / side, top / side, (left + width) / side, (top + height) / side, label)


def _add_scrap(rng: np.random.Generator, canvas: Grey, things: Things, boxes: list[Box]) -> None:
    """A piece of another thing, where no thing lies."""
    image = things.images[int(rng.integers(len(things)))]
    lengths = [int(rng.integers(*SCRAP_PX)) for _ in image.shape]
    top, left = (int(rng.integers(0, max(1, whole - length + 1)))
                 for whole, length in zip(image.shape, lengths, strict=True))  # fmt: skip
    scrap = image[top : top + lengths[0], left : left + lengths[1]]
    place = _place(rng, scrap.shape, len(canvas), boxes)
    if place is not None:
        _paste(canvas, scrap, place)
