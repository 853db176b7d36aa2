"""How often devices stop a job: published counts, and the rate to expect on another cluster."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist

from whorl.core.errors import SpecError
from whorl.stages.plan.facts import data_file

__all__ = ["FailureFact", "FailureRate", "expected_rate", "failure_facts", "poisson_interval"]

COVERAGE = 0.9


@dataclass(frozen=True)
class FailureFact:
    """Failures that stopped a job, counted by someone who published the count."""

    name: str
    kind: str  # gpu: per accelerator; cpu: per server
    device: str
    failures: int
    device_hours: float
    pooled: bool  # False: the count or the exposure is a bound only
    source: str
    how: str

    @property
    def per_device_hour(self) -> float:
        return self.failures / self.device_hours


@dataclass(frozen=True)
class FailureRate:
    """Failures per device and hour, with the interval in which a new cluster should lie."""

    per_device_hour: float
    low: float
    high: float
    sources: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.per_device_hour <= self.high < math.inf:
            raise SpecError(
                "failures per device and hour",
                found=(self.low, self.per_device_hour, self.high),
                expected="0 <= low <= rate <= high",
            )


@cache
def failure_facts() -> tuple[FailureFact, ...]:
    """Every published count, pooled or not."""
    return tuple(FailureFact(**entry) for entry in data_file("whole_job/failures.json")["facts"])


def poisson_interval(failures: int, coverage: float = COVERAGE) -> tuple[float, float]:
    """Exact interval of a Poisson mean of which one count was seen.

    Source: Garwood 1936, with the chi-square quantiles of Wilson and Hilferty 1931 (within 0.5%
    from 15 failures on, 6% from 4).
    """
    if failures < 0 or not 0 < coverage < 1:
        raise SpecError("a count and a coverage", found=(failures, coverage), expected=">= 0, 0..1")
    tail = (1 - coverage) / 2
    low = _chi_square(tail, 2 * failures) / 2 if failures else 0.0
    return low, _chi_square(1 - tail, 2 * failures + 2) / 2


def expected_rate(kind: str, facts: Sequence[FailureFact] | None = None) -> FailureRate:
    """Rate of a cluster not yet seen, from the pooled facts of its kind (tpu: those of gpu).

    Clusters differ by more than chance: log rates are pooled with random effects (DerSimonian
    and Laird 1986) and the interval is the one for a new cluster (Higgins et al. 2009), 90%.
    One fact alone gives its Poisson interval. Raises SpecError if no fact is of this kind.
    """
    wanted = "gpu" if kind == "tpu" else kind
    pool = [f for f in facts or failure_facts() if f.pooled and f.kind == wanted and f.failures > 0]
    if not pool:
        raise SpecError("no failure counts of this kind of device", found=kind)
    sources = tuple(f"{fact.name}: {fact.source}" for fact in pool)
    if len(pool) < 3:
        fact = max(pool, key=lambda item: item.failures)
        low, high = (bound / fact.device_hours for bound in poisson_interval(fact.failures))
        return FailureRate(fact.per_device_hour, low, high, sources)
    logs = [math.log(fact.per_device_hour) for fact in pool]
    precisions = [float(fact.failures) for fact in pool]  # 1 / variance of a log Poisson rate
    total = sum(precisions)
    centre = sum(w * x for w, x in zip(precisions, logs, strict=True)) / total
    spread = sum(w * (x - centre) ** 2 for w, x in zip(precisions, logs, strict=True))
    scale = total - sum(w * w for w in precisions) / total
    between = max(0.0, (spread - (len(pool) - 1)) / scale)
    weights = [1 / (1 / w + between) for w in precisions]
    mean = sum(w * x for w, x in zip(weights, logs, strict=True)) / sum(weights)
    error = math.sqrt(between + 1 / sum(weights))
    reach = _student(1 - (1 - COVERAGE) / 2, len(pool) - 2) * error
    rates = (math.exp(mean), math.exp(mean - reach), math.exp(mean + reach))
    return FailureRate(*rates, sources)


def _chi_square(probability: float, degrees: int) -> float:
    z, part = NormalDist().inv_cdf(probability), 2 / (9 * degrees)
    return float(degrees * (1 - part + z * math.sqrt(part)) ** 3)


def _student(probability: float, degrees: int) -> float:
    """Quantile of Student's t; Cornish-Fisher series, Abramowitz and Stegun 26.7.5."""
    z = NormalDist().inv_cdf(probability)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return float(z + sum(term / degrees ** (i + 1) for i, term in enumerate(terms)))
