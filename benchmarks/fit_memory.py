"""Fit the few constants of the memory model to published rows, on all sources and without each.

Sources weigh the same however many rows they have, but for small ones. A weak pull towards prior
values keeps constants that the remaining sources cannot tell apart where they were. Prints the
errors of rows by constants that have not seen their source, device or software, sets the intervals
by them and writes src/whorl/stages/plan/cluster/memory_constants.json:

    python benchmarks/fit_memory.py [--dry-run]
"""

from __future__ import annotations

import json
import math
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from whorl.stages.plan.cluster import memory
from whorl.stages.plan.cluster.job import TrainingJob, kinds_of
from whorl.stages.plan.cluster.memory import GIB, Kind, MemoryConstants
from whorl.stages.plan.cluster.memory_rows import counted_by, mildest_recompute
from whorl.stages.plan.cluster.rows import PublishedRow
from whorl.stages.plan.lab.rows import memory_rows

Array = NDArray[np.float64]
PACKAGE = Path(memory.__file__).parent
NAMES = ("context_gib", "group_gib", "kept_share", "slack_share")
# Fragmentation: traces without it come out 7-17% low; contexts of CUDA 11 with PyTorch's kernels.
PRIOR = MemoryConstants(context_gib=1.5, group_gib=0.5, kept_share=0.8, slack_share=0.12, error=0.1)
SCALE = {"context_gib": 1.0, "group_gib": 0.3, "kept_share": 0.3, "slack_share": 0.06}
PULL = 0.01  # loss of one scale away from the prior: one percent of error
COVERED = 0.9
SMALL_GROUP = 8  # rows under which a source, a device or a software counts for less


@dataclass(frozen=True)
class Peak:
    """A measured row, and what its ranks hold, counted once."""

    row: PublishedRow
    job: TrainingJob
    kind: Kind
    stages: list[dict[str, float]]

    def log_error(self, fitted: MemoryConstants) -> float:
        peaks = (memory.at_peak(self.job, raw, self.kind, fitted) for raw in self.stages)
        assert self.row.measured is not None
        return math.log(max(sum(parts.values()) for parts in peaks) / GIB / self.row.measured)


def peak_of(row: PublishedRow) -> Peak:
    assert row.job is not None
    job = mildest_recompute(row.job) if "recompute" in row.inferred else row.job
    kind, stage = counted_by(row.memory_kind)
    numbers = memory.end_stages(job) if stage is None else (stage,)
    return Peak(row, job, kind, [memory.stage_parts(job, number) for number in numbers])


def weights(groups: Sequence[str]) -> Array:
    """Of each row: groups count equally, small ones less."""
    size = Counter(groups)
    return np.array([min(1, size[name] / SMALL_GROUP) / size[name] for name in groups])


def fit(peaks: Sequence[Peak]) -> MemoryConstants:
    weight = weights([peak.row.source for peak in peaks])

    def loss(values: Sequence[float]) -> float:
        fitted = replace(PRIOR, **dict(zip(NAMES, map(float, values), strict=True)))
        pull = sum(
            ((v - getattr(PRIOR, n)) / SCALE[n]) ** 2 for n, v in zip(NAMES, values, strict=True)
        )
        outside = sum(max(0.0, -v) for v in values) + max(0.0, values[2] - 1)
        misses = np.array([abs(peak.log_error(fitted)) for peak in peaks])
        return float(weight @ misses / weight.sum() + PULL * pull + 10 * outside)

    start = [getattr(PRIOR, name) for name in NAMES]
    found = minimize(loss, start, method="Nelder-Mead", options={"maxiter": 100, "xatol": 2e-3})
    return replace(PRIOR, **{n: round(float(v), 3) for n, v in zip(NAMES, found.x, strict=True)})


