"""What fields of images share: options of size and words, and some of many images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from whorl.core.errors import SpecError
from whorl.fields.whole import number_of

__all__ = ["Books", "SomeImages", "one_of", "size_option"]

MAX_SIDE = 512
MANY_IMAGES = 5_000  # from where on each place has a book of its own, where a recipe does not say
SHARED_BOOK, PLACE_BOOK = 512, 128  # patches in a book
MAX_FIT_BYTES = 2**28  # of images from which codebooks are learned


@dataclass
class SomeImages:
    """Images, of which every second one is left out each time there are too many bytes."""

    kept: list[NDArray[Any]] = field(default_factory=list)
    count: int = 0
    _stride: int = 1

    def add(self, image: NDArray[Any]) -> None:
        if self.count % self._stride == 0:
            self.kept.append(image)
        self.count += 1
        if len(self.kept) > 1 and len(self.kept) * self.kept[0].nbytes > MAX_FIT_BYTES:
            self.kept, self._stride = self.kept[::2], 2 * self._stride


@dataclass(frozen=True)
class Books:
    """Whether each place of a patch has codebooks of its own, and how large one is."""

    kind: str
    size: int | None

    @classmethod
    def of(cls, options: Mapping[str, str]) -> Books:
        """Of the options books and book. Raises SpecError if one is wrong."""
        size = None if options["book"].strip() == "auto" else number_of(options, "book", 2)
        return cls(one_of(options, "books", ("auto", "shared", "places")), size)

    def by_place(self, num_images: int) -> bool:
        """A few images would not fill books of each place."""
        return self.kind == "places" or (self.kind == "auto" and num_images >= MANY_IMAGES)

    def num_ids(self, by_place: bool) -> int:
        """Of one book."""
        return self.size or (PLACE_BOOK if by_place else SHARED_BOOK)


def one_of(options: Mapping[str, str], key: str, words: Sequence[str]) -> str:
    """An option that is one of some words. Raises SpecError if it is none."""
    word = options[key].strip().lower()
    if word not in words:
        expected = " or ".join(words)
        raise SpecError(f"data.options.{key} is unknown", found=options[key], expected=expected)
    return word


def size_option(options: Mapping[str, str], patch: int) -> tuple[int, int] | None:
    """(width, height) of 28 or 64x48, None of auto. Raises SpecError, also where patches do not
    tile it."""
    text = options["size"]
    if text.strip().lower() == "auto":
        return None
    sides = text.lower().split("x")
    numbers = [int(side) if side.strip().isdecimal() else 0 for side in sides]
    if len(numbers) > 2 or not all(0 < n <= MAX_SIDE and n % patch == 0 for n in numbers):
        expected = f"28 or 64x48, at most {MAX_SIDE}, multiples of options.patch ({patch})"
        raise SpecError("data.options.size is no size of images", found=text, expected=expected)
    return numbers[0], numbers[-1]
