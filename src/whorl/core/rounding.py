"""How weights are rounded to fewer bits: what `compress` tries, and an exporter carries out.

Weights that share a scale are a group along a matrix's input; a smaller group loses less and takes
more bytes. Sources of the methods: AWQ 2306.00978, GPTQ 2210.17323.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from whorl.core.errors import SpecError

__all__ = ["WEIGHTS", "Guessing", "Method", "Rounding", "SmallWeights", "Speeds", "Texts"]

SmallWeights = Literal["int8", "int4"]
WEIGHTS: tuple[SmallWeights, ...] = get_args(SmallWeights)
Method = Literal["awq", "scales", "gptq"]
Texts = Sequence[Sequence[int]]  # ids of training documents, for methods that look at activations


@dataclass(frozen=True)
class Rounding:
    """methods: what corrects the rounding with calibration text; (): to the nearest."""

    weights: SmallWeights
    group_size: int | None = None  # weights that share a scale; None: a whole row
    is_symmetric: bool = True  # False: each group has a zero point too
    methods: tuple[Method, ...] = ()
    int4_share: float = 1.0  # of the weights in matrices; the most sensitive ones stay int8

    @classmethod
    def plain(cls, weights: str) -> Rounding:
        """What a format's bare name means. Raises SpecError if there is no such format."""
        if weights == "int8":
            return cls("int8")
        if weights == "int4":
            return cls("int4", 64)
        raise SpecError(f"there are no weights {weights}", expected=", ".join(WEIGHTS))

    @property
    def needs_text(self) -> bool:
        """Whether training text is read, to see what activations are like."""
        return bool(self.methods) or self.int4_share < 1.0

    def __str__(self) -> str:
        kind = "symmetric" if self.is_symmetric else "asymmetric"
        words = [kind, f"groups of {self.group_size}" if self.group_size else "whole rows"]
        words += ["+".join(self.methods)] if self.methods else []
        words += [f"{self.int4_share:.0%} of them"] if self.int4_share < 1.0 else []
        return f"{self.weights} {', '.join(words)}"


@dataclass(frozen=True)
class Guessing:
    """What guessed ids do to a variant's greedy answers on this machine, beside the same without.

    alone, together: times as many tokens per second, one request at a time and many at once.
    """

    guesses: int  # at a time
    ids_per_step: float  # alone; 1 without guesses
    alone: float
    together: float | None  # None: not measured, as it is no faster alone
    num_answers: int
    num_same: int  # of them, to the last id


@dataclass(frozen=True)
class Speeds:
    """What a variant does on this machine, in a process of its own, through its engine."""

    start_s: float  # from the start of the process until the first request can be sent
    peak_bytes: int  # resident in memory, the process with its libraries
    tokens_per_s: dict[int, float]  # generated, by the number of requests together
    machine: str = ""  # its identity
