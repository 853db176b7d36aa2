"""A classical way to find things: windows, histograms of gradients, a linear classifier.

As Dalal and Triggs (2005, "Histograms of Oriented Gradients for Human Detection"): windows of a
few usual shapes at many places, gradients of each by their directions in cells, a linear SVM of all
labels and of what is none, taught once more with its own mistakes; of windows that overlap the
surest.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whorl.codecs.boxes import Box
from whorl.core.errors import MissingExtra
from whorl.fields.box_scores import overlaps

__all__ = ["Gradients", "found_boxes"]

KNOWN_IMAGES, MINED_IMAGES = 400, 150  # that are learned from; of which mistakes are looked for
SHAPES, STRIDE = 8, 1 / 16  # of windows; between them, as a share of the image
CELLS, DIRECTIONS = 8, 9  # of a window along each side; of gradients
MARGIN = 1 / 6  # of a window's sides, looked at round it
NOTHINGS = 6  # windows of nothing an image
NEAR, APART = 0.3, 0.3  # overlap up to which a window shows nothing, and one that is kept
NOTHING = ""
BATCH = 2_048  # windows looked at together

Floats = NDArray[np.float64]
Pixels = NDArray[np.floating[Any]]


def found_boxes(
    known: Iterable[tuple[Pixels, Sequence[Box]]], asked: Sequence[Pixels]
) -> tuple[str, list[list[Box]]]:
    """(what it is called, the boxes of each asked image), seed 0. Raises MissingExtra.

    Learned from the first KNOWN_IMAGES images with boxes; without any nothing is found.
    """
    some = list(itertools.islice(((i, b) for i, b in known if b), KNOWN_IMAGES))
    name = f"HOG windows and a linear SVM, {len(some)} images"
    if not some:
        return name, [[] for _ in asked]
    finder = _Finder.taught([(Gradients(image), boxes) for image, boxes in some])
    return name, [finder.boxes(Gradients(image)) for image in asked]


class Gradients:
    """Of an image [height, width]: how much of each direction lies above and left of each place."""

    def __init__(self, image: Pixels) -> None:
        levels = np.asarray(image, np.float64) / 255
        levels = levels.mean(axis=2) if levels.ndim == 3 else levels
        down, right = np.gradient(levels)
        size = np.hypot(down, right)
        turn = np.arctan2(down, right) % np.pi / np.pi * DIRECTIONS  # without sign
        low = np.floor(turn)
        share = turn - low
        sums = np.zeros((levels.shape[0] + 1, levels.shape[1] + 1, DIRECTIONS))
        for number in range(DIRECTIONS):
            here = size * np.where(low % DIRECTIONS == number, 1 - share, 0)
            here += size * np.where((low + 1) % DIRECTIONS == number, share, 0)
            sums[1:, 1:, number] = here.cumsum(0).cumsum(1)
        self.sums = sums

    def of(self, windows: Floats) -> Floats:
        """[n, CELLS ** 2 * DIRECTIONS] of windows [n, 4], shares of the image, with what is round
        them; the values of each have the length 1."""
        steps = np.linspace(-MARGIN, 1 + MARGIN, CELLS + 1)
        height, width = (length - 1 for length in self.sums.shape[:2])
        lefts, tops, rights, bottoms = windows.T[:, :, None]
        columns = np.clip((lefts + (rights - lefts) * steps) * width, 0, width)
        rows = np.clip((tops + (bottoms - tops) * steps) * height, 0, height)
        corners = self._at(rows, columns)
        cells = np.diff(np.diff(corners, axis=1), axis=2)
        flat = np.sqrt(np.clip(cells, 0, None)).reshape(len(windows), -1)
        return np.asarray(flat / (np.linalg.norm(flat, axis=1, keepdims=True) + 1e-6))

    def _at(self, rows: Floats, columns: Floats) -> Floats:
        """[n, rows, columns, DIRECTIONS], between pixels by shares of both."""
        top, left = (
            np.minimum(each.astype(int), length - 2)
            for each, length in zip((rows, columns), self.sums.shape[:2], strict=True)
        )
        down, right = (rows - top)[:, :, None, None], (columns - left)[:, None, :, None]
        r, c = top[:, :, None], left[:, None, :]
        upper = self.sums[r, c] * (1 - right) + self.sums[r, c + 1] * right
        lower = self.sums[r + 1, c] * (1 - right) + self.sums[r + 1, c + 1] * right
        return np.asarray(upper * (1 - down) + lower * down)


class _Finder:
    """windows: [m, 4], the same on every image."""

    def __init__(self, windows: Floats) -> None:
        self.windows = windows
        self.model: Any = None

    @classmethod
    def taught(cls, known: Sequence[tuple[Gradients, Sequence[Box]]]) -> _Finder:
        rng = np.random.default_rng(0)
        shapes = np.array([[b.right - b.left, b.bottom - b.top] for _, bs in known for b in bs])
        finder = cls(_windows(_usual(shapes)))
        values, labels = [np.zeros((1, CELLS**2 * DIRECTIONS))], [NOTHING]
        for image, boxes in known:
            right = np.array([box.sides for box in boxes])
            far = finder.windows[overlaps(finder.windows, right).max(axis=1) < NEAR]
            nothing = far[rng.permutation(len(far))[:NOTHINGS]]
            values.append(image.of(np.concatenate([right, nothing])))
            labels += [box.label for box in boxes] + [NOTHING] * len(nothing)
        finder._fit(values, labels)
        for image, boxes in known[:MINED_IMAGES]:
            right = np.array([box.sides for box in boxes])
            far = finder.windows[overlaps(finder.windows, right).max(axis=1) < NEAR]
            if not len(far):  # boxes cover the whole image
                continue
            looked = image.of(far)
            wrong = looked[finder.model.predict(looked) != NOTHING]
            values.append(wrong)
            labels += [NOTHING] * len(wrong)
        finder._fit(values, labels)
        return finder

    def _fit(self, values: Sequence[Floats], labels: Sequence[str]) -> None:
        try:
            from sklearn.svm import LinearSVC
        except ImportError as error:
            raise MissingExtra.of("scikit-learn", "train", "the baseline of boxes") from error
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of steps that were not the last
            model = LinearSVC(random_state=0, max_iter=300)
            self.model = model.fit(np.concatenate(values), np.array(labels))

    def boxes(self, image: Gradients) -> list[Box]:
        """The surest windows that show something, each apart from those before it."""
        found: list[tuple[float, Box]] = []
        for start in range(0, len(self.windows), BATCH):
            windows = self.windows[start : start + BATCH]
            sure = self.model.decision_function(image.of(windows))
            sure = np.stack([-sure, sure], axis=1) if sure.ndim == 1 else sure
            for number in np.flatnonzero(self.model.classes_[sure.argmax(1)] != NOTHING):
                label = str(self.model.classes_[sure[number].argmax()])
                left, top, right, bottom = windows[number].tolist()
                box = Box(left, top, right, bottom, label)
                found.append((float(sure[number].max()), box))
        kept: list[Box] = []
        for _, box in sorted(found, reverse=True):
            others = np.array([other.sides for other in kept]).reshape(-1, 4)
            if not len(others) or overlaps(np.array([box.sides]), others).max() < APART:
                kept.append(box)
        return kept


def _usual(shapes: Floats) -> Floats:
    """[SHAPES or fewer, 2]: widths and heights that stand for all."""
    from sklearn.cluster import KMeans

    count = min(SHAPES, len(np.unique(shapes, axis=0)))
    return np.asarray(KMeans(count, n_init=1, random_state=0).fit(shapes).cluster_centers_)


def _windows(shapes: Floats) -> Floats:
    """All places of all shapes, [m, 4]."""
    found = []
    for width, height in np.minimum(shapes, 1.0):
        lefts = np.arange(0, 1 - width + 1e-9, STRIDE)
        tops = np.arange(0, 1 - height + 1e-9, STRIDE)
        left, top = (each.ravel() for each in np.meshgrid(lefts, tops))
        found.append(np.stack([left, top, left + width, top + height], axis=1))
    return np.asarray(np.clip(np.concatenate(found), 0.0, 1.0))
