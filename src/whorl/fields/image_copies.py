"""Copies of an image as it might have been taken: moved a little, and perhaps turned round."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["moved"]


def moved(
    image: NDArray[np.uint8], rng: np.random.Generator, shift: int, flips: bool
) -> NDArray[np.uint8]:
    """Up to `shift` pixels along each side, the border drawn out; every second one mirrored."""
    down, right = rng.integers(-shift, shift + 1, 2)
    mirrored = rng.random() < 0.5
    height, width = image.shape[:2]
    rows = np.clip(np.arange(height) - down, 0, height - 1)
    columns = np.clip(np.arange(width) - right, 0, width - 1)
    if flips and mirrored:
        columns = columns[::-1]
    return np.ascontiguousarray(image[rows[:, None], columns[None]])
