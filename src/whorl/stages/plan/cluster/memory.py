"""Peak memory of one rank of a training job, by part and by phase.

rank_memory explains, memory_for is the number alone, fits is the rule for a device.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

from whorl.arch.layers import layer_kinds
from whorl.stages.plan.cluster.devices import GIB
from whorl.stages.plan.cluster.images import beside_bytes
from whorl.stages.plan.cluster.job import TrainingJob, kinds_of
from whorl.stages.plan.cluster.learning import rollout
from whorl.stages.plan.cluster.memory_activations import (
    layer_bytes,
    logit_bytes,
    micro_batches_in_flight,
)
from whorl.stages.plan.cluster.memory_states import (
    other_bytes,
    rank_parameters,
    stage_kinds,
    state_bytes,
)
from whorl.stages.plan.facts import data_file
from whorl.stages.plan.software import software

__all__ = [
    "Kind",
    "MemoryConstants",
    "RankMemory",
    "at_peak",
    "constants",
    "end_stages",
    "fits",
    "memory_for",
    "needed_for",
    "rank_memory",
    "stage_parts",
]

Kind = Literal["reserved", "allocated", "smi"]
CPU_SLACK = 0.5  # the C library's, of a process that sets nothing: four runs of 22 November 2026
RELEASED = 0.5  # of the slack, once the allocator frees its blocks and tries again
A100_MULTIPROCESSORS = 108  # of the card that context_gib is of
OTHER_MULTIPROCESSORS = 132  # nothing measured of other makers' drivers: taken to be as an H100's
MOVING = ("activations", "logits", "working", "gathered")  # gone when the optimiser steps
BESIDE = ("other_model", "rollout", "blocks")  # parts that few jobs have
OTHER_FRAMEWORK_GIB = 0.5  # of a process on a TPU or a CPU


@dataclass(frozen=True)
class MemoryConstants:
    """What no source code tells: fitted by benchmarks/fit_memory.py."""

    context_gib: float  # driver context and libraries of one process on an A100
    group_gib: float  # buffers of one kind of communicator
    kept_share: float  # of the smaller of two peaks, what the allocator cannot reuse
    slack_share: float  # of activations and temporaries, lost between blocks
    error: float  # relative half-width of the 90% interval
    expert_error: float = 0.0  # the same, mixtures of experts; 0: as others
    unseen_error: float = 0.0  # the same, software of which no peak was fitted
    # "software kind" whose peaks were fitted -> the same, of those with many; 0: as others
    seen: tuple[tuple[str, float], ...] = ()

    def error_of(self, job: TrainingJob) -> float:
        """Relative half-width of the 90% interval of one job's peak."""
        usual = self.expert_error or self.error if job.shape.experts else self.error
        of_kind = dict(self.seen)
        kind = kinds_of(job)[1]
        if kind in of_kind and job.shape.attention.mixer is None:
            return of_kind[kind] or usual
        return max(usual, self.unseen_error)  # no peak of a model with scans is known


@cache
def _constants() -> dict[str, MemoryConstants]:
    fits = data_file("cluster/memory_constants.json")["fits"].items()
    return {name: MemoryConstants(**{**e, "seen": tuple(e["seen"].items())}) for name, e in fits}


def constants(without: str | None = None) -> MemoryConstants:
    """Fitted on all sources, or on all but one when that one is to be predicted."""
    known = _constants()
    return known.get(f"without {without}", known["all"])


@dataclass(frozen=True)
class RankMemory:
    """Bytes on the rank that peaks. parts add up to peak_bytes."""

    parts: dict[str, float]
    phases: dict[str, float]
    stage: int
    peak_bytes: float
    low_bytes: float
    high_bytes: float


def rank_memory(
    job: TrainingJob,
    kind: Kind = "reserved",
    fitted: MemoryConstants | None = None,
    stage: int | None = None,
) -> RankMemory:
    """Peak bytes of the worst rank, or of one of `stage`.

    kind: what is counted. "allocated" is live tensors (torch max_memory_allocated), "reserved"
    the allocator's blocks too, "smi" the driver's context and communication buffers as well.
    """
    if (measured := job.device.measured) is not None:
        return measured.memory(job)
    fitted = fitted or constants()
    found = []
    for number in end_stages(job) if stage is None else (stage,):
        raw = stage_parts(job, number)
        parts = at_peak(job, raw, kind, fitted)
        found.append((sum(parts.values()), number, raw, parts))
    peak, stage, raw, parts = max(found, key=lambda item: item[0])
    return RankMemory(
        parts=parts,
        phases=_phases(job, raw, parts, peak),
        stage=stage,
        peak_bytes=peak,
        low_bytes=peak / (1 + fitted.error_of(job)),
        high_bytes=peak * (1 + fitted.error_of(job)),
    )


def memory_for(
    job: TrainingJob, kind: Kind = "smi", fitted: MemoryConstants | None = None
) -> float:
    """Peak bytes of the worst rank, without the explanation."""
    if (measured := job.device.measured) is not None:
        return measured.memory(job).peak_bytes
    fitted = fitted or constants()
    peaks = (at_peak(job, stage_parts(job, stage), kind, fitted) for stage in end_stages(job))
    return max(sum(parts.values()) for parts in peaks)


