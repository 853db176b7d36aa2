"""How often to checkpoint, and where the time of a job with failures goes.

Failures strike at random (exponential times, mean M), during restarts as well. A checkpoint stops
training for `stall_s`; it can be loaded `write_s` after the stall ends (0 when training waits for
the write).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from whorl.core.errors import SpecError

__all__ = ["TimeShares", "check_positive", "daly_interval_s", "time_shares", "young_interval_s"]

LARGEST_EXPONENT = 500.0  # of e, in floating point


@dataclass(frozen=True)
class TimeShares:
    """Shares of the wall time, summing to 1."""

    useful: float  # goodput
    checkpoint: float  # stalls of checkpoints that lasted
    lost: float  # work and stalls done again
    restart: float  # failing, noticing, starting and loading


def young_interval_s(stall_s: float, mtbf_s: float) -> float:
    """Training time between checkpoints that loses least. Source: Young 1974, equation 2."""
    check_positive(stall_s=stall_s, mtbf_s=mtbf_s)
    return math.sqrt(2 * stall_s * mtbf_s)


def daly_interval_s(stall_s: float, mtbf_s: float) -> float:
    """Higher-order optimum, also good when failures are frequent.

    Source: Daly 2006, A higher order estimate of the optimum checkpoint interval for restart
    dumps, equation 37.
    """
    check_positive(stall_s=stall_s, mtbf_s=mtbf_s)
    if stall_s >= 2 * mtbf_s:
        return mtbf_s
    ratio = stall_s / (2 * mtbf_s)
    return math.sqrt(2 * stall_s * mtbf_s) * (1 + math.sqrt(ratio) / 3 + ratio / 9) - stall_s


def time_shares(
    mtbf_s: float, interval_s: float, stall_s: float, restart_s: float, write_s: float = 0.0
) -> TimeShares:
    """Where the time goes in the long run. mtbf_s: of the whole job; interval_s: of training.

    With write_s = 0 the useful share is that of Daly 2006, equation 20. In general, between two
    failures (mean M) the segments of s = interval + stall that can be loaded number
    e^(-write/M) / (e^(s/M) - 1), and a restart that may itself fail takes M (e^(R/M) - 1).
    """
    check_positive(mtbf_s=mtbf_s, interval_s=interval_s)
    if min(stall_s, restart_s, write_s) < 0:
        raise SpecError("a time is negative", found=(stall_s, restart_s, write_s), expected=">= 0")
    segment_s = interval_s + stall_s
    if write_s > segment_s * (1 + 1e-9):
        raise SpecError(
            "a checkpoint begins before the last one is written",
            found=f"{segment_s:.1f} s between them, {write_s:.1f} s to write",
            do="use a longer interval or faster storage",
        )
    if max(segment_s + write_s, restart_s) > LARGEST_EXPONENT * mtbf_s:
        return TimeShares(useful=0.0, checkpoint=0.0, lost=0.0, restart=1.0)
    segments = math.exp(-write_s / mtbf_s) / math.expm1(segment_s / mtbf_s)
    cycle_s = mtbf_s * math.exp(restart_s / mtbf_s)
    return TimeShares(
        useful=segments * interval_s / cycle_s,
        checkpoint=segments * stall_s / cycle_s,
        lost=max(0.0, mtbf_s - segments * segment_s) / cycle_s,
        restart=1 - mtbf_s / cycle_s,
    )


def check_positive(**values: float) -> None:
    for name, value in values.items():
        if not 0 < value < math.inf:
            raise SpecError(name, found=value, expected="more than 0, and finite")
