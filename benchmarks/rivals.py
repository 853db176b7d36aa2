"""Other planners on the published rows.

    WHORL_LLM_ANALYSIS_PYTHON=path/to/python python benchmarks/planner_accuracy.py

llm-analysis needs packages of 2023, so it runs in an environment of its own (pip install
llm-analysis); without the variable the page keeps its last result, with its date. It takes the
efficiency as an input: it is given the median over other sources' medians on the device, of FLOPs
with recomputation; and, as its best case, one factor on all its answers chosen to make its own
error least.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from planner_scores import Result

from whorl.arch.shape_counts import flops_per_token

__all__ = ["rival_errors"]

NAME = "llm-analysis 0.2.2"
SCRIPT = Path(__file__).parent / "rival_llm_analysis.py"
GPUS = {
    "v100-16": "v100-sxm-16gb",
    "v100-32": "v100-sxm-32gb",
    "a100-40": "a100-sxm-40gb",
    "a100-80": "a100-sxm-80gb",
    "h100-sxm": "h100-sxm-80gb",
}
ZERO = {"none": 0, "zero1": 1, "zero2": 2, "zero3": 3}


def rival_errors(results: Sequence[Result], page: str) -> list[str]:
    """A line for each: what it scored beside whorl on the rows it can read, and when.

    page: the text that is there, whose lines are kept where the other planner is not run.
    """
    python = os.environ.get("WHORL_LLM_ANALYSIS_PYTHON")
    if not python:
        return [line for line in page.splitlines() if line.startswith(f"- {NAME}")]
    readable = [item for item in results if _readable(item)]
    jobs = [_job(item, readable) for item in readable]
    done = subprocess.run(
        [python, str(SCRIPT)], input=json.dumps(jobs), capture_output=True, text=True, check=True
    )
    answers = json.loads(done.stdout)
    scored = [
        (item, item.row.job.tokens_per_step / item.row.job.layout.devices / answer)
        for item, answer in zip(readable, answers, strict=True)
        if isinstance(answer, float) and item.row.job
    ]
    refused = sorted({answer for answer in answers if isinstance(answer, str)})
    ratios = [(item.row.source, rate / item.measured) for item, rate in scored]
    theirs = _mean_of_sources([(source, ratio - 1) for source, ratio in ratios])
    best = min(
        _mean_of_sources([(source, factor * ratio - 1) for source, ratio in ratios])
        for factor in np.geomspace(0.25, 4, 161)
    )
    ours = _mean_of_sources([(item.row.source, item.error) for item, _ in scored])
    text = (
        f"- {NAME}, run on {date.today():%d %B %Y}: {100 * theirs:.1f}% "
        f"({100 * best:.1f}% with the one factor on all its answers that suits "
        f"it best) against whorl's {100 * ours:.1f}%, medians averaged over sources, on "
        f"{len(scored)} dense 16-bit rows on GPUs it knows"
    )
    if refused:
        text += f"; {len(answers) - len(scored)} rows refused ({refused[0]})"
    return [text]


def _mean_of_sources(errors: Sequence[tuple[str, float]]) -> float:
    sources = sorted({source for source, _ in errors})
    medians = [
        np.median([abs(error) for source, error in errors if source == name]) for name in sources
    ]
    return float(np.mean(medians))


def _readable(item: Result) -> bool:
    job = item.row.job
    return (
        job is not None
        and job.device.name in GPUS
        and job.precision in ("fp16", "bf16")
        and job.shape.experts is None
        and job.layout.cp == 1
    )


def _efficiency(item: Result) -> float:
    """Share of the peak, recomputation counted as work."""
    job = item.row.job
    assert job
    factor = 4 / 3 if job.layout.recompute == "full" else 1.0
    flops = flops_per_token(job.shape, job.seq_len).training * factor
    return item.measured * flops / job.device.peak(job.precision)


def _job(item: Result, readable: Sequence[Result]) -> dict[str, Any]:
    job = item.row.job
    assert job
    others = [other for other in readable if other.row.source != item.row.source]
    alike = [other for other in others if other.row.job and other.row.job.device == job.device]
    by_source: dict[str, list[float]] = {}
    for other in alike or others:
        by_source.setdefault(other.row.source, []).append(_efficiency(other))
    efficiency = float(np.median([np.median(found) for found in by_source.values()]))
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