def needed_for(job: TrainingJob, fitted: MemoryConstants | None = None) -> float:
    """Bytes a device must have: the peak under pressure, or the high end of one measured there."""
    if (measured := job.device.measured) is not None:
        return measured.memory(job).high_bytes
    return memory_for(job, "smi", _pressed(fitted or constants()))


def fits(
    job: TrainingJob, memory_bytes: float | None = None, fitted: MemoryConstants | None = None
) -> bool:
    """Whether the job is expected to run in memory_bytes (default: its device's)."""
    limit = job.device.memory_bytes if memory_bytes is None else memory_bytes
    return needed_for(job, fitted) <= limit


@cache
def _pressed(fitted: MemoryConstants) -> MemoryConstants:
    return replace(fitted, slack_share=fitted.slack_share * (1 - RELEASED))


def end_stages(job: TrainingJob) -> tuple[int, ...]:
    """Pipeline stages that may be the fullest: the ends, and one without an end's tables."""
    pp = job.layout.pp
    return (0,) if pp == 1 else (0, pp - 1) if pp == 2 else (0, 1, pp - 1)


def stage_parts(job: TrainingJob, stage: int) -> dict[str, float]:
    """Everything a rank of one stage holds at one time or another."""
    layout, shape = job.layout, job.shape
    params = rank_parameters(shape, layout, stage)
    of = {kind: layer_bytes(job, kind) for kind in layer_kinds(shape)}
    kinds, any_layer = stage_kinds(shape, layout.pp, stage), next(iter(of.values()))
    saved = sum(number * of[kind].saved for kind, number in kinds.items())
    if layout.pp > 1 and software(job.stack).holds_outputs:
        saved += any_layer.entry  # the stage's output, held for its backward pass
    again = max(each.whole for each in of.values()) if layout.recompute == "full" else 0.0
    parts = state_bytes(job, params)
    parts["activations"] = micro_batches_in_flight(job, stage) * saved
    if stage == 0:
        parts["activations"] += micro_batches_in_flight(job, stage) * beside_bytes(job)
    parts["logits"] = logit_bytes(job) if stage == layout.pp - 1 else 0.0
    parts["working"] = any_layer.passing + again
    parts["other_model"] = other_bytes(job, stage)
    written = rollout(job, 0.0)
    if written is not None:  # a cache of torch's is gone before the layers' activations come
        moving = sum(parts[name] for name in MOVING) * (job.learning.engine == "torch")
        parts["rollout"] = max(0.0, written.bytes - moving)
    return {name: size for name, size in parts.items() if size or name not in BESIDE}


def at_peak(
    job: TrainingJob, raw: dict[str, float], kind: Kind, fitted: MemoryConstants
) -> dict[str, float]:
    """The parts at the peak.

    Logits are gone when the layers' backward passes run, activations when the optimiser steps;
    but a caching allocator can reuse the blocks of one for the other only in part.
    """
    parts = dict(raw)
    lost = parts.pop("blocks", 0.0)
    parts["logits" if raw["working"] >= raw["logits"] else "working"] = 0.0
    moving = sum(parts[name] for name in MOVING)
    if kind == "allocated":
        for name in ("step",) if moving >= raw["step"] else MOVING:
            parts[name] = 0.0
        return parts
    slack, kept = fitted.slack_share, fitted.kept_share
    if software(job.stack).static_allocator:
        slack = kept = 0.0
    elif job.device.kind == "cpu":
        slack = CPU_SLACK
    parts["step"] -= (1 - kept) * min(moving, raw["step"])
    parts["allocator"] = slack * moving + lost
    if kind == "smi":
        parts["framework"] = _framework(job, fitted)
    return parts


def _framework(job: TrainingJob, fitted: MemoryConstants) -> float:
    """Driver context, a piece for each multiprocessor, and buffers of each kind of communicator."""
    if job.device.kind != "gpu":
        return GIB * OTHER_FRAMEWORK_GIB
    layout = job.layout
    degrees = (layout.tp, layout.pp, layout.dp, layout.cp, layout.ep)
    known = job.device.multiprocessors if job.device.is_nvidia else 0
    size = (known or OTHER_MULTIPROCESSORS) / A100_MULTIPROCESSORS
    groups = sum(degree > 1 for degree in degrees)
    return GIB * (fitted.context_gib * size + fitted.group_gib * groups)


def _phases(
    job: TrainingJob, raw: dict[str, float], parts: dict[str, float], peak: float
) -> dict[str, float]:
    framework = parts.get("framework", 0.0)
    states = sum(raw[name] for name in ("weights", "gradients", "optimizer", "communication"))
    states += sum(raw.get(name, 0.0) for name in BESIDE)
    steady = states + framework
    layers = max(1, job.shape.layers // job.layout.pp)
    forward = steady + raw["activations"] + raw["gathered"]
    return {
        "load": raw["weights"] + raw.get("other_model", 0.0) + framework,
        "forward": forward + raw["logits"],
        "backward": forward + max(raw["logits"], raw["working"]),
        "first_step": steady + raw["step"],
        "steady_step": peak,
        "evaluation": steady + raw["activations"] / layers + raw["logits"] + raw["gathered"],
        "save": steady,
    }
