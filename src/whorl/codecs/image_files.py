"""Files of images -> pixels: PNG, JPEG, WebP and GIF, with limits that hold before any decoding.

An image is turned as its EXIF orientation says, made grey or RGB, scaled to fit whole into the
middle of the wanted size, on black, or stretched to it; what is transparent shows white. Of several
frames the first.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from whorl.core.errors import DataError, MissingExtra

__all__ = [
    "FORMATS",
    "GREY",
    "MAX_IMAGE_BYTES",
    "MAX_PIXELS",
    "RGB",
    "levels_of",
    "on_white",
    "opened_image",
    "pillow",
    "read_image",
    "size_of_image",
]

FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
GREY, RGB = 1, 3  # channels
MODES = {GREY: "L", RGB: "RGB"}
MAX_IMAGE_BYTES = 32 * 2**20
MAX_PIXELS = 50_000_000  # as the file says: a photo of today's cameras has them
DRAFT = 2  # a JPEG is decoded at no less than so many times the wanted size
ORIENTATION, QUARTER_TURNS = 0x0112, range(5, 9)  # of EXIF: which values lay an image on its side
WORDS_16 = 257  # levels of 16 bits for one of 8
T = TypeVar("T")
EXPECTED = "a whole PNG, JPEG, WebP or GIF"
# What Pillow and its decoders raise on files that are none, cut, or made to hurt.
FAULTS = (
    *(OSError, ValueError, SyntaxError, TypeError, KeyError, IndexError, OverflowError),
    *(ZeroDivisionError, EOFError, AttributeError, struct.error, Warning),
)


def pillow() -> Any:
    """Raises MissingExtra."""
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingExtra.of("pillow", "train", "images as files") from error
    return Image


def read_image(
    data: bytes, width: int, height: int, channels: int, stretched: bool = False
) -> NDArray[np.uint8]:
    """[height, width] grey, or [height, width, 3]. Raises DataError, MissingExtra."""
    longest = DRAFT * max(width, height)  # it may have to be turned

    def fitted(image: Any) -> NDArray[np.uint8]:
        if image.format == "JPEG":
            image.draft(MODES[channels], (longest, longest))
        return _fitted(image, width, height, MODES[channels], stretched)

    return opened_image(data, fitted)


def size_of_image(data: bytes) -> tuple[int, int]:
    """(width, height) as it is looked at, by its header alone. Raises DataError, MissingExtra."""

    def size(image: Any) -> tuple[int, int]:
        is_turned = image.getexif().get(ORIENTATION, 1) in QUARTER_TURNS
        return (image.height, image.width) if is_turned else (image.width, image.height)

    return opened_image(data, size)


def opened_image(data: bytes, use: Callable[[Any], T]) -> T:
    """What `use` makes of an image that is not decoded yet, nor too large."""
    library = pillow()
    if len(data) > MAX_IMAGE_BYTES:
        raise DataError(f"image file of more than {MAX_IMAGE_BYTES // 2**20} MiB", found=len(data))
    try:
        with library.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise _too_large("{} x {}".format(*image.size))
            return use(image)
    except DataError:
        raise
    except library.DecompressionBombError as error:
        raise _too_large(error) from error
    except FAULTS as error:
        found = "0 bytes" if not data else _told(error, data)
        raise DataError("this is no image", found=found, expected=EXPECTED) from error


def _too_large(found: object) -> DataError:
    return DataError(f"image of more than {MAX_PIXELS:,} pixels", found=found, do="make it smaller")


def _fitted(image: Any, width: int, height: int, mode: str, stretched: bool) -> NDArray[np.uint8]:
    from PIL import Image, ImageOps

    image = levels_of(ImageOps.exif_transpose(image), mode)
    if image.size != (width, height):
        scale = min(width / image.width, height / image.height)
        size = tuple(max(1, round(side * scale)) for side in image.size)
        if stretched:
            size = (width, height)
        image = image.resize(size, Image.Resampling.BILINEAR, reducing_gap=3.0)
    image = on_white(image, mode)
    if image.size != (width, height):
        whole = Image.new(mode, (width, height))
        whole.paste(image, ((width - image.width) // 2, (height - image.height) // 2))
        image = whole
    return np.asarray(image, np.uint8)


def _bytes_of(levels: NDArray[Any]) -> NDArray[np.uint8]:
    """uint8 [rows, columns] of levels of 16 bits, some rows at a time: floats are 8 bytes each."""
    found = np.empty(levels.shape, np.uint8)
    step = max(1, 2**20 // max(1, levels.shape[1]))
    for begin in range(0, len(levels), step):
        piece = np.nan_to_num(levels[begin : begin + step].astype(np.float64)) / WORDS_16
        found[begin : begin + step] = np.clip(np.round(piece), 0, 255)
    return found


def levels_of(image: Any, mode: str) -> Any:
    """In 8 bits of the mode, or RGBA where some of it is transparent."""
    from PIL import Image

    if image.mode.startswith(("I", "F")):  # 16 bits: Pillow would cut them at 255
        image = Image.fromarray(_bytes_of(np.asarray(image)))
    transparent = image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info
    return image.convert("RGBA" if transparent else mode)


def on_white(image: Any, mode: str) -> Any:
    """In the mode, white where an RGBA image is transparent; others as they are."""
    from PIL import Image

    if image.mode != "RGBA":
        return image
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert(mode)


def _told(error: Exception, data: bytes) -> str:
    """The same of the same bytes: Pillow names an object by its address in memory."""
    if isinstance(error, pillow().UnidentifiedImageError):
        return f"{len(data)} bytes that begin as {data[:8]!r}"
    return f"{type(error).__name__}: {error}"[:120]
