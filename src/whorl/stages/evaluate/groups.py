"""Scores of parts of a field: of each direction of a translation, of each level of a world."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from whorl.core.intervals import interval_of
from whorl.core.measures import measure_of_some
from whorl.core.ports import Score

__all__ = ["scores_by_group"]

MOST_GROUPS = 40  # of a table that anybody reads


def scores_by_group(
    field: str,
    group_of: Callable[[str], str] | None,
    scores: Sequence[Score],
    *,
    samples: int,
    seed: int,
) -> list[dict[str, Any]]:
    """Every score that is known per document, of each group of documents by itself, with intervals.

    group_of: a document's name to its group's, "": it is of none. None, or all documents of one:
    nothing. Of more than 40 groups the smallest are told as one, the last.
    """
    if group_of is None:
        return []
    measures = [(each.name, each.measure) for each in scores if each.measure is not None]
    names = {name for _, found in measures for name in found.document_names}
    group_by_name = {name: group_of(name) for name in names}
    if len({*group_by_name.values()}) < 2:
        return []
    shown = _shown(group_by_name.values())
    rows = []
    for name, found in measures:
        mine = np.array([shown.get(group_by_name[each], "") for each in found.document_names])
        for group in dict.fromkeys(shown.values()):
            if not (kept := np.flatnonzero(mine == group)).size:
                continue
            interval = interval_of(measure_of_some(found, kept), samples=samples, seed=seed)
            rows.append(
                {
                    **{"field": field, "group": group, "name": name},
                    **{"metric": found.metric.name, "num_documents": len(kept)},
                    **{"value": interval.value, "low": interval.low, "high": interval.high},
                }
            )
    return rows


def _shown(groups: Iterable[str]) -> dict[str, str]:
    """Each group's name in the table, in its order. groups: one of each document."""
    counts = Counter(group for group in groups if group)
    if len(counts) <= MOST_GROUPS:
        return {group: group for group in sorted(counts)}
    largest = sorted(counts, key=lambda group: (-counts[group], group))
    kept, left = sorted(largest[: MOST_GROUPS - 1]), largest[MOST_GROUPS - 1 :]
    rest = f"the other {len(left)}"
    return {**{group: group for group in kept}, **dict.fromkeys(left, rest)}
