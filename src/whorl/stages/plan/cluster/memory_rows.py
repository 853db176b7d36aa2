"""Published rows of memory: what their tool counted, our prediction of it, and what that tells of
a row of time that leaves something out."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from whorl.stages.plan.cluster.devices import GIB
from whorl.stages.plan.cluster.job import TrainingJob
from whorl.stages.plan.cluster.memory import (
    Kind,
    MemoryConstants,
    constants,
    fits,
    needed_for,
    rank_memory,
)
from whorl.stages.plan.cluster.rows import PublishedRow

__all__ = [
    "VERDICTS",
    "completed",
    "counted_by",
    "mildest_recompute",
    "predict_row_memory",
    "predict_row_oom",
    "verdict",
]

MOST_SEQUENCES = 16
VERDICTS = ("fits", "may not fit", "does not fit")

# What a field that a row does not state adds to the 90% interval, in logarithms.
WIDENING = {"micro_batch": 0.4, "recompute": 0.2, "shard": 0.1}
RECOMPUTES: tuple[dict[str, Any], ...] = (  # fields of Layout, the mildest first
    {"recompute": "none", "recompute_parts": ()},
    {"recompute": "selective", "recompute_parts": ("layernorm", "mlp", "moe_act")},
    {"recompute": "full", "recompute_parts": ()},
)


def mildest_recompute(job: TrainingJob, fitted: MemoryConstants | None = None) -> TrainingJob:
    """The job with as little recomputation as lets it fit; its own when nothing does.

    What to assume of a run that does not say whether it recomputes.
    """
    tried = (replace(job, layout=job.layout.with_(**change)) for change in RECOMPUTES)
    return next((one for one in tried if fits(one, fitted=fitted)), job)


def counted_by(memory_kind: str) -> tuple[Kind, int | None]:
    """(what is counted, the stage read) of a row's memory_kind.

    A reading of nvidia-smi is taken on the first node, where Megatron's and DeepSpeed's order of
    ranks puts the first pipeline stage; frameworks report their worst rank.
    """
    text = memory_kind.lower()
    if "reserved" in text:
        return "reserved", None
    if any(word in text for word in ("allocated", "torch", "estimate", "analytic")):
        return "allocated", None
    return "smi", 0 if text.startswith("nvidia-smi") else None


def predict_row_memory(row: PublishedRow) -> tuple[float, float, float, str | None]:
    """(GiB, low, high, why it does not fit or None), by constants that have not seen its source.

    Raises ValueError if the row has no job; its `refused` says why.
    """
    if row.job is None:
        raise ValueError(f"row {row.id} has no job: {row.refused}")
    fitted = constants(without=row.source)
    job = mildest_recompute(row.job, fitted) if "recompute" in row.inferred else row.job
    kind, stage = counted_by(row.memory_kind)
    found = rank_memory(job, kind, fitted, stage)
    peak, wide = found.peak_bytes / GIB, _widened(row, fitted.error_of(job))
    return peak, peak / (1 + wide), peak * (1 + wide), _refused(job, needed_for(job, fitted))


def _refused(job: TrainingJob, needed_bytes: float) -> str | None:
    if needed_bytes <= (available := job.device.memory_bytes):
        return None
    needed = f"needs {needed_bytes / GIB:.1f} GiB"
    return f"{needed} of the {available / GIB:.1f} GiB of {job.device.name}"


def _widened(row: PublishedRow, error: float) -> float:
    """Relative half-width of the interval of a row that leaves things out."""
    unstated = sum(WIDENING.get(name, 0.0) ** 2 for name in row.inferred)
    return math.expm1(math.hypot(math.log1p(error), unstated**0.5))


def predict_row_oom(row: PublishedRow) -> tuple[tuple[float, float, float], str | None]:
    """((1 if it runs out of memory, the same at the low and the high end), why or None)."""
    if row.job is None:
        raise ValueError(f"row {row.id} has no job: {row.refused}")
    fitted = constants(without=row.source)
    needed, available = needed_for(row.job, fitted), row.job.device.memory_bytes
    wide = 1 + _widened(row, fitted.error_of(row.job))
    low, high = needed / wide, needed * wide
    ends = (float(needed > available), float(low > available), float(high > available))
    return ends, _refused(row.job, needed)


def verdict(row: PublishedRow) -> str:
    """One of VERDICTS of what a row ran: of what it leaves open, of recomputation the least."""
    if row.job is not None and "recompute" in row.inferred and not row.oom:
        row = replace(row, job=mildest_recompute(row.job, constants(without=row.source)))
    middle, _, high = predict_row_oom(row)[0]
    return VERDICTS[2 if middle else 1 if high else 0]


def completed(row: PublishedRow) -> PublishedRow:
    """The row with an unstated micro-batch set to the largest power of two that fits.

    Unstated recomputation stays at none: assuming as little of it as lets the job fit made step
    time no better on the published rows (14.2% against 13.6% on Megatron-Bridge, 22 Nov 2026).
    """
    job = row.job
    if job is None or "micro_batch" not in row.inferred:
        return row
    of_rank = max(1, job.global_batch // job.layout.dp)
    size, fitted = MOST_SEQUENCES, constants(without=row.source)
    while size > 1:
        larger = replace(job, layout=job.layout.with_(micro_batch=size))
        if of_rank % size == 0 and fits(larger, fitted=fitted):
            return replace(row, job=larger)
        size //= 2
    return row
