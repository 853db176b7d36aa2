"""Scores of parts of a field: of each direction of a translation, of each level of a world."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from whorl.core.intervals import interval_of
from whorl.core.ports import QualityMeasure, Score

__all__ = ["scores_by_group"]

MOST_GROUPS = 40  # more would be no table that anybody reads


def scores_by_group(
    field: str,
    group_of: Callable[[str], str] | None,
    scores: Sequence[Score],
    *,
    samples: int,
    seed: int,
) -> list[dict[str, Any]]:
    """Every score that is known per document, of each group of documents by itself, with intervals.

    group_of: a document's name to its group's; None, one group alone or more than 40: nothing.
    """
    if group_of is None:
        return []
    measures = [(each.name, each.measure) for each in scores if each.measure is not None]
    groups = sorted({group_of(name) for _, found in measures for name in found.document_names})
    if not 1 < len(groups) <= MOST_GROUPS:
        return []
    rows = []
    for name, found in measures:
        mine = np.array([group_of(document) for document in found.document_names])
        for group in groups:
            if not (kept := np.flatnonzero(mine == group)).size:
                continue
            part = QualityMeasure(
                found.metric,
                tuple(found.document_names[i] for i in kept),
                found.numerator[kept],
                found.denominator[kept],
            )
            interval = interval_of(part, samples=samples, seed=seed)
            rows.append(
                {
                    **{"field": field, "group": group, "name": name},
                    **{"metric": found.metric.name, "num_documents": len(kept)},
                    **{"value": interval.value, "low": interval.low, "high": interval.high},
                }
            )
    return rows
