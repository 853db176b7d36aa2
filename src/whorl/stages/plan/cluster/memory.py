"""Peak memory of one rank of a training job, by part and by phase.

rank_memory explains, memory_for is the number alone, fits is the rule the layout search uses.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields, replace
from functools import cache
from importlib.resources import files
from typing import Any, Literal

from whorl.stages.plan.cluster.job import TrainingJob
from whorl.stages.plan.cluster.memory_activations import (
    layer_bytes,
    logit_bytes,
    micro_batches_in_flight,
)
from whorl.stages.plan.cluster.memory_states import (
    QUANTISED_BYTES,
    ElementBytes,
    RankParameters,
    element_bytes,
    rank_parameters,
)
from whorl.stages.plan.memory import ALLOCATOR_SHARE

__all__ = [
    "Kind",
    "MemoryConstants",
    "RankMemory",
    "constants",
    "fits",
    "memory_for",
    "needed_for",
    "rank_memory",
]

Kind = Literal["reserved", "allocated", "smi"]
GIB = 2**30
STATIC_ALLOCATOR = frozenset({"oneflow", "xla"})  # addresses planned before the run
RELEASED = 0.5  # of the slack, once the allocator frees its blocks and tries again
BUCKET_ELEMENTS, LIVE_ELEMENTS = 5e8, 1e9  # DeepSpeed: buckets; gathered at once
MULTIPROCESSORS = {"v100": 80, "a100": 108, "a800": 108}  # of one device; later ones:
NEWER_MULTIPROCESSORS = 132
OTHER_FRAMEWORK_GIB = 0.5  # of a process on a TPU or a CPU


@dataclass(frozen=True)
class MemoryConstants:
    """What no source code tells: fitted by benchmarks/fit_memory.py."""

    context_gib: float = 1.0  # driver context and libraries of one process on an A100
    group_gib: float = 0.5  # buffers of one communicator
    kept_share: float = 0.7  # of the smaller of two peaks, what the allocator cannot reuse
    slack_share: float = 0.05  # of activations and temporaries, lost between blocks
    error: float = 0.08  # relative half-width of the 90% interval


@cache
def _constants() -> dict[str, MemoryConstants]:
    text = (files("whorl.stages.plan.cluster") / "memory_constants.json").read_text("utf-8")
    return {name: MemoryConstants(**entry) for name, entry in json.loads(text)["fits"].items()}


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

    def as_dict(self) -> dict[str, Any]:
        return {item.name: getattr(self, item.name) for item in fields(self)}


@dataclass(frozen=True)
class _Stage:
    """One pipeline stage's parts, in bytes."""

    weights: float
    gradients: float
    optimizer: float
    activations: float
    logits: float
    working: float
    gathered: float
    buckets: float
    step: float


def rank_memory(
    job: TrainingJob,
    kind: Kind = "reserved",
    fitted: MemoryConstants | None = None,
    stage: int | None = None,
) -> RankMemory:
    """Peak bytes of the worst rank.

    kind: what is counted. "allocated" is live tensors (torch max_memory_allocated), "reserved"
    the allocator's blocks too, "smi" the driver's context and communication buffers as well.
    """
    fitted = fitted or constants()
    stages = _stages(job) if stage is None else (stage,)
    stage, parts = max(
        ((stage, _stage(job, stage)) for stage in stages),
        key=lambda found: _peak(job, found[1], kind, fitted)[0],
    )
    peak, named = _peak(job, parts, kind, fitted)
    return RankMemory(
        parts=named,
        phases=_phases(job, parts, kind, fitted),
        stage=stage,
        peak_bytes=peak,
        low_bytes=peak / (1 + fitted.error),
        high_bytes=peak * (1 + fitted.error),
    )


def memory_for(
    job: TrainingJob, kind: Kind = "smi", fitted: MemoryConstants | None = None
) -> float:
    """Peak bytes of the worst rank, without the explanation."""
    fitted = fitted or constants()
    return max(_peak(job, _stage(job, stage), kind, fitted)[0] for stage in _stages(job))


def fits(
    job: TrainingJob, memory_bytes: float | None = None, fitted: MemoryConstants | None = None
) -> bool:
    """Whether the job is expected to run in memory_bytes (default: its device's)."""
    limit = job.device.memory_bytes if memory_bytes is None else memory_bytes
    return needed_for(job, fitted) <= limit


