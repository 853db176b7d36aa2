"""Measures made of what each document is graded, and those of some documents alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whorl.core.metrics import Grade, Metric
from whorl.core.ports import QualityMeasure

__all__ = ["measure_of", "measure_of_some"]


def measure_of(metric: Metric, names: Iterable[str], grades: Sequence[Grade]) -> QualityMeasure:
    """grades: of each document its two numbers, or its two rows of them."""
    sides = (np.array([grade[side] for grade in grades], np.float64).T for side in (0, 1))
    return QualityMeasure(metric, tuple(names), *sides)


def measure_of_some(
    found: QualityMeasure, places: Sequence[int] | NDArray[np.integer[Any]]
) -> QualityMeasure:
    """That of the documents at some places."""
    names = tuple(found.document_names[place] for place in places)
    sides = (each[..., places] for each in (found.numerator, found.denominator))
    return QualityMeasure(found.metric, names, *sides)
