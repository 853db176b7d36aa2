"""This machine as a device among others: `--device here`. Time and memory of a job on it are those
of a recipe's plan, by the rates that its calibration measured.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from typing import Any, cast

from whorl.arch.adapter_cost import AdapterCost, FrozenBase, adapter_cost
from whorl.arch.computable import check_computable
from whorl.arch.shape_counts import flops_per_token
from whorl.core.errors import SpecError
from whorl.stages.plan.cluster.devices import HERE, Device
from whorl.stages.plan.cluster.job import Layout, Lora, TrainingJob
from whorl.stages.plan.cluster.memory import RankMemory
from whorl.stages.plan.cluster.seconds import PARTS
from whorl.stages.plan.cluster.step import StepTime, training_flops
from whorl.stages.plan.hardware import Machine
from whorl.stages.plan.memory import HELD_BYTES, MEMORY_LOW, MEMORY_MARGIN, PeakMemory, peak_memory
from whorl.stages.plan.step_time import (
    DATA_S,
    MEAN_OVER_FASTEST,
    Level,
    Load,
    StepParts,
    fit_level,
    step_time,
    time_factor,
)

__all__ = ["Calibrated", "Here", "here"]

PRECISIONS, OPTIMIZERS = ("fp32", "bf16"), ("adamw", "muon", "sgd")
BASES = ("none", "int8", "nf4")
TARGETS = {"qv": ("q_proj", "v_proj"), "attention": ("q_proj", "k_proj", "v_proj", "o_proj")}
CALIBRATED = (
    "time is by the calibration of this machine, made on small models; a recipe with model.base "
    "rehearses a step of its own"
)
RECIPE = "a recipe says more of a training here: whorl new"
# What the calibration reckons with, of a layout and of a job; of the rest the usual alone.
SPLIT = frozenset({"devices", "shard", "micro_batch"})
READ = frozenset({"learning", "per_example", "document_tokens", "lora", "task", "optimizer"})
READ |= {"shape", "device", "layout", "seq_len", "global_batch", "precision", "stack"}
SAID = {"flash_attention": "--attention eager", "pure_low_precision": "weights in 2 bytes"}


@dataclass(frozen=True)
class Here(Device):
    """Rates of the data sheet's kind are the best that were measured, all cores together."""

    machine: Machine | None = field(default=None, compare=False, repr=False)

    @cached_property
    def measured(self) -> Calibrated | None:
        return None if self.machine is None else Calibrated(self.machine)

    @property
    def usual_precision(self) -> str:
        """What the calibration took: bf16 must save a tenth."""
        found = self.machine and self.machine.calibration.settings["precision"]
        return str(found or super().usual_precision)


def here(machine: Machine) -> Here:
    facts, found = machine.facts, machine.calibration
    lanes = int(found.settings["lanes"])  # rates are those of one lane's threads
    peaks: dict[str, float] = {}
    for rate in found.matmuls:
        peaks[rate.precision] = max(peaks.get(rate.precision, 0.0), lanes * rate.flops_per_s)
    bytes_per_s = max(found.traffic, key=lambda rate: rate.num_bytes).bytes_per_s
    return Here(
        name=HERE,
        kind="cpu",
        memory_bytes=facts.memory_bytes,
        memory_bytes_per_s=lanes * bytes_per_s,
        flops_per_s=peaks,
        node_devices=1,
        link_bytes_per_s=lanes * bytes_per_s,
        network_bytes_per_s=lanes * bytes_per_s,
        power_w=0.0,
        usd_per_hour=0.0,
        sources=(f"all rates: calibration of {found.measured_at}",),
        notes=facts.cpu,
        multiprocessors=facts.cores,
        machine=machine,
    )


