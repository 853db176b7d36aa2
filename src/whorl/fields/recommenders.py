"""What usual recommenders make of histories: the baselines of `interactions`.

Each gives scores of all items [num_items] for one history: places of items in the order of time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["History", "recommenders"]

LAST = 10  # items whose neighbours are added up
EASE_WEIGHT = 100.0  # of the squares of its matrix
MAX_ITEMS = 6_000  # of which dense matrices of pairs are made, 300 MB each
POPULARITY_SHARE = 1e-6  # orders what is scored alike otherwise

Floats = NDArray[np.float64]
History = Sequence[int]


def recommenders(
    histories: Sequence[History], num_items: int
) -> Iterator[tuple[str, Callable[[History], Floats]]]:
    """(name, scores of a history) of each; those with a matrix of pairs up to MAX_ITEMS items.

    Sources: Sarwar et al. 2001 (neighbours); Steck, "Embarrassingly shallow autoencoders", 2019.
    """
    popularity = np.bincount(
        np.concatenate([np.asarray(h, np.int64) for h in histories]), minlength=num_items
    )
    counts = popularity.astype(np.float64)
    yield "popularity", lambda history: counts
    if num_items > MAX_ITEMS:
        return
    together, follows = np.zeros((num_items, num_items)), np.zeros((num_items, num_items))
    for history in histories:  # of distinct items
        together[np.ix_(history, history)] += 1
        follows[history[:-1], history[1:]] += 1
    norms = np.sqrt(np.maximum(1, np.diag(together)))
    cosine = together / np.outer(norms, norms)
    np.fill_diagonal(cosine, 0)
    yield f"item neighbours of the last {LAST}", lambda history: _sum_of(cosine, history[-LAST:])
    inverse = np.linalg.inv(together + EASE_WEIGHT * np.eye(num_items))
    ease = -inverse / np.diag(inverse)
    np.fill_diagonal(ease, 0)
    yield f"EASE({EASE_WEIGHT:.0f})", lambda history: _sum_of(ease, history)
    yield "Markov chain", lambda history: follows[history[-1]] + POPULARITY_SHARE * counts


def _sum_of(matrix: Floats, history: History) -> Floats:
    """Rows of the items of a history added up."""
    total: Floats = matrix[list(history)].sum(axis=0)
    return total
