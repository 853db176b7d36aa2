"""Printed lines <-> tokens: slices from the left to the right, each by learned codebooks.

As a sound is read frame by frame, an image of a line is read slice by slice of a few columns: of
each the nearest centre of the first book, then that of what is missing in the next one. A line has
as many ids as it is long.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whorl.codecs.image import codebook_of, nearest_centre
from whorl.codecs.image_files import pillow
from whorl.codecs.line_images import read_line
from whorl.core.errors import DataError, RecordError, SpecError

__all__ = ["LineCodec", "fit_line_codec", "load"]

FILE = "slices.safetensors"
WHITE = 255.0
MAX_FIT_SLICES = 40_000  # that k-means reads

Floats = NDArray[np.float64]


class LineCodec:
    """Ink [height, width], width up to max_width. Local id = book's number * centres + centre."""

    kind = "line-slices"
    media_type = "image/png"
    value_ids = None

    def __init__(
        self, books: NDArray[np.float32], line_height: int, max_width: int, name: str = "line"
    ) -> None:
        """books: [books, centres, line_height * step]. Raises SpecError on another shape."""
        whole = books.ndim == 3 and books.size > 0 and bool(np.isfinite(books).all())
        if not whole or line_height < 1 or books.shape[-1] % line_height or max_width < 1:
            raise SpecError("codebooks do not fit their slices", found=books.shape)
        self.name, self.line_height, self.max_width = name, line_height, max_width
        self.books = np.ascontiguousarray(books, "<f4")
        self.num_books, self.num_centres = (int(size) for size in books.shape[:2])
        self.step = books.shape[-1] // line_height
        self.num_ids = self.num_books * self.num_centres
        self.told = ""  # what the books lose of what they were fitted on, in words

    def encode(self, value: Any) -> list[int]:
        """Ids of each slice. Raises DataError on what is no ink of this height."""
        left = slices_of(value, self.line_height, self.step, self.max_width)
        codes = np.empty((len(left), self.num_books), np.int64)
        for number, book in enumerate(self.books.astype(np.float64)):
            codes[:, number] = nearest_centre(left, book)
            left = left - book[codes[:, number]]
        codes += np.arange(self.num_books) * self.num_centres
        return [int(code) for code in codes.ravel()]

    def decode(self, ids: Sequence[int]) -> NDArray[np.uint8]:
        """Ink, whole slices. Any ids make a line: one of the first book begins a slice, others add
        to it."""
        found: list[Floats] = []
        for number in ids:
            book, centre = divmod(int(number), self.num_centres)
            if book == 0 or not found:
                found.append(np.zeros(self.books.shape[-1]))
            found[-1] += self.books[book, centre]
        if not found:
            return np.zeros((self.line_height, 0), np.uint8)
        columns = np.stack(found).reshape(-1, self.line_height)
        return np.asarray(np.round(np.clip(columns.T, 0, WHITE)), np.uint8)

    def shown(self, ids: Sequence[int]) -> str:
        """What these ids are, in words."""
        width = len(ids) // self.num_books * self.step
        return f"[a printed line of {width} x {self.line_height}]"

    def loss(self, lines: Iterable[Any]) -> float:
        """What decoding loses: root of the mean squared difference, in levels."""
        errors, count = 0.0, 0
        for line in lines:
            whole = slices_of(line, self.line_height, self.step, self.max_width)
            again = slices_of(
                self.decode(self.encode(line)), self.line_height, self.step, self.max_width
            )
            errors, count = errors + float(((whole - again) ** 2).sum()), count + whole.size
        return float(np.sqrt(errors / max(1, count)))

    def to_bytes(self, value: Any) -> bytes:
        """A PNG of black on white. Raises DataError on what is no ink."""
        slices_of(value, self.line_height, self.step, self.max_width)
        data = io.BytesIO()
        pillow().fromarray(255 - np.asarray(value, np.uint8)).save(data, "PNG")
        return data.getvalue()

    def from_bytes(self, data: bytes) -> NDArray[np.uint8]:
        """Ink of an image of any size. Raises DataError as `read_line`."""
        return read_line(data, self.line_height, self.max_width)

    def files(self) -> dict[str, bytes]:
        """Books and shape as safetensors."""
        from safetensors.numpy import save

        shape = np.array([self.line_height, self.max_width], "<i8")
        return {FILE: save({"books": self.books, "shape": shape})}


def load(name: str, files: Mapping[str, bytes]) -> LineCodec:
    """The codec of these files. Raises RecordError if they are not its."""
    from safetensors import SafetensorError
    from safetensors.numpy import load as load_tensors

    try:
        tensors = load_tensors(files[FILE])
        height, max_width = (int(number) for number in tensors["shape"])
        return LineCodec(tensors["books"], height, max_width, name)
    except (KeyError, TypeError, ValueError, SpecError, SafetensorError) as error:
        raise RecordError(f"codec {name} is no codec of lines", found=error) from error


def slices_of(value: Any, height: int, step: int, max_width: int) -> Floats:
    """[slices, step * height], columns one after another; what is missing of the last is bare.

    Raises DataError on what is no ink [height, width].
    """
    line = np.asarray(value)
    if line.ndim != 2 or line.shape[0] != height or not 0 < line.shape[1] <= max_width:
        raise DataError(
            "the codec of lines cannot encode this",
            found=f"shape {line.shape}",
            expected=f"ink [{height}, 1 to {max_width}]",
        )
    columns = np.pad(line.astype(np.float64), ((0, 0), (0, -line.shape[1] % step))).T
    return np.ascontiguousarray(columns).reshape(-1, step * height)


def fit_line_codec(
    lines: Iterable[NDArray[np.uint8]],
    num_centres: int,
    *,
    num_books: int = 2,
    step: int = 4,
    max_width: int,
    seed: int = 0,
) -> LineCodec:
    """Books of slices of ink, evenly taken; the same lines give the same bytes. All of one height.

    Raises DataError without lines.
    """
    kept: list[Floats] = []
    height, count, stride = 0, 0, 1
    for number, line in enumerate(lines):
        height = height or line.shape[0]
        if number % stride:
            continue
        kept.append(slices_of(line, height, step, max_width))
        count += len(kept[-1])
        while count > MAX_FIT_SLICES and len(kept) > 1:
            kept, stride = kept[::2], stride * 2
            count = sum(map(len, kept))
    if not kept:
        raise DataError("a codec of lines needs lines to learn from")
    left, books = np.concatenate(kept), []
    for number in range(num_books):
        book = codebook_of(left, num_centres, seed + number)
        book = book[np.minimum(np.arange(num_centres), len(book) - 1)]  # the last again
        books.append(book)
        left = left - book[nearest_centre(left, book)]
    codec = LineCodec(np.stack(books).astype(np.float32), height, max_width)
    lost = float(np.sqrt(np.mean(left**2)))
    codec.told = f"slices of {step} columns out of {num_centres}, {num_books} ids each; loses " + (
        f"{lost:.1f} of {WHITE:.0f} levels of ink"
    )
    return codec
