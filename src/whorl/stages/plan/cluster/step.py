"""Step time of a training job, with its parts, its interval and how far it is from the peak.

Uncalibrated, the constants are those fitted on published steps. `calibrate` moves them by one or
more measured steps of a machine and its software, each constant by as much as the step depends on
it and as its spread allows: the Gaussian update of a linear model in logarithms.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from whorl.arch.layers import layers_with
from whorl.arch.shape import ModelShape
from whorl.arch.shape_counts import flops_per_token
from whorl.core.errors import SpecError
from whorl.stages.plan.cluster.amounts import amounts
from whorl.stages.plan.cluster.images import beside_flops
from whorl.stages.plan.cluster.job import TrainingJob, kinds_of
from whorl.stages.plan.cluster.learning import rollout
from whorl.stages.plan.cluster.memory_rows import completed
from whorl.stages.plan.cluster.rows import PublishedRow
from whorl.stages.plan.cluster.seconds import (
    PARTS,
    Constants,
    Table,
    constants,
    jacobian,
    prior,
    seconds,
    sources,
    table,
)

__all__ = [
    "MeasuredStep",
    "Model",
    "RowFigures",
    "StepTime",
    "calibrate",
    "predict_rows",
    "row_steps",
    "step_time",
    "step_times",
    "training_flops",
    "unstated",
    "untested",
]

Array = NDArray[np.float64]
RowFigures = tuple[float, float, float]  # predicted, low, high; in the row's metric
MEASURED_NOISE = 0.06  # of log time: steps with identical inputs differ by 3 to 7% (published rows)
# Of log time, of what a row does not state; of its device, half way from an A100 to an H100.
UNSTATED_NOISE = {"recompute": 0.1, "micro_batch": 0.1, "vpp": 0.1, "global_batch": 0.1}
UNSTATED_NOISE |= {"document_tokens": 0.1, "device": 0.25}
SCANS = "no timed step or peak of a model with scans is known: both are counted, not fitted"


@dataclass(frozen=True)
class StepTime:
    """Seconds. low and high: 90% interval; they equal step_s when none was asked for."""

    step_s: float
    low_s: float
    high_s: float
    parts_s: dict[str, float]  # by the names of PARTS; they add up to step_s
    tokens_per_s_per_device: float
    mfu: float  # model FLOPs (causal, no recomputation) against the peak of the products' type
    roofline_s: float  # those FLOPs at that peak on every device: the speed of light


@dataclass(frozen=True)
class MeasuredStep:
    job: TrainingJob
    step_s: float

    def __post_init__(self) -> None:
        if not 0 < self.step_s < float("inf"):
            raise SpecError("a measured step", found=self.step_s, expected="seconds above 0")


@dataclass(frozen=True)
class Model:
    """Constants with their spread: [constants] and [constants, constants]."""

    theta: Array
    covariance: Array
    fitted: Constants
    tables: bool = False  # products as fast as measured where there are tables (tables.py)

    def amounts(self, jobs: Iterable[TrainingJob]) -> Table:
        return table([amounts(job, self.tables) for job in jobs])

    def doubt(self, job: TrainingJob) -> float:
        """Standard deviation of log time that an unknown device or software adds."""
        of = self.fitted
        device, software = (kind not in of.seen for kind in kinds_of(job))
        return math.hypot(device * of.unseen_device, software * of.unseen_software)

    def spread(self, slopes: Array, extra: Array | float = 0.0) -> Array:
        """Standard deviation of log time: slopes [jobs, constants] -> [jobs]."""
        variance = np.einsum("ji,ik,jk->j", slopes, self.covariance, slopes)
        result: Array = np.sqrt(np.maximum(variance, 0) + self.fitted.noise**2 + np.square(extra))
        return result

    def factor(self, rows: Table, slopes: Array, extra: Array | float = 0.0) -> Array:
        """High end of the 90% interval over the middle, and the middle over its low end: [jobs]."""
        width = np.where(rows["moe"] > 0, self.fitted.expert_width, self.fitted.dense_width)
        return np.asarray(np.exp(width * self.spread(slopes, extra)))


def _model(found: Constants, tables: bool = False) -> Model:
    return Model(found.array(), np.diag(prior().sigmas ** 2), found, tables)


def calibrate(
    measured: Iterable[MeasuredStep], without: str | None = None, *, tables: bool = False
) -> Model:
    """The model after steps measured on one machine with one software.

    without: a source of published steps whose own rows must not have been used (for scoring).
    tables: the model looks products up; MissingExtra at its first use without the tables.
    """
    model = _model(constants(without), tables)
    steps = list(measured)
    if not steps:
        return model
    rows = model.amounts(item.job for item in steps)
    base, slopes = jacobian(model.theta, rows)
    residual = np.log([item.step_s for item in steps]) - base
    shared = model.covariance @ slopes.T
    total = slopes @ shared + MEASURED_NOISE**2 * np.eye(len(steps))
    gain = np.linalg.solve(total, shared.T).T
    seen = model.fitted.seen.union(*(kinds_of(item.job) for item in steps))
    return replace(
        model,
        theta=model.theta + gain @ residual,
        covariance=model.covariance - gain @ shared.T,
        fitted=replace(model.fitted, seen=seen),
    )


def step_time(job: TrainingJob, model: Model | None = None) -> StepTime:
    """One job with its 90% interval."""
    return step_times([job], model, intervals=True)[0]


def step_times(
    jobs: Sequence[TrainingJob], model: Model | None = None, *, intervals: bool = False
) -> list[StepTime]:
    """All jobs at once, in their order; intervals cost fifty times as much."""
    if not jobs:
        return []
    if (measured := jobs[0].device.measured) is not None:
        return [measured.step(job) for job in jobs]
    model = model or _model(constants())
    rows = model.amounts(jobs)
    step, parts = seconds(model.theta, rows)
    factor = np.ones(len(jobs))
    if intervals:
        doubts = np.array([model.doubt(job) for job in jobs])
        factor = model.factor(rows, jacobian(model.theta, rows)[1], doubts)
    columns = np.stack([parts[name] for name in PARTS], axis=1).tolist()
    flops = np.array([training_flops(job) for job in jobs])
    devices = np.array([job.layout.devices for job in jobs])
    roofline = flops / devices / rows["low_peak"]
    rate = rows["step_tokens_per_device"] / step
    found = [
        StepTime(
            step_s=float(step[index]),
            low_s=float(step[index] / factor[index]),
            high_s=float(step[index] * factor[index]),
            parts_s=dict(zip(PARTS, columns[index], strict=True)),
            tokens_per_s_per_device=float(rate[index]),
            mfu=float(roofline[index] / step[index]),
            roofline_s=float(roofline[index]),
        )
        for index in range(len(jobs))
    ]
    return [_with_rollout(job, item, model) for job, item in zip(jobs, found, strict=True)]


def _with_rollout(job: TrainingJob, step: StepTime, model: Model) -> StepTime:
    """The step with what it learns from written before it."""
    launch_s = math.exp(model.theta[prior().names.index("launch_eager_s")])
    written = rollout(job, launch_s)
    if written is None:
        return step
    whole = step.step_s + written.seconds
    asked = step.low_s != step.high_s
    return replace(
        step,
        step_s=whole,
        low_s=step.low_s + written.low_s if asked else whole,
        high_s=step.high_s + written.high_s if asked else whole,
        parts_s={**step.parts_s, "generation": written.seconds},
        tokens_per_s_per_device=step.tokens_per_s_per_device * step.step_s / whole,
        mfu=step.mfu * step.step_s / whole,
    )


def training_flops(job: TrainingJob) -> float:
    """Of one step, without recomputation."""
    passes = 2 if job.task in ("lora", "adapter") else 3
    head = 2.0 * job.shape.vocab_size * job.shape.width * (1 - job.learning.head_share(job.seq_len))
    seen = beside_flops(job, passes) - sum(part.flops_per_token for part in job.shape.beside)
    forward = _forward_flops(job.shape, job.seq_len) - head + seen
    return passes * forward * job.tokens_per_step


@lru_cache(maxsize=256)
def _forward_flops(shape: ModelShape, seq_len: int) -> float:
    return flops_per_token(shape, seq_len).forward


def predict_rows(rows: Sequence[PublishedRow]) -> list[RowFigures | None]:
    """Tokens per second and device of each row, in order; None where it has no job.

    Never from its measured columns, nor by constants that were fitted on its source.
    """
    rows = [completed(row) for row in rows]
    found: list[RowFigures | None] = [None] * len(rows)
    groups: dict[str | None, list[int]] = {}
    known = set(sources())
    for index, row in enumerate(rows):
        if row.job is not None:
            source = row.source if row.source in known else None
            groups.setdefault(source, []).append(index)
    for source, indices in groups.items():
        model = _model(constants(source))
        chosen = [rows[index] for index in indices]
        step, factor = row_steps(model, chosen)
        for index, row, center, width in zip(indices, chosen, step, factor, strict=True):
            assert row.job is not None
            rate = row.job.tokens_per_step / row.job.layout.devices / center
            found[index] = (float(rate), float(rate / width), float(rate * width))
    return found


def row_steps(model: Model, rows: Sequence[PublishedRow]) -> tuple[Array, Array]:
    """(step seconds, high over middle), each [rows]; every row must have a job."""
    counted = model.amounts(row.job for row in rows if row.job is not None)
    base, slopes = jacobian(model.theta, counted)
    doubts = [math.hypot(unstated(row), model.doubt(row.job)) for row in rows if row.job]
    return np.exp(base), model.factor(counted, slopes, np.array(doubts))


def unstated(row: PublishedRow) -> float:
    """Standard deviation of log time that what a row leaves out adds."""
    return math.hypot(*(UNSTATED_NOISE.get(name, 0.0) for name in sorted(row.inferred)))


def untested(job: TrainingJob) -> list[str]:
    """What to tell the reader where no step of the device or the software was ever fitted."""
    told = [SCANS] if layers_with(job.shape, "scan") else []
    if (measured := job.device.measured) is not None:
        return [*told, *measured.doubts()]
    device, software = kinds_of(job)
    known = constants().seen
    if device not in known:
        told.append(f"no timed step of {device} is known: predicted from its data sheet alone")
    if software not in known:
        told.append(f"no timed step of {software} models is known: predicted by its kin")
    return told
