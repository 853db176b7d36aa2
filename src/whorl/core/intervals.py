"""Intervals by bootstrap over documents: of one figure, and of the difference of two.

Documents are drawn with replacement, each with all its numbers, and added up as the metric says
(bits over bytes, right answers over questions). Bias-corrected and accelerated
(Efron 1987) through scipy.stats.bootstrap; plain percentiles where that is not defined.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whorl.core.errors import MissingExtra, SpecError
from whorl.core.ports import QualityMeasure, Score

__all__ = ["CONFIDENCE", "Interval", "interval_of", "on_documents", "paired_interval", "score_of"]

CONFIDENCE = 0.95
MAX_SAMPLES_BYTES = 64 * 2**20  # resampled documents held at once

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A figure and its 95% interval; no interval from fewer than two documents."""

    value: float
    low: float | None
    high: float | None

    @property
    def sign(self) -> int:
        """1 or -1 where the figure surely lies on that side of zero, else 0."""
        if self.low is None or self.high is None:
            return 0
        return (self.low > 0) - (self.high < 0)

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.value:.4g}"
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"


def interval_of(measure: QualityMeasure, *, samples: int = 2000, seed: int = 0) -> Interval:
    """The figure of a measure with its interval.

    When every answer of a yes-or-no question is the same, resampling cannot say anything: the
    exact binomial interval (Clopper and Pearson 1934) stands in.
    Raises SpecError when the arrays are empty or their lengths differ.
    """
    data = (measure.numerator, measure.denominator)
    _same_length(*data)
    if measure.metric.is_share and len(np.unique(measure.numerator)) == 1:
        return _exact(int(measure.numerator.sum()), len(measure.numerator))
    return _bootstrap(data, measure.metric.total, samples, seed)


def paired_interval(
    first: QualityMeasure,
    second: QualityMeasure,
    *,
    relative: bool = False,
    samples: int = 2000,
    seed: int = 0,
) -> Interval:
    """How much `first` is above `second`, both measured on the same documents.

    relative: as a share of `second` (0.01 is one percent above). Raises SpecError when the two
    were not measured by the same metric on the same documents in the same order.
    """
    if first.metric != second.metric or first.document_names != second.document_names:
        raise SpecError(
            "two measures cannot be paired",
            found=f"{first.metric} on {len(first.document_names)} documents, "
            f"{second.metric} on {len(second.document_names)}",
            expected="the same metric on the same documents",
        )

    total = first.metric.total

    def difference(a: Floats, b: Floats, c: Floats, d: Floats, axis: int = -1) -> Any:
        left, right = total(a, b, axis), total(c, d, axis)
        return left / right - 1.0 if relative else left - right

    data = (first.numerator, first.denominator, second.numerator, second.denominator)
    _same_length(*data)
    return _bootstrap(data, difference, samples, seed)


def on_documents(measure: QualityMeasure, names: tuple[str, ...]) -> QualityMeasure | None:
    """The measure of these documents alone, in their order; None where one was not measured."""
    if names == measure.document_names:
        return measure
    places = {name: place for place, name in enumerate(measure.document_names)}
    if not places.keys() >= set(names):
        return None
    mine = [places[name] for name in names]
    numbers = measure.numerator[..., mine], measure.denominator[..., mine]
    return QualityMeasure(measure.metric, names, *numbers)


def score_of(
    name: str, measure: QualityMeasure, *, samples: int = 2000, seed: int = 0, note: str = ""
) -> Score:
    """A measure as a Score with its interval."""
    interval = interval_of(measure, samples=samples, seed=seed)
    return Score(
        name,
        measure.metric,
        interval.value,
        interval.low,
        interval.high,
        len(measure.document_names),
        note,
        measure=measure,
    )


def _same_length(*arrays: Floats) -> None:
    lengths = [array.shape[-1] for array in arrays]
    if min(lengths) == 0 or len(set(lengths)) > 1:
        raise SpecError("no interval from these documents", found=f"lengths {lengths}")


def _exact(right: int, total: int) -> Interval:
    stats = _stats()
    found = stats.binomtest(right, total).proportion_ci(CONFIDENCE, method="exact")
    return Interval(right / total, float(found.low), float(found.high))


def _bootstrap(
    data: tuple[Floats, ...], statistic: Callable[..., Any], samples: int, seed: int
) -> Interval:
    value, num_documents = float(statistic(*data)), data[0].shape[-1]
    if num_documents < 2:
        return Interval(value, None, None)

    def of(places: NDArray[np.int64], axis: int = -1) -> Any:
        return statistic(*(array[..., places] for array in data), axis=axis)

    bytes_per_sample = sum(array.nbytes for array in data)
    batch = max(1, min(samples, MAX_SAMPLES_BYTES // bytes_per_sample))
    for method in ("BCa", "percentile"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # degenerate data: handled just below
            found = (
                _stats()
                .bootstrap(
                    (np.arange(num_documents),),
                    of,
                    n_resamples=samples,
                    batch=batch,
                    vectorized=True,
                    axis=-1,
                    confidence_level=CONFIDENCE,
                    method=method,
                    rng=np.random.default_rng(seed),
                )
                .confidence_interval
            )
        low, high = float(found.low), float(found.high)
        if math.isfinite(low) and math.isfinite(high):
            return Interval(value, low, high)
    return Interval(value, None, None)


def _stats() -> Any:
    try:
        from scipy import stats
    except ImportError as error:
        raise MissingExtra.of("scipy", "train", "an interval by bootstrap") from error
    return stats
