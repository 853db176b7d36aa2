"""Degenerate repetition, in any language: one clause over and over, perhaps with changing ends.

Two scores see it: how far zlib level 1 shrinks the text, and the share of 30-byte windows that
occurred before. Prose stays far below both limits, in scripts with and without spaces.
"""

from __future__ import annotations

import zlib

from whorl.stages.prepare.shingles import repeated_share

__all__ = ["SHORT_BYTES", "is_repetitive", "zlib_ratio"]

SHORT_BYTES = 8192  # up to here the sampled windows are too few, so suspects are counted in full
SUSPECT_RATIO = 1.8  # with 40% of windows repeated a text shrinks at least so far
MIN_BYTES = 120  # shorter texts are too short to be called repetitive


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
        return ratio > SUSPECT_RATIO and repeated_share(data) > max_repeated_windows
    return sampled_share > max_repeated_windows
