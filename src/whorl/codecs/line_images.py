"""Images of one printed line -> ink: trimmed to what is written, scaled to one height.

Ink is how far a pixel is from the background, whichever of the two is darker: dark on light and
light on dark are read alike.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from whorl.codecs.image_files import levels_of, on_white, opened_image, pillow
from whorl.core.errors import DataError

__all__ = ["BORDER", "line_of", "read_line"]

INK_SHARE = 0.35  # of the darkest ink: what is paler is no reason to keep a row or column
LEAST_INK = 24  # levels between ink and background; below, nothing is written
BORDER = 1  # pixels of background left around, once it is scaled
MAX_SIDE = 8_192  # pixels of a file, before it is scaled
MAX_LINE_PIXELS = 4_000_000  # of a file: a line of print has no more, and its ink is real numbers
DARKEST, DARKEST_PX = 0.999, 64  # the darkest ink is that of the last thousandth, or so many pixels
CUT = "cut images into lines of print first"

Grey = NDArray[np.uint8]


def read_line(data: bytes, height: int, max_width: int) -> Grey:
    """Ink [height, width] of a PNG, JPEG, WebP or GIF. Raises DataError as `line_of`."""

    def levels(image: Any) -> Grey:
        from PIL import ImageOps

        found = "{} x {}".format(*image.size)
        if max(image.size) > MAX_SIDE:
            raise DataError(f"image of more than {MAX_SIDE:,} pixels a side", found=found, do=CUT)
        if image.width * image.height > MAX_LINE_PIXELS:
            words = f"image of more than {MAX_LINE_PIXELS:,} pixels for one line"
            raise DataError(words, found=found, do=CUT)
        return np.asarray(on_white(levels_of(ImageOps.exif_transpose(image), "L"), "L"), np.uint8)

    return line_of(opened_image(data, levels), height, max_width)


def line_of(levels: Grey, height: int, max_width: int) -> Grey:
    """Ink [height, width], width at most max_width, of grey levels [rows, columns].

    Raises DataError if nothing is written there, or the line is too long for its height.
    """
    ink = _ink(levels)
    library = pillow()
    inner = height - 2 * BORDER
    width = max(1, round(ink.shape[1] * inner / ink.shape[0]))
    if width + 2 * BORDER > max_width:
        raise DataError(
            "line too long for its height",
            found=f"{ink.shape[1]} x {ink.shape[0]} pixels of writing",
            expected=f"at most {max_width / height:.0f} times as wide as it is high",
            do=CUT,
        )
    scaled = library.fromarray(ink).resize((width, inner), library.Resampling.BOX, reducing_gap=3.0)
    return np.pad(np.asarray(scaled, np.uint8), BORDER)


def _ink(levels: Grey) -> Grey:
    """From 0 to 255, without rows and columns at the border that are bare."""
    border = np.concatenate([levels[0], levels[-1], levels[:, 0], levels[:, -1]])
    background = float(np.median(border))
    ink = np.abs(levels.astype(np.float32) - np.float32(background))
    most = float(np.quantile(ink, max(DARKEST, 1 - DARKEST_PX / ink.size)))
    if most < LEAST_INK:
        found = f"{most:.0f} levels of ink"
        raise DataError("image on which nothing is written", found=found, do=CUT)
    written = ink > INK_SHARE * most
    rows, columns = np.flatnonzero(written.any(1)), np.flatnonzero(written.any(0))
    cut = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return np.asarray(np.round(np.clip(cut / most, 0, 1) * 255), np.uint8)
