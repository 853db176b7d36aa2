"""Degenerate repetition, in any language: one clause over and over, perhaps with changing ends.

Texts come as `comparable.letters`. A text goes if zlib level 1 shrinks it too much, or if it is
stale: 24-byte windows of it occurred before in it, and it says next to nothing beside them.
Much that is worth reading repeats itself as much, but goes on: verse with a refrain, a canon that
says one formula of a hundred things, statutes, tables, logs.
"""

from __future__ import annotations

import zlib

import numpy as np
from numpy.typing import NDArray

from whorl.stages.prepare.shingles import WINDOW_BYTES, repeated_share, repeated_windows

__all__ = ["SHORT_BYTES", "is_repetitive", "is_stale", "zlib_ratio"]

SHORT_BYTES = 8192  # up to here the sampled windows are too few, so suspects are counted in full
SUSPECT_RATIO = 2.8  # a clause that comes five times shrinks further
SUSPECT_SHARE = 0.4  # of a long text's windows: of a clause that goes on so long, nearly all are
MIN_BYTES = 120  # shorter texts are too short to be called repetitive

# Of a megabyte of the Tibetan canon's most formulaic volume 23 blocks in 100 are above 0.98, of
# a clause said 2,000 times with ten last verbs all but two.
BLOCK_BYTES = 2048
STALE_BLOCK = 0.98  # of a block's letters said before: it says nothing new
STALE_BEGINNING = 0.9  # of the first block's, before which there is nothing to repeat
STALE_CLAUSES = 0.7  # of a short text's, if all that is new in it are words
MAX_WORD_BYTES = 16


def zlib_ratio(data: bytes) -> float:
    """Bytes of the text over its bytes compressed at level 1."""
    return len(data) / max(1, len(zlib.compress(data, 1)))


def is_repetitive(
    data: bytes, sampled_share: float, max_ratio: float, max_repeated_windows: float
) -> bool:
    """Whether a text goes. sampled_share: of repeated windows, from its sketch."""
    if len(data) < MIN_BYTES:
        return False
    ratio = zlib_ratio(data)
    if ratio > max_ratio:
        return True
    if len(data) <= SHORT_BYTES:
        is_suspect = ratio > SUSPECT_RATIO and repeated_share(data) > max_repeated_windows
    else:
        is_suspect = sampled_share > max(SUSPECT_SHARE, max_repeated_windows)
    return is_suspect and is_stale(data)


def is_stale(data: bytes) -> bool:
    """Whether most of a text says nothing new, judged block by block."""
    said = _said_before(data)
    blocks = np.array_split(said, max(1, len(data) // BLOCK_BYTES))
    shares = np.array([block.mean() for block in blocks])
    stale = shares > STALE_BLOCK
    stale[0] = shares[0] > STALE_BEGINNING
    if len(blocks) == 1 and shares[0] > STALE_CLAUSES:
        stale[0] |= _longest_new(said) < MAX_WORD_BYTES
    return bool(stale.mean() > 0.5)


def _said_before(data: bytes) -> NDArray[np.bool_]:
    """Which bytes of a text lie in a window that occurred before."""
    starts = np.flatnonzero(repeated_windows(data))
    steps = np.zeros(len(data) + 1, np.int64)
    steps[starts] += 1
    steps[starts + WINDOW_BYTES] -= 1
    return np.cumsum(steps[:-1]) > 0


def _longest_new(said: NDArray[np.bool_]) -> int:
    """The longest run of new bytes between bytes that were said before; 0 if there is none."""
    places = np.flatnonzero(said)
    return int(np.diff(places).max(initial=1)) - 1
