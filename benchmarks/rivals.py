"""What llm-analysis is told of a published row, for planner_duel.py.

It takes the efficiency as an input: it is given the median over other sources' medians on the
device, of FLOPs with recomputation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from planner_scores import Result

from whorl.arch.shape_counts import flops_per_token

__all__ = ["GPUS", "analysis_job"]

GPUS = {
    "v100-16": "v100-sxm-16gb",
    "v100-32": "v100-sxm-32gb",
    "a100-40": "a100-sxm-40gb",
    "a100-80": "a100-sxm-80gb",
    "h100-sxm": "h100-sxm-80gb",
}
ZERO = {"none": 0, "zero1": 1, "zero2": 2, "zero3": 3}
USUAL_EFFICIENCY = 0.5  # where only memory is asked for


def _efficiency(item: Result) -> float:
    """Share of the peak, recomputation counted as work."""
    job = item.row.job
    assert job
    factor = 4 / 3 if job.layout.recompute == "full" else 1.0
    flops = flops_per_token(job.shape, job.seq_len).training * factor
    return item.measured * flops / job.device.peak(job.precision)


def analysis_job(item: Result, readable: Sequence[Result]) -> dict[str, Any]:
    """Its arguments. readable: rows whose efficiency may be known, those of its source left out."""
    job = item.row.job
    assert job
    others = [other for other in readable if other.row.source != item.row.source]
    alike = [other for other in others if other.row.job and other.row.job.device == job.device]
    by_source: dict[str, list[float]] = {}
    for other in alike or others:
        by_source.setdefault(other.row.source, []).append(_efficiency(other))
    medians = [np.median(found) for found in by_source.values()] or [USUAL_EFFICIENCY]
    efficiency = float(np.median(medians))
    shape, layout = job.shape, job.layout
    return {
        "layers": shape.layers,
        "heads": shape.attention.heads,
        "kv_heads": shape.attention.kv_heads,
        "width": shape.width,
        "vocab_size": shape.vocab_size,
        "ffn_width": shape.ffn_width,
        "gated": shape.gated,
        "seq_len": job.seq_len,
        "gpu": GPUS[job.device.name],
        "tp": layout.tp,
        "pp": layout.pp,
        "dp": layout.dp,
        "zero": ZERO[layout.shard],
        "micro_batch": layout.micro_batch,
        "global_batch": job.global_batch,
        "full": layout.recompute == "full",
        "flash_attention": job.flash_attention,
        "flops_efficiency": min(efficiency, 1.0),
    }
