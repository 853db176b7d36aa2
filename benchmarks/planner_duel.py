"""Other planners beside whorl on the same published rows: `make planner-duel`.

Peers are those that pip installs; each is asked the rows that it can express, and its
median error stands beside whorl's on those rows, by constants that have not seen their sources.
Writes docs/planner-duel.md.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from datetime import date
from importlib.metadata import distributions
from pathlib import Path
from statistics import mean, median
from typing import Any

from planner_scores import Result
from rivals import GPUS, analysis_job

from whorl.arch.layers import layer_matrices
from whorl.arch.shape_counts import count_shape
from whorl.stages.plan.cluster.memory_rows import predict_row_memory
from whorl.stages.plan.cluster.rows import PublishedRow
from whorl.stages.plan.cluster.step import predict_rows
from whorl.stages.plan.lab.rows import memory_rows, time_rows

HERE = Path(__file__).parent
PACKAGES = HERE.parent / "build" / "rivals"
PAGE = HERE.parent / "docs" / "planner-duel.md"
Ratios = Sequence[tuple[str, float, float]]
HEAD = """# Other planners on the same rows

Written by `make planner-duel`, {when}, {machine}, Python {python}. Each planner that pip
installs is asked the published rows that it can express
(`src/whorl/stages/plan/cluster/published/`); whorl's figure is of the same rows, each by constants
that have not seen its source. Errors are medians of each source, averaged over sources: {largest}
of the {timed} step times are of one.

| planner | of | rows it can express | refused | its error | whorl's |
| --- | --- | ---: | ---: | ---: | ---: |
"""
TAIL = """
- **llm-analysis** takes its efficiency as an input: of each row it is given the median that other
  sources reached on the device. Its memory is weights, gradients, moments and activations.
- **accelerate** (`accelerate estimate-memory`) is asked of single devices: the larger of weights,
  gradients and moments, and of its optimiser's step. It counts no activations, and says so.
- **DeepSpeed**'s estimators are of ZeRO-2 and ZeRO-3: model states alone, as they say themselves.
- **Calculon** and **SimuMax** pip does not install (its `calculon` is another thing); both are run
  from their repositories and publish their errors on their authors' own
  machines, which are smaller than whorl's on sources it has not seen: see
  [planner-accuracy.md](planner-accuracy.md) for the rows of SimuMax.

What is not shown: other planners of serving, and planners inside a training framework (MaxText,
Primus), which are asked through it.
"""


def main() -> None:
    timed = [row for row in time_rows() if row.measured]
    peaks = [row for row in memory_rows() if row.measured and not row.oom]
    lines = [*_time_lines(timed), *_memory_lines(peaks)]
    sources = [row.source for row in timed]
    head = HEAD.format(
        when=f"{date.today():%d %B %Y}".lstrip("0"),
        machine=_machine(),
        python=platform.python_version(),
        largest=max(sources.count(name) for name in set(sources)),
        timed=len(timed),
    )
    PAGE.write_text(head + "\n".join(lines) + "\n" + TAIL, "utf-8")
    print("\n".join(lines))


def _machine() -> str:
    for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _asked(script: str, jobs: Sequence[Any]) -> Any:
    """What a script of this folder answers, with the rivals' packages behind ours."""
    paths = [str(HERE), str(HERE.parent / "src"), str(PACKAGES)]
    done = subprocess.run(
        [sys.executable, str(HERE / script)],
        input=json.dumps(jobs),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{script}: {done.stderr[-2000:]}")
    return json.loads(done.stdout)


def _line(name: str, of: str, answers: Sequence[Any], ratios: Ratios) -> str:
    """ratios: (source, its, whorl's over what was measured), of the rows it answered."""
    asked = [answer for answer in answers if answer is not None]
    refused = sum(isinstance(answer, str) for answer in asked)
    if not ratios:
        reason = next((answer for answer in asked if isinstance(answer, str)), "no such row")
        return f"| {name} | {of} | {len(asked)} | {refused} | {reason} | |"
    by_source: dict[str, list[tuple[float, float]]] = {}
    for source, *pair in ratios:
        by_source.setdefault(source, []).append((pair[0], pair[1]))
    theirs, ours = (
        mean(median(abs(pair[at] - 1) for pair in pairs) for pairs in by_source.values())
        for at in (0, 1)
    )
    return f"| {name} | {of} | {len(asked)} | {refused} | {theirs:.1%} | {ours:.1%} |"


def _versioned(name: str) -> str:
    found = {d.metadata["Name"].lower(): d.version for d in distributions(path=[str(PACKAGES)])}
    found |= {d.metadata["Name"].lower(): d.version for d in distributions() if d.metadata["Name"]}
    return f"{name} {found.get(name.lower(), '')}".strip()


def _time_lines(rows: Sequence[PublishedRow]) -> list[str]:
    results = [
        Result(row, *item, row.measured)
        for row, item in zip(rows, predict_rows(rows), strict=True)
        if item and row.measured
    ]
    readable = [item for item in results if _expressible(item.row)]
    answers = _asked("rival_llm_analysis.py", [analysis_job(item, readable) for item in readable])
    ratios = []
    for item, answer in zip(readable, answers, strict=True):
        job = item.row.job
        if isinstance(answer, float) and job is not None:
            rate = job.tokens_per_step / job.layout.devices / answer
            ratios.append((item.row.source, rate / item.measured, 1 + item.error))
    return [_line(_versioned("llm-analysis"), "step time", answers, ratios)]


def _expressible(row: PublishedRow) -> bool:
    """By llm-analysis: dense models in 16 bits, all weights trained, on the GPUs it knows."""
    job = row.job
    return (
        job is not None
        and job.device.name in GPUS
        and job.precision in ("fp16", "bf16")
        and job.shape.experts is None
        and job.layout.cp == 1
        and job.lora is None
    )


def _memory_lines(rows: Sequence[PublishedRow]) -> list[str]:
    rows = [row for row in rows if row.job is not None]
    answers = _asked("rival_memory.py", [_job(row) for row in rows])
    ours = [predict_row_memory(row)[0] for row in rows]
    lines = []
    for name, found in answers.items():
        ratios = [
            (row.source, answer / row.measured, own / row.measured)
            for row, answer, own in zip(rows, found, ours, strict=True)
            if isinstance(answer, float) and row.measured
        ]
        lines.append(_line(_versioned(name), "peak memory", found, ratios))
    return lines


def _job(row: PublishedRow) -> dict[str, Any]:
    job = row.job
    assert job is not None
    layer = sum(m.parameters for m in layer_matrices(job.shape, "dense"))
    result = Result(row, 1.0, 1.0, 1.0, 1.0)
    return {
        "parameters": count_shape(job.shape).total,
        "largest_layer": max(layer, job.shape.vocab_size * job.shape.width),
        "devices": job.layout.devices,
        "tp": job.layout.tp,
        "pp": job.layout.pp,
        "shard": job.layout.shard,
        "offload": job.layout.offload_optimizer,
        "precision": job.precision,
        "lora": job.lora is not None,
        "analysis": analysis_job(result, ()) if _expressible(row) else None,
    }


if __name__ == "__main__":
    main()
