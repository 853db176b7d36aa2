"""Held-out bits per byte of a model that is not trained yet, from a law fitted on our own runs.

    bpb = (x / x0)^gamma * (E + K * (N / N0)^-a * (D' / D0 + s)^-(b + i ln(N / N0)) + O * R^p)

N: parameters without embeddings; D: bytes of text trained on; x: what xz makes of a sample of the
text, bits per byte; N0, D0, x0: fixed references; s keeps the first steps finite. The product says
that size matters more the more is read: models of 0.1 and 0.9 million parameters are 3% apart
after a megabyte of code and 16 to 31% after ten, which no sum of two power laws fits. With U unique
bytes, R = D / U - 1 is how often the text is repeated: D' = U + U * r * (1 - exp(-R / r)) discounts
what is seen again (Muennighoff et al. 2023, 2305.16264, equation 5), and O * R^p is overfitting,
which shows after few passes.

Published laws are fitted on models 100 to 100,000 times as large. Runs, constants and how they
were fitted are in published/: see its README and benchmarks/fit_law.py.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from whorl.core.digests import digest_value
from whorl.stages.plan.facts import data_file
from whorl.stages.plan.laws.law import around
from whorl.stages.plan.plan import Prediction

__all__ = [
    "CONSTANTS",
    "D0",
    "N0",
    "X0",
    "Law",
    "LawPoint",
    "bits_per_byte",
    "shipped_law",
]

# The constants' order in a vector; those of a scale are kept as logarithms.
CONSTANTS = ("log_e", "log_k", "size", "data", "both", "gamma", "log_r", "log_o", "power", "log_s")
N0, D0, X0 = 1e6, 1e6, 1.4
AXIS_WEIGHTS = np.array([1.0, 1.0, 1.0, 4.0])
NEAR_OCTAVES, DEVIATION_PER_OCTAVE = 1.0, 0.03


class LawPoint(BaseModel):
    """What the law asks of a run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    parameters: int = Field(description="without embeddings")
    trained_bytes: float
    unique_bytes: float
    xz_bits_per_byte: float


class Law(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    fitted_at: str
    num_runs: int
    constants: tuple[float, ...] = Field(description=", ".join(CONSTANTS))
    bootstrap: tuple[tuple[float, ...], ...] = Field(description="constants of resampled runs")
    residual: float = Field(description="log deviation of the runs from the law")
    leave_one_size_out: float = Field(description="mean relative error on a size left out")
    runs: tuple[LawPoint, ...] = Field(description="where the law was fitted")

    @property
    def digest(self) -> str:
        return digest_value(self.model_dump(mode="json"))[:32]

    def value(self, point: LawPoint) -> float:
        """Bits per byte, the middle."""
        return float(bits_per_byte(np.array(self.constants), *_columns(point)))

    def predict(self, point: LawPoint) -> Prediction:
        """Bits per byte with a 90% interval: of the constants, of single runs, and of distance."""
        value = self.value(point)
        draws = [float(bits_per_byte(np.array(c), *_columns(point))) for c in self.bootstrap]
        of_constants = float(np.std(np.log(draws))) if len(draws) > 1 else 0.0
        distance = self.distance(point)
        reach = DEVIATION_PER_OCTAVE * distance
        deviation = math.sqrt(of_constants**2 + self.residual**2 + reach**2)
        note = f"{self.name}, {self.num_runs} runs"
        if distance > NEAR_OCTAVES:
            note += f"; {distance:.1f} octaves from the nearest"
        return around(value, deviation, "bits/byte", note)

    def distance(self, point: LawPoint) -> float:
        """Octaves from a point to the nearest run: of size, of text, of passes, of its xz twice."""
        differences = np.log2(_axes(point) / np.array([_axes(run) for run in self.runs]))
        return float(np.sqrt((differences**2 * AXIS_WEIGHTS).sum(axis=1)).min())


def _axes(point: LawPoint) -> NDArray[np.float64]:
    passes = max(1.0, point.trained_bytes / point.unique_bytes)
    return np.array([point.parameters, point.trained_bytes, passes, point.xz_bits_per_byte])


def bits_per_byte(
    constants: NDArray[np.float64],
    parameters: Any,
    trained_bytes: Any,
    unique_bytes: Any,
    xz_bits_per_byte: Any,
) -> Any:
    """The formula; scalars or arrays of one shape."""
    log_e, log_k, size, data, both, gamma, log_r, log_o, power, log_s = constants
    unique = np.minimum(unique_bytes, trained_bytes)
    repetitions = np.maximum(trained_bytes / unique - 1, 0.0)
    half_life = np.exp(log_r)
    effective = unique * (1 + half_life * (1 - np.exp(-repetitions / half_life)))
    log_n, log_d = np.log(parameters / N0), np.log(effective / D0 + np.exp(log_s))
    learned = np.exp(log_k - size * log_n - np.maximum(0.0, data + both * log_n) * log_d)
    overfitting = np.exp(log_o) * repetitions**power
    return (xz_bits_per_byte / X0) ** gamma * (np.exp(log_e) + learned + overfitting)


@cache
def shipped_law() -> Law:
    """The law of published/law.json."""
    return Law.model_validate(data_file("published/law.json"))


def _columns(point: LawPoint) -> tuple[float, float, float, float]:
    return (
        float(point.parameters),
        point.trained_bytes,
        point.unique_bytes,
        point.xz_bits_per_byte,
    )
