"""What to change so that a training job fits: the cheapest changes first, each with its size."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import combinations
from typing import Any

from whorl.core.errors import PlanError, SpecError
from whorl.core.units import format_bytes
from whorl.stages.plan.cluster.job import TrainingJob
from whorl.stages.plan.cluster.memory import (
    MemoryConstants,
    fits,
    needed_for,
    rank_memory,
)

__all__ = ["changes_that_fit", "check_fits", "mildest_recompute"]

Change = tuple[str, Callable[[TrainingJob], TrainingJob]]
MOST_DEVICES = 2**10  # times those asked for
SHARDS = ("none", "zero1", "zero2", "zero3")


def mildest_recompute(job: TrainingJob, fitted: MemoryConstants | None = None) -> TrainingJob:
    """The job with as little recomputation as lets it fit; its own when nothing does.

    What to assume of a run that does not say whether it recomputes.
    """
    layout = job.layout
    for changes in (
        {"recompute": "none", "recompute_parts": ()},
        {"recompute": "selective", "recompute_parts": ("layernorm", "mlp", "moe_act")},
        {"recompute": "full", "recompute_parts": ()},
    ):
        changed = replace(job, layout=layout.with_(**changes))
        if fits(changed, fitted=fitted):
            return changed
    return job


def check_fits(job: TrainingJob, memory_bytes: float | None = None) -> None:
    """Raises PlanError if the job does not fit, naming up to three changes that would make it."""
    limit = job.device.memory_bytes if memory_bytes is None else memory_bytes
    if fits(job, limit):
        return
    found = rank_memory(job, "smi")
    parts = sorted(found.parts.items(), key=lambda item: -item[1])[:3]
    changes = changes_that_fit(job, limit)
    told = [f"{what} ({format_bytes(round(size))})" for what, size in changes]
    raise PlanError(
        f"training {job.shape.name} on {job.layout.devices} x {job.device.name} does not fit",
        found=f"{format_bytes(round(needed_for(job)))} needed on a rank of stage {found.stage} ("
        + ", ".join(f"{name} {format_bytes(round(size))}" for name, size in parts)
        + ")",
        expected=f"at most {format_bytes(round(limit))}",
        do="; or ".join(told) or "use a smaller model or devices with more memory",
    )


def changes_that_fit(
    job: TrainingJob, memory_bytes: float | None = None, most: int = 3
) -> list[tuple[str, float]]:
    """(change, bytes then needed), the cheapest first: single changes, then pairs, then devices."""
    limit = job.device.memory_bytes if memory_bytes is None else memory_bytes
    single = list(_changes(job))
    found: list[tuple[str, float]] = []
    done: set[str] = set()
    for chosen in (*((one,) for one in single), *combinations(single, 2)):
        if len(found) == most:
            return found
        names = [name for name, _ in chosen]
        if done & {name.partition("=")[0] for name in names}:
            continue  # a milder change of the same kind suffices
        changed = _apply(job, [change for _, change in chosen])
        if changed is not None and fits(changed, limit):
            found.append((" and ".join(names), needed_for(changed)))
            if len(names) == 1:
                done.add(names[0].partition("=")[0])
    if len(found) < most and (more := _more_devices(job, limit)) is not None:
        found.append(more)
    return found


def _apply(
    job: TrainingJob, changes: list[Callable[[TrainingJob], TrainingJob]]
) -> TrainingJob | None:
    try:
        for change in changes:
            job = change(job)
    except SpecError:  # degrees that do not divide
        return None
    return job


def _changes(job: TrainingJob) -> Iterator[Change]:
    """From what costs nothing to what costs speed, exactness or devices."""
    layout = job.layout

    def layout_change(**changes: object) -> Callable[[TrainingJob], TrainingJob]:
        return lambda old: replace(old, layout=old.layout.with_(**changes))

    def job_change(**changes: Any) -> Callable[[TrainingJob], TrainingJob]:
        return lambda old: replace(old, **changes)

    if job.full_logits:
        yield "logits in chunks", job_change(full_logits=False)
    if layout.tp > 1 and not layout.sequence_parallel:
        yield "sequence_parallel=True", layout_change(sequence_parallel=True)
    if layout.dp * layout.cp > 1:
        for shard in SHARDS[SHARDS.index(layout.shard) + 1 :]:
            yield f"shard={shard}", layout_change(shard=shard)
    micro_batch = layout.micro_batch
    while micro_batch > 1:
        micro_batch //= 2
        yield f"micro_batch={micro_batch}", layout_change(micro_batch=micro_batch)
    if layout.recompute == "none":
        parts = ("layernorm", "mlp", "moe_act")
        yield (
            f"recompute=selective ({', '.join(parts)})",
            layout_change(recompute="selective", recompute_parts=parts),
        )
    if layout.recompute != "full":
        yield "recompute=full", layout_change(recompute="full", recompute_parts=())
    for degree in (2, 4, 8):
        if layout.tp * degree <= job.device.node_devices:
            yield f"tp={layout.tp * degree}", layout_change(tp=layout.tp * degree)
    for degree in (2, 4, 8):
        yield f"pp={layout.pp * degree}", layout_change(pp=layout.pp * degree)
    if job.optimizer == "adamw":
        yield "optimizer=adamw_8bit", job_change(optimizer="adamw_8bit")
    if not layout.offload_optimizer:
        yield "offload_optimizer=True", layout_change(offload_optimizer=True)
    if job.lora is not None and job.lora.base == "none":
        yield "base=nf4", job_change(lora=replace(job.lora, base="nf4"))


def _more_devices(job: TrainingJob, limit: float) -> tuple[str, float] | None:
    """Twice the devices as often as needed, with everything split, sharded and recomputed."""
    layout = job.layout
    tp = math.gcd(job.device.node_devices, job.shape.attention.heads)
    factor = 2
    while factor <= MOST_DEVICES:
        devices = layout.devices * factor
        layouts = [{}] if devices % (tp * layout.pp * layout.cp) else [{}, {"tp": tp}]
        for changes in layouts:
            whole = {"shard": "zero3", "micro_batch": 1, "recompute": "full", **changes}
            told = ", ".join(f"{name}={value}" for name, value in whole.items())
            whole |= {"devices": devices, "recompute_parts": ()}
            changed = replace(
                job,
                layout=layout.with_(**whole),
                global_batch=max(job.global_batch, devices // (layout.pp * layout.cp)),
            )
            if fits(changed, limit):
                return f"{devices} devices with {told}", needed_for(changed)
        factor *= 2
    return None
