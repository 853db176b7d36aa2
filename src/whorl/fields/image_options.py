"""What fields of images share: options of size and words, and some of many images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from whorl.core.errors import SpecError

__all__ = ["SomeImages", "one_of", "size_option"]

MAX_SIDE = 512
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
