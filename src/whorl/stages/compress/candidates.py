"""What compress tries of each format, cheapest first, and which of it is kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from whorl.core.rounding import Guessing, Rounding, SmallWeights
from whorl.core.units import format_bytes

__all__ = ["Tried", "candidates_of", "choose", "choose_guesses", "is_beaten"]

GROUPS = (128, 64, 32)  # weights that share a scale
FASTER, AS_FAST = 1.05, 0.97  # times as fast: what a clock can tell apart, answers interleaved
NEAR = 1.05  # times the smallest: a candidate of so many bytes is as small, for its quality's sake


@dataclass(frozen=True)
class Tried:
    """A candidate that was measured. loss: the worst of all fields, as a share of the parent's."""

    how: Rounding
    num_bytes: int
    loss: float
    is_allowed: bool


def candidates_of(weights: SmallWeights, search: str) -> list[Rounding]:
    """search: "off" (the format's plain form), "fast" (rounding to the nearest), "full"."""
    if search == "off":
        return [Rounding.plain(weights)]
    if weights == "int8":
        return [Rounding("int8"), Rounding("int8", is_symmetric=False)]
    nearest = [Rounding("int4", size, kind) for size, kind in product(GROUPS, (True, False))]
    return nearest if search == "fast" else nearest + _with_text()


def _with_text() -> list[Rounding]:
    """int4 that looks at activations of training text; the most promising first, as time may end.

    Of SmolLM2 taught intents, scales halved what rounding to the nearest lost, and AWQ before
    them changed nothing (1 December 2026).
    """
    return [
        Rounding("int4", 64, False, ("scales",)),
        Rounding("int4", 32, True, ("scales",)),
        Rounding("int4", 64, False, ("scales",), int4_share=0.8),
        Rounding("int4", 64, False, ("scales",), int4_share=0.6),
        Rounding("int4", 64, True, ("awq", "scales")),
        Rounding("int4", 128, False, ("awq", "scales")),
        Rounding("int4", 64, True, ("gptq",)),
    ]


def is_beaten(one: Tried, by: Tried) -> bool:
    """Whether another is at least as small and as good, and not the same in both."""
    better = by.num_bytes < one.num_bytes or by.loss < one.loss
    return by.num_bytes <= one.num_bytes and by.loss <= one.loss and better


def choose(tried: Sequence[Tried]) -> tuple[Tried, str] | None:
    """The one that is kept, and why; None if none is allowed.

    Sizes and losses decide, which are the same on every machine; speeds are not.
    """
    allowed = [each for each in tried if each.is_allowed]
    if not allowed:
        return None
    least = min(each.num_bytes for each in allowed)
    near = [each for each in allowed if each.num_bytes <= NEAR * least]
    best = min(near, key=lambda each: (each.loss, each.num_bytes))  # one that none beats
    why = f"of {len(tried)} tried, {len(allowed)} within the limit"
    if len(tried) > 1:
        why += (
            f"; the least loss of the {len(near)} at most {NEAR - 1:.0%} larger than the smallest "
            f"({format_bytes(least)})"
        )
    return best, why


def choose_guesses(tried: Sequence[Guessing]) -> tuple[int, str]:
    """How many ids are guessed at a time, 0 if none should be, and why in words.

    Those with which one request alone is answered fastest, if that is faster than without, many
    together are not slower, and every answer is the same.
    """
    faster = [each for each in tried if each.alone >= FASTER]
    if not faster:
        return 0, "no faster with prompt lookup here"
    same = [each for each in faster if each.num_same == each.num_answers]
    if not same:
        return 0, "other answers with prompt lookup"
    kept = [each for each in same if each.together is not None and each.together >= AS_FAST]
    if not kept:
        return 0, "many requests together are slower with prompt lookup here"
    best = max(kept, key=lambda each: each.alone)
    return best.guesses, "faster so here where a request runs alone"
