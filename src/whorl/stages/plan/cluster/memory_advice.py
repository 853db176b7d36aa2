"""What to change so that a training job fits: the cheapest changes first, each with its size."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations
from typing import Any

from whorl.core.errors import PlanError, SpecError
from whorl.core.units import format_bytes
from whorl.stages.plan.cluster.job import TrainingJob
from whorl.stages.plan.cluster.memory import MemoryConstants, fits, needed_for, rank_memory

__all__ = ["changes_that_fit", "check_fits", "mildest_recompute"]

Change = dict[str, Any]  # fields of Layout or TrainingJob -> their new values
MOST_DEVICES = 2**10  # times those asked for
SHARDS = ("none", "zero1", "zero2", "zero3")
NONE: Change = {"recompute": "none", "recompute_parts": ()}
SELECTIVE: Change = {
    "recompute": "selective",
    "recompute_parts": ("layernorm", "mlp", "moe_act"),
}
FULL: Change = {"recompute": "full", "recompute_parts": ()}


def mildest_recompute(job: TrainingJob, fitted: MemoryConstants | None = None) -> TrainingJob:
    """The job with as little recomputation as lets it fit; its own when nothing does.

    What to assume of a run that does not say whether it recomputes.
    """
    tried = (_changed(job, change) for change in (NONE, SELECTIVE, FULL))
    return next((one for one in tried if fits(one, fitted=fitted)), job)


def check_fits(job: TrainingJob, memory_bytes: float | None = None) -> None:
    """Raises PlanError if the job does not fit, naming up to three changes that would make it."""
    limit = job.device.memory_bytes if memory_bytes is None else memory_bytes
    if fits(job, limit):
        return
    found = rank_memory(job, "smi")
    parts = sorted(found.parts.items(), key=lambda item: -item[1])[:3]
    largest = ", ".join(f"{name} {format_bytes(round(size))}" for name, size in parts)
    told = [f"{what} ({format_bytes(round(size))})" for what, size in changes_that_fit(job, limit)]
    raise PlanError(
        f"training {job.shape.name} on {job.layout.devices} x {job.device.name} does not fit",
        found=f"{format_bytes(round(needed_for(job)))} needed on a rank of stage {found.stage} "
        f"({largest})",
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
    enough: set[str] = set()  # fields of which a single change suffices
    for chosen in (*((one,) for one in single), *combinations(single, 2), *_more_devices(job)):
        if len(found) == most:
            break
        merged = {name: value for change in chosen for name, value in change.items()}
        if enough & set(merged) or len(merged) < sum(map(len, chosen)):
            continue
        try:
            changed = _changed(job, merged)
        except SpecError:  # degrees that do not divide
            continue
        if fits(changed, limit):
            found.append((_told(merged), needed_for(changed)))
            enough |= set(merged) if len(chosen) == 1 else set()
    return found


def _changed(job: TrainingJob, change: Change) -> TrainingJob:
    layout = {name: value for name, value in change.items() if hasattr(job.layout, name)}
    other = {name: value for name, value in change.items() if name not in layout}
    return replace(job, layout=job.layout.with_(**layout), **other)


def _told(change: Change) -> str:
    shown = {name: value for name, value in change.items() if value != () and name != "lora"}
    if "lora" in change:
        shown["base"] = change["lora"].base
    return " and ".join(f"{name}={value}" for name, value in shown.items())


def _changes(job: TrainingJob) -> Iterator[Change]:
    """From what costs nothing to what costs speed, exactness or devices."""
    layout = job.layout
    if job.full_logits:
        yield {"full_logits": False}
    if layout.tp > 1 and not layout.sequence_parallel:
        yield {"sequence_parallel": True}
    if layout.dp * layout.cp > 1:
        yield from ({"shard": shard} for shard in SHARDS[SHARDS.index(layout.shard) + 1 :])
    micro_batch = layout.micro_batch
    while micro_batch > 1:
        micro_batch //= 2
        yield {"micro_batch": micro_batch}
    if layout.recompute == "none":
        yield SELECTIVE
    if layout.recompute != "full":
        yield FULL
    for factor in (2, 4, 8):
        if layout.tp * factor <= job.device.node_devices:
            yield {"tp": layout.tp * factor}
    yield from ({"pp": layout.pp * factor} for factor in (2, 4, 8))
    if job.optimizer == "adamw":
        yield {"optimizer": "adamw_8bit"}
    if not layout.offload_optimizer:
        yield {"offload_optimizer": True}
    if job.lora is not None and job.lora.base == "none":
        yield {"lora": replace(job.lora, base="nf4")}


def _more_devices(job: TrainingJob) -> Iterator[tuple[Change]]:
    """Twice the devices as often as needed, with everything sharded, recomputed, at last split."""
    layout = job.layout
    factor = 2
    while factor <= MOST_DEVICES:
        whole: Change = {"devices": layout.devices * factor, "shard": "zero3", "micro_batch": 1}
        whole |= FULL | {"global_batch": max(job.global_batch, layout.dp * factor)}
        yield (whole,)
        yield ({**whole, "tp": math.gcd(job.device.node_devices, job.shape.attention.heads)},)
        factor *= 2