def needed_for(job: TrainingJob, fitted: MemoryConstants | None = None) -> float:
    """Bytes a device must have: the peak, less what the allocator gives back under pressure."""
    fitted = fitted or constants()
    return memory_for(job, "smi", _pressed(fitted))


@cache
def _pressed(fitted: MemoryConstants) -> MemoryConstants:
    return replace(fitted, slack_share=fitted.slack_share * (1 - RELEASED))


def _stages(job: TrainingJob) -> tuple[int, ...]:
    pp = job.layout.pp
    return (0,) if pp == 1 else (0, pp - 1) if pp == 2 else (0, 1, pp - 1)


def _stage(job: TrainingJob, stage: int) -> _Stage:
    layout, shape = job.layout, job.shape
    params = rank_parameters(shape, layout, stage)
    weights, gradients, optimizer, step, gathered, buckets = _states(job, params)
    dense = layer_bytes(job, "dense")
    kept = layer_bytes(job, "expert") if shape.experts else dense
    flying = micro_batches_in_flight(job, stage)
    dense_layers = 0
    if shape.experts is not None and stage == 0:
        dense_layers = min(params.layers, shape.experts.dense_layers)
    saved = dense_layers * dense.saved + (params.layers - dense_layers) * kept.saved
    if layout.pp > 1 and job.stack in ("megatron_2021", "oneflow"):
        saved += dense.entry  # the stage's output, held for its backward pass
    activations = flying * saved
    worst = max(dense.whole, kept.whole)
    working = kept.passing + (worst if layout.recompute == "full" else 0.0)
    has_head = stage == layout.pp - 1
    return _Stage(
        weights=weights,
        gradients=gradients,
        optimizer=optimizer,
        activations=activations,
        logits=logit_bytes(job) if has_head else 0.0,
        working=working,
        gathered=gathered,
        buckets=buckets,
        step=step,
    )


def _states(
    job: TrainingJob, params: RankParameters
) -> tuple[float, float, float, float, float, float]:
    """(weights, gradients, optimizer, step, gathered, buckets) bytes of one rank."""
    layout = job.layout
    dense, experts = params.dense + params.tables, params.experts
    if job.lora is not None:
        return _frozen(job, params)
    per = element_bytes(job)
    ways = layout.sharded_over
    expert_ways = ways
    if experts and layout.ep > 1:
        copies = layout.dp * layout.cp * layout.tp // layout.ep
        expert_ways = min(ways, max(1, copies))

    def split(whole: float, shard: float) -> float:
        return (whole + shard / ways) * dense + (whole + shard / expert_ways) * experts

    gathered = _gathered(job, params, per)
    buckets = 0.0
    if layout.dp > 1 and layout.shard == "zero1" and job.stack == "megatron_2021":
        buckets = 2 * 2 * min(BUCKET_ELEMENTS, dense + experts)
        if layout.pp == 1:  # made anew at each backward pass, and gradients stay in them
            buckets += 2 * (dense + experts)
    elif layout.dp > 1 and job.stack in ("whorl", "oneflow"):
        buckets = min(25 * 2**20, 4 * (dense + experts))
    tables_extra = 0.0
    if job.optimizer == "muon" and per.optimizer_shard:  # AdamW's second moment, not Muon's
        tables_extra = 4.0 * params.tables / ways
    return (
        split(per.weight_whole, per.weight_shard),
        split(per.gradient_whole, per.gradient_shard),
        split(0.0, per.optimizer_shard) + tables_extra,
        split(per.step_whole, per.step_shard),
        gathered,
        buckets,
    )


def _gathered(job: TrainingJob, params: RankParameters, per: ElementBytes) -> float:
    """Bytes of whole weights and gradients that zero2 and zero3 bring together for a while."""
    unit = params.largest_layer
    weights, gradients = max(2 * unit, params.tables), max(unit, params.tables)  # one prefetched
    if job.stack == "megatron_2021":  # DeepSpeed: stage3_max_live_parameters
        weights = min(weights, LIVE_ELEMENTS)
        gradients = min(gradients, BUCKET_ELEMENTS)
    elif job.stack == "xla":
        weights = gradients
        gradients = 0.0
    return per.gathered * weights + per.gathered_gradient * gradients


