"""Exact and near duplicates: found by digests and bands, near ones verified before they go.

Documents are judged in order of preference: first those a field fixed as held out (a published
test set stays whole), then the order in which they were read. A document goes if an earlier one
that stays equals it, or shares at least a given part of its windows (true Jaccard similarity).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from whorl.stages.prepare.shingles import jaccard

__all__ = ["Duplicates", "find_duplicates"]

KEPT_PER_GROUP = 8  # documents of one band that later ones are compared with
MAX_CANDIDATES = 16  # comparisons per document


@dataclass
class Duplicates:
    """Which documents go: [n] each, and how the near ones were found."""

    exact: NDArray[np.bool_]
    near: NDArray[np.bool_]
    pairs_verified: int = 0
    pairs_refused: int = 0  # met in a band, but are not alike enough
    pairs_skipped: int = 0  # beyond the limits above
    copies: dict[int, int] = field(default_factory=dict)  # near duplicate -> the one that stays


def find_duplicates(
    digests: NDArray[np.void],
    bands: NDArray[np.uint64],
    has_windows: NDArray[np.bool_],
    preferred: NDArray[np.bool_],
    min_jaccard: float,
    windows_of: Callable[[int], NDArray[np.uint64]],
) -> Duplicates:
    """digests: fixed-width bytes [n]; bands: [n, B]; preferred: judged before the others.

    windows_of gives the distinct windows of a document for the verification.
    """
    judged = np.argsort(~preferred, kind="stable")
    result = Duplicates(np.zeros(len(digests), np.bool_), np.zeros(len(digests), np.bool_))
    _, first = np.unique(digests[judged], return_index=True)
    result.exact[:] = True
    result.exact[judged[first]] = False
    groups = _groups(bands, has_windows & ~result.exact)
    members: dict[int, list[int]] = {}
    for number in judged[(groups[judged] >= 0).any(axis=1)].tolist():
        mine = [int(group) for group in groups[number] if group >= 0]
        copy_of = _verified(number, mine, members, min_jaccard, windows_of, result)
        if copy_of is not None:
            result.near[number] = True
            result.copies[number] = copy_of
            continue
        for group in mine:
            kept = members.setdefault(group, [])
            if len(kept) < KEPT_PER_GROUP:
                kept.append(number)
            else:
                result.pairs_skipped += 1
    return result


def _groups(bands: NDArray[np.uint64], taken: NDArray[np.bool_]) -> NDArray[np.int64]:
    """For each document and band the group of equal values it is in; -1 if it is alone: [n, B]."""
    groups = np.full(bands.shape, -1, np.int64)
    numbers = np.flatnonzero(taken)
    next_group = 0
    for band in range(bands.shape[1] if len(numbers) else 0):
        values = bands[numbers, band]
        _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
        shared = counts[inverse] > 1
        groups[numbers[shared], band] = inverse[shared] + next_group
        next_group += len(counts)
    return groups


def _verified(
    number: int,
    mine: list[int],
    members: dict[int, list[int]],
    min_jaccard: float,
    windows_of: Callable[[int], NDArray[np.uint64]],
    result: Duplicates,
) -> int | None:
    """The document that stays and is alike, most shared bands first, then the earliest."""
    shared: dict[int, int] = {}  # in the order of judging within a band
    for group in mine:
        for other in members.get(group, ()):
            shared[other] = shared.get(other, 0) + 1
    candidates = sorted(shared, key=lambda other: (-shared[other], other))
    result.pairs_skipped += max(0, len(candidates) - MAX_CANDIDATES)
    own = windows_of(number) if candidates else None
    for other in candidates[:MAX_CANDIDATES]:
        assert own is not None
        if jaccard(own, windows_of(other)) >= min_jaccard:
            result.pairs_verified += 1
            return other
        result.pairs_refused += 1
    return None