def quantile(errors: Array, weight: Array, share: float = COVERED) -> float:
    """Relative size that holds `share` of the errors of logarithms by weight."""
    order = np.argsort(errors)
    held = np.cumsum(weight[order]) / weight.sum()
    return round(math.expm1(float(errors[order][np.searchsorted(held, share)])), 3)


def left_out(
    peaks: Sequence[Peak], groups: Sequence[str]
) -> tuple[dict[str, MemoryConstants], Array]:
    """(constants by group left out, |log error| of each row by those that left out its own)."""
    blind, error = {}, np.zeros(len(peaks))
    for name in dict.fromkeys(groups):
        blind[name] = fit([p for p, group in zip(peaks, groups, strict=True) if group != name])
        for index, peak in enumerate(peaks):
            if groups[index] == name:
                error[index] = abs(peak.log_error(blind[name]))
    return blind, error


def scores(error: Array, width: Array, weight: Array) -> dict[str, float]:
    inside = error <= np.log1p(width)
    return {
        "rows": len(error),
        "median_error": quantile(error, weight, 0.5),
        "p90_error": quantile(error, weight, 0.9),
        "inside": round(float(weight @ inside / weight.sum()), 4),
    }


def entry(fitted: MemoryConstants) -> dict[str, object]:
    return {**asdict(fitted), "seen": dict(fitted.seen)}


def main() -> None:
    rows = [row for row in memory_rows() if row.measured and not row.oom]
    peaks = [peak_of(row) for row in rows]
    moe = np.array([peak.job.shape.experts is not None for peak in peaks])
    kinds = [kinds_of(peak.job) for peak in peaks]
    groups = {
        "source": [row.source for row in rows],
        "device": [kind[0] for kind in kinds],
        "software": [kind[1] for kind in kinds],
    }
    weight = {name: weights(of) for name, of in groups.items()}
    blind, error = left_out(peaks, groups["source"])
    errors = {"source": error, "device": left_out(peaks, groups["device"])[1]}
    errors["software"] = left_out(peaks, groups["software"])[1]
    unseen = quantile(errors["software"], weight["software"])

    def half_width(rows_of: NDArray[np.bool_]) -> float:
        """Of their errors; wider the fewer sources they are of, which tell less of another."""
        of_sources = len(set(np.array(groups["source"])[rows_of].tolist()))
        width = quantile(error[rows_of], weight["source"][rows_of])
        return round(width * (1 + 1 / of_sources), 3)

    def complete(fitted: MemoryConstants, name: str | None = None) -> MemoryConstants:
        others = np.array([each != name for each in groups["source"]])
        seen = {}
        for kind in sorted(set(np.array(groups["software"])[others].tolist())):
            rows_of = others & (np.array(groups["software"]) == kind)
            of_sources = set(np.array(groups["source"])[rows_of].tolist())
            many = rows_of.sum() >= SMALL_GROUP and len(of_sources) > 1  # one source tells no other
            seen[kind] = half_width(rows_of) if many else 0.0
        return replace(
            fitted,
            error=half_width(others & ~moe),
            expert_error=half_width(others & moe),
            unseen_error=unseen,
            seen=tuple(seen.items()),
        )

    whole = complete(fit(peaks))
    named = {"all": whole} | {f"without {s}": complete(c, s) for s, c in sorted(blind.items())}
    usual = np.array([whole.error_of(peak.job) for peak in peaks])
    widths = {"device": usual, "software": np.maximum(unseen, usual)}
    widths["source"] = np.array(
        [named[f"without {peak.row.source}"].error_of(peak.job) for peak in peaks]
    )
    kept = {name: scores(errors[name], widths[name], weight[name]) for name in errors}
    text = json.dumps({"left_out": kept, "fits": {n: entry(c) for n, c in named.items()}}, indent=1)
    print(json.dumps(kept, indent=1))
    print(
        {name: getattr(whole, name) for name in (*NAMES, "error", "expert_error", "unseen_error")}
    )
    if "--dry-run" not in sys.argv:
        (PACKAGE / "memory_constants.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