def _frozen(
    job: TrainingJob, params: RankParameters
) -> tuple[float, float, float, float, float, float]:
    """States of a frozen, perhaps quantised base with small trained adapters."""
    assert job.lora is not None
    layout, shape = job.layout, job.shape
    base = QUANTISED_BYTES[job.lora.base]
    ways = layout.sharded_over if layout.shard == "zero3" else 1
    element = 2.0 if job.pure_low_precision or layout.shard != "zero3" else 4.0
    linears = params.dense + params.experts
    head = 0 if shape.tied_embeddings else params.tables / 2
    per = element if job.lora.base == "none" else base
    weights = (per * (linears + head) + element * (params.tables - head)) / ways
    a = shape.attention
    trained = params.layers * job.lora.rank * (2 * shape.width + 2 * a.heads * a.head_dim)
    cast = 0.0
    if job.lora.base != "none":  # one matrix of the base at a time, back in 16 bits
        cast = 2.0 * max(head, shape.width * shape.ffn_width / layout.tp)
    elif ways > 1:
        cast = 2.0 * max(2 * params.largest_layer, params.tables)
    return weights, element * trained, 2 * element * trained, element * trained, cast, 0.0


def _peak(
    job: TrainingJob, stage: _Stage, kind: Kind, fitted: MemoryConstants
) -> tuple[float, dict[str, float]]:
    moving = stage.activations + max(stage.logits, stage.working) + stage.gathered
    small = min(moving, stage.step)
    named = {
        "weights": stage.weights,
        "gradients": stage.gradients,
        "optimizer": stage.optimizer,
        "activations": stage.activations,
        "logits": stage.logits if stage.logits > stage.working else 0.0,
        "working": stage.working if stage.working >= stage.logits else 0.0,
        "gathered": stage.gathered,
        "communication": stage.buckets,
        "step": 0.0 if kind == "allocated" and moving > stage.step else stage.step,
        "allocator": 0.0,
        "framework": 0.0,
    }
    if kind == "allocated":
        if stage.step > moving:
            for name in ("activations", "logits", "working", "gathered"):
                named[name] = 0.0
        return sum(named.values()), named
    slack, kept = fitted.slack_share, fitted.kept_share
    if job.stack in STATIC_ALLOCATOR:
        slack = kept = 0.0
    elif job.device.kind == "cpu":
        slack = ALLOCATOR_SHARE  # glibc's, fitted to resident memory
    named["allocator"] = slack * moving - (1 - kept) * small
    if kind == "smi":
        named["framework"] = _framework(job, fitted)
    return sum(named.values()), named


def _framework(job: TrainingJob, fitted: MemoryConstants) -> float:
    """Driver context, a piece for each multiprocessor, and buffers of each kind of communicator."""
    if job.device.kind != "gpu":
        return GIB * OTHER_FRAMEWORK_GIB
    layout = job.layout
    degrees = (layout.tp, layout.pp, layout.dp, layout.cp, layout.ep)
    family = job.device.name.partition("-")[0]
    size = MULTIPROCESSORS.get(family, NEWER_MULTIPROCESSORS) / MULTIPROCESSORS["a100"]
    groups = sum(degree > 1 for degree in degrees)
    return GIB * (fitted.context_gib * size + fitted.group_gib * groups)


def _phases(
    job: TrainingJob, stage: _Stage, kind: Kind, fitted: MemoryConstants
) -> dict[str, float]:
    framework = _framework(job, fitted) if kind == "smi" else 0.0
    steady = stage.weights + stage.gradients + stage.optimizer + stage.buckets + framework
    moving = stage.activations + stage.logits + stage.gathered
    peak = _peak(job, stage, kind, fitted)[0]
    layers = max(1, job.shape.layers // job.layout.pp)
    return {
        "load": stage.weights + framework,
        "forward": steady + moving,
        "backward": steady + moving + stage.working,
        "first_step": steady + stage.step,
        "steady_step": peak,
        "evaluation": steady + stage.activations / layers + stage.logits + stage.gathered,
        "save": steady,
    }