@dataclass(frozen=True)
class Calibrated:
    """Time and memory of jobs on one machine."""

    machine: Machine

    @cached_property
    def level(self) -> Level:
        return fit_level(self.machine.calibration)

    def load(self, job: TrainingJob) -> Load:
        """What a step of it does here. Raises SpecError for what whorl does not do on a CPU."""
        check_computable(job.shape, "train")
        _check(job)
        ways = self.machine.calibration.settings
        frozen = job.learning.other == "model"
        load = Load(
            shape=job.shape,
            seq_len=job.seq_len,
            rows=job.layout.micro_batch,
            micro_batches=job.micro_batches,
            lanes=min(int(ways["lanes"]), job.micro_batches),
            precision="bf16" if job.precision == "bf16" else "fp32",
            attention_dtype=ways.get("attention_dtype", "fp32"),
            optimizer=job.optimizer,
            mixed_share=float(0 < job.document_tokens < job.seq_len),
            compiled=job.task == "pretrain" and bool(ways["compiled"]),
            adapters=None if job.lora is None else _adapters(job, job.lora),
        )
        load = replace(load, beside_bytes=load.state.weights) if frozen else load
        while load.lanes > 1 and MEMORY_MARGIN * self._peak(load).total > job.device.memory_bytes:
            load = replace(load, lanes=load.lanes // 2)
        return load

    def _peak(self, load: Load) -> PeakMemory:
        return peak_memory(load, self.machine.calibration.base_memory_bytes + HELD_BYTES)

    def step(self, job: TrainingJob) -> StepTime:
        """With the 90% interval that a recipe's plan has."""
        load, found = self.load(job), self.machine.calibration
        times = step_time(load, found).at(self.level, load.compiled)
        scale = MEAN_OVER_FASTEST * (1 + _asked_again(job, load))
        scale *= load.lanes / int(found.settings["lanes"])  # fewer lanes have more threads each
        parts = {name: scale * value for name, value in _named(times).items()}
        parts["other"] += DATA_S
        step_s, factor = sum(parts.values()), time_factor(found, self.level)
        roofline_s = training_flops(job) / job.device.peak(job.precision)
        return StepTime(
            step_s=step_s,
            low_s=step_s / factor,
            high_s=step_s * factor,
            parts_s=parts,
            tokens_per_s_per_device=job.tokens_per_step / step_s,
            mfu=roofline_s / step_s,
            roofline_s=roofline_s,
        )

    def doubts(self) -> list[str]:
        """What a reader of its figures should know."""
        busy = self.machine.calibration.doubt
        return [CALIBRATED, *([busy] if busy else ())]

    def memory(self, job: TrainingJob) -> RankMemory:
        found = self._peak(self.load(job))
        parts = {name: float(size) for name, size in asdict(found).items()}
        peak = float(found.total)
        held = parts["process"] + parts["weights"]
        phases = {"load": held, "steady_step": peak, "save": held + parts["optimizer"]}
        return RankMemory(parts, phases, 0, peak, MEMORY_LOW * peak, MEMORY_MARGIN * peak)


def _check(job: TrainingJob) -> None:
    layout, learning, kind = job.layout, job.learning, job.learning.kind
    split, others = _unusual(layout, SPLIT), _unusual(job, READ)
    lora, reference = job.lora or Lora(), "model" if job.lora is None else "adapters"
    pairs = kind != "dpo" or (learning.other == reference and job.per_example == 2)
    asked = f"--objective dpo,reference={learning.other},sequences={job.per_example}"
    for is_wrong, what, expected in (
        (layout.devices != 1, f"a layout of {layout.devices} devices", "one device"),
        (bool(split), f"--layout {','.join(split)}", "mbs alone"),
        (job.stack != "whorl", f"--stack {job.stack}", "whorl"),
        (job.precision not in PRECISIONS, f"--precision {job.precision}", "fp32, bf16"),
        (job.optimizer not in OPTIMIZERS, f"--optimizer {job.optimizer}", "adamw, muon, sgd"),
        (lora.base not in BASES, f"--base-format {lora.base}", ", ".join(BASES)),
        (kind not in ("tokens", "dpo"), f"--objective {kind}", "dpo, or none"),
        (not pairs, asked, f"dpo,reference={reference},sequences=2"),
        (lora.scales, "scales of every output", "low-rank adapters"),
        (bool(others), ", ".join(others), "what whorl does by itself"),
    ):
        if is_wrong:
            raise SpecError(f"--device {HERE}: {what}", expected=expected, do=RECIPE)


def _unusual(value: Layout | TrainingJob, read: frozenset[str]) -> list[str]:
    """What differs from the defaults and is not read, in the words of its flag."""
    found: dict[str, Any] = {
        item.name: getattr(value, item.name)
        for item in fields(value)
        if item.name not in read and getattr(value, item.name) != item.default
    }
    if isinstance(value, Layout):
        return [f"{name}={item}" for name, item in found.items()]
    if value.loss == "chunked":  # whorl's own
        del found["loss"]
    return [SAID.get(name, f"--{name.replace('_', '-')} {found[name]}") for name in found]


def _adapters(job: TrainingJob, lora: Lora) -> AdapterCost:
    targets = TARGETS.get(lora.targets, "all")
    base = cast(FrozenBase, lora.base)  # _check has seen to it
    return adapter_cost(job.shape, job.seq_len, lora.rank, targets, lora.dora, base)


def _asked_again(job: TrainingJob, load: Load) -> float:
    """A reference's forward pass, of the trained model's step."""
    if job.learning.other not in ("model", "adapters"):
        return 0.0
    own = flops_per_token(job.shape, job.seq_len)
    trained = own.training if load.adapters is None else load.adapters.training_flops
    return own.forward / trained


def _named(times: StepParts) -> dict[str, float]:
    """By the names that a step's parts have on every device."""
    return dict.fromkeys(PARTS, 0.0) | {
        "compute": times.matmul_s + times.loss_s,
        "attention": times.attention_s + times.masked_s,
        "memory": times.traffic_s,
        "launch": times.overhead_s,
        "optimizer": times.optimizer_s,
    }
