"""Witten and Bell's model of bytes: a baseline of `characters`.

The probability of a byte after the last k is mixed with that after the last k - 1 by how many
different bytes were seen there, down to all 256 alike (Bell, Cleary and Witten 1990, method C).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["ORDER", "bits_of_texts"]

ORDER = 6  # bytes of context; with the next they fit into 64 bits
Codes = NDArray[np.uint64]


def bits_of_texts(before: bytes, texts: Sequence[bytes]) -> NDArray[np.float64]:
    """Bits of each text by a model of the bytes of `before`; contexts begin anew with each text."""
    train = np.frombuffer(before, np.uint8)
    bits = np.zeros(len(texts))
    data = [np.frombuffer(text, np.uint8) for text in texts]
    chances = [np.full(len(text), 1 / 256) for text in data]
    for order in range(ORDER + 1):
        seen, counts = np.unique(_codes(train, order + 1), return_counts=True)
        contexts, first = np.unique(seen >> np.uint64(8), return_index=True)
        totals = np.add.reduceat(counts, first) if len(first) else counts
        kinds = np.diff([*first, len(seen)])
        for text, found in zip(data, chances, strict=True):
            if len(text) <= order:
                continue
            codes = _codes(text, order + 1)
            whole = _looked_up(seen, counts, codes)
            total = _looked_up(contexts, totals, codes >> np.uint64(8))
            kind = _looked_up(contexts, kinds, codes >> np.uint64(8))
            known = total > 0
            mine = found[order:]
            mixed = (whole + kind * mine) / np.maximum(total + kind, 1)
            found[order:] = np.where(known, mixed, mine)
    for place, found in enumerate(chances):
        bits[place] = -np.log2(found).sum()
    return bits


def _codes(data: NDArray[np.uint8], length: int) -> Codes:
    """Each run of `length` bytes as one number, the last byte lowest."""
    count = max(0, len(data) - length + 1)
    codes = np.zeros(count, np.uint64)
    for place in range(length):
        codes = (codes << np.uint64(8)) | data[place : place + count].astype(np.uint64)
    return codes


def _looked_up(keys: Codes, values: NDArray[np.int64], wanted: Codes) -> NDArray[np.float64]:
    """The values of these keys, 0 of those that are not there."""
    if not len(keys):
        return np.zeros(len(wanted))
    places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[places] == wanted, values[places], 0).astype(np.float64)
