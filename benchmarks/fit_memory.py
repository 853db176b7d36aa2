"""Fit the few constants of the memory model to published rows, on all sources and without each.

Each source weighs the same however many rows it has. A weak pull towards prior values keeps
constants that the remaining sources cannot tell apart where they were. Writes
src/whorl/stages/plan/cluster/memory_constants.json and prints the error by source, each source
predicted by constants that have not seen it:

    python benchmarks/fit_memory.py [--dry-run]
"""

from __future__ import annotations

import json
import math
import statistics
import sys
from collections import defaultdict
from dataclasses import asdict, replace
from pathlib import Path

from scipy.optimize import minimize

from whorl.stages.plan.cluster import memory
from whorl.stages.plan.cluster.memory import GIB, MemoryConstants, fits, rank_memory
from whorl.stages.plan.cluster.memory_rows import counted_by
from whorl.stages.plan.cluster.rows import PublishedRow, read_rows

PACKAGE = Path(memory.__file__).parent
ROWS = PACKAGE / "published" / "train_memory.csv"
NAMES = ("context_gib", "group_gib", "kept_share", "slack_share")
# Fragmentation: traces without it come out 7-17% low; contexts of CUDA 11 with PyTorch's kernels.
PRIOR = MemoryConstants(context_gib=1.5, group_gib=0.5, kept_share=0.8, slack_share=0.12, error=0.1)
SCALE = {"context_gib": 1.0, "group_gib": 0.3, "kept_share": 0.3, "slack_share": 0.06}
PULL = 0.01  # loss of one scale away from the prior: one percent of error
COVERED = 0.9

Rows = dict[str, list[PublishedRow]]


def predicted_gib(row: PublishedRow, fitted: MemoryConstants) -> float:
    assert row.job is not None
    kind, stage = counted_by(row.memory_kind)
    return rank_memory(row.job, kind, fitted, stage).peak_bytes / GIB


def log_error(row: PublishedRow, fitted: MemoryConstants) -> float:
    assert row.measured is not None
    return math.log(predicted_gib(row, fitted) / row.measured)


def loss(values: list[float], rows: Rows) -> float:
    fitted = replace(PRIOR, **dict(zip(NAMES, values, strict=True)))
    pull = sum(
        ((v - getattr(PRIOR, n)) / SCALE[n]) ** 2 for n, v in zip(NAMES, values, strict=True)
    )
    outside = sum(max(0.0, -v) for v in values) + max(0.0, values[2] - 1)
    misses = [statistics.fmean(abs(log_error(r, fitted)) for r in group) for group in rows.values()]
    return statistics.fmean(misses) + PULL * pull + 10 * outside


def fit(rows: Rows) -> MemoryConstants:
    start = [getattr(PRIOR, name) for name in NAMES]
    found = minimize(
        loss, start, args=(rows,), method="Nelder-Mead", options={"maxiter": 150, "xatol": 1e-3}
    )
    return replace(PRIOR, **{n: round(float(v), 3) for n, v in zip(NAMES, found.x, strict=True)})


def width(rows: Rows, fitted: dict[str, MemoryConstants]) -> float:
    """Half-width that holds the share COVERED of the rows, each by constants blind to it."""
    errors = sorted(abs(log_error(r, fitted[source])) for source in rows for r in rows[source])
    return round(math.expm1(errors[min(len(errors) - 1, math.ceil(COVERED * len(errors)) - 1)]), 3)


def main() -> None:
    rows: Rows = defaultdict(list)
    oom = []
    for row in read_rows(ROWS):
        if row.job is not None and row.measured is not None:
            rows[row.source].append(row)
        elif row.oom:
            oom.append(row)
    blind = {source: fit({s: g for s, g in rows.items() if s != source}) for source in rows}
    everything = replace(fit(rows), error=width(rows, blind))
    for source in rows:
        others = {s: group for s, group in rows.items() if s != source}
        blind[source] = replace(blind[source], error=width(others, blind))
    print_table(rows, oom, blind)
    named = {"all": everything} | {f"without {s}": c for s, c in sorted(blind.items())}
    text = json.dumps({"fits": {name: asdict(c) for name, c in named.items()}}, indent=1)
    print(text)
    if "--dry-run" not in sys.argv:
        (PACKAGE / "memory_constants.json").write_text(text + "\n", encoding="utf-8")


def print_table(rows: Rows, oom: list[PublishedRow], blind: dict[str, MemoryConstants]) -> None:
    print("source rows median_error bias worst(row) covered unfit not_refused_at_0.8")
    covered = 0
    for source, group in rows.items():
        fitted = blind[source]
        errors = {row.id: math.expm1(log_error(row, fitted)) for row in group}
        inside = [r for r in group if abs(log_error(r, fitted)) <= math.log1p(fitted.error)]
        covered += len(inside)
        unfit = [r.id for r in group if not fits(r.job, fitted=fitted)]
        tight = [r.id for r in group if fits(r.job, 0.8 * r.measured * GIB, fitted)]
        worst = max(errors, key=lambda name: abs(errors[name]))
        print(
            source,
            len(group),
            f"{statistics.median(map(abs, errors.values())):.1%}",
            f"{statistics.median(errors.values()):+.1%}",
            f"{errors[worst]:+.1%} ({worst})",
            f"{len(inside)}/{len(group)}",
            unfit,
            tight,
        )
    total = sum(map(len, rows.values()))
    fitting = [row.id for row in oom if fits(row.job, fitted=blind.get(row.source))]
    print(f"covered {covered / total:.0%} of {total}; out-of-memory rows that fit: {fitting}")


if __name__ == "__main__":
    main()
