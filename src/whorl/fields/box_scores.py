"""How well boxes were found: overlap with the right ones, each answered box for one of them.

The overlap of two boxes is their intersection over their union (Everingham et al. 2010, "The Pascal
Visual Object Classes Challenge"). Pairs of one label are made from the largest overlap down.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from whorl.codecs.boxes import Box, boxes_in
from whorl.core.errors import DataError
from whorl.core.metrics import MEAN_IOU, RECALL_AT_50, Metric

__all__ = ["graded", "grades_of", "lenient_boxes", "matched", "overlaps"]

FOUND = 0.5  # overlap from which on a thing counts as found
Floats = NDArray[np.float64]


def overlaps(some: Floats, others: Floats) -> Floats:
    """[n, m]: intersection over union of boxes [n, 4] and [m, 4] of left, top, right, bottom."""
    first, second = some[:, None], others[None]
    sides = np.minimum(first[..., 2:], second[..., 2:]) - np.maximum(
        first[..., :2], second[..., :2]
    )
    common = np.clip(sides, 0, None).prod(-1)
    whole = _areas(first) + _areas(second) - common
    return np.asarray(common / np.where(whole > 0, whole, 1.0))


def _areas(boxes: Floats) -> Floats:
    return np.asarray((boxes[..., 2:] - boxes[..., :2]).prod(-1))


def matched(given: Sequence[Box], right: Sequence[Box]) -> list[float]:
    """The overlaps of pairs of one label, the largest first; each box is in one pair at most."""
    if not given or not right:
        return []
    found = overlaps(*(np.array([box.sides for box in boxes]) for boxes in (given, right)))
    same = np.array([[one.label == other.label for other in right] for one in given])
    found = np.where(same, found, 0.0)
    pairs = []
    while found.size and found.max() > 0:
        one, other = np.unravel_index(found.argmax(), found.shape)
        pairs.append(float(found[one, other]))
        found[one], found[:, other] = 0.0, 0.0
    return pairs


def grades_of(
    given: Sequence[Box], right: Sequence[Box], num_wrong: int = 0
) -> dict[Metric, tuple[float, float]]:
    """Of one image: the mean overlap of all boxes that were answered or are right, those without a
    counterpart 0; and how many of the right ones were found.

    num_wrong: answered boxes that cannot be read. An image of nothing, answered so, has overlap 1.
    """
    pairs = matched(given, right)
    count = len(given) + num_wrong + len(right) - len(pairs)
    mean = sum(pairs) / count if count else 1.0
    found = sum(overlap >= FOUND for overlap in pairs)
    return {MEAN_IOU: (mean, 1.0), RECALL_AT_50: (float(found), float(len(right)))}


def lenient_boxes(answer: str) -> tuple[list[Box], int]:
    """(boxes, lines that are none) of what a model wrote."""
    boxes: list[Box] = []
    num_wrong = 0
    for line in answer.split("\n"):
        if line.strip():
            try:
                boxes += boxes_in(line)
            except DataError:
                num_wrong += 1
    return boxes, num_wrong


def graded(answer: str, right: str) -> Mapping[Metric, tuple[float, float]]:
    """Of a written answer beside the right one."""
    boxes, num_wrong = lenient_boxes(answer)
    return grades_of(boxes, boxes_in(right), num_wrong)
