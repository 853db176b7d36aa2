"""What plan knows of the machine: facts that do not change, and figures that were measured.

`launch/machine.py` reads the facts and `launch/calibrate.py` measures the figures; plan sees
only these objects. A plan's record is keyed by `MachineFacts.identity` alone, so that measuring
again never makes the same plan twice.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from pydantic import Field

from whorl.core.digests import digest_value
from whorl.core.frozen import Frozen

__all__ = [
    "BUSY_SHARE",
    "AttentionRate",
    "Calibration",
    "Machine",
    "MachineFacts",
    "MatmulRate",
    "MeasuredChoice",
    "ReferenceStep",
    "TrafficRate",
    "settings_of",
]

GIB = 2**30
NOISY = 0.15  # of a calibration: repeats varied by more than this
BUSY_SHARE = 0.25  # of all cores
Precision = Literal["fp32", "bf16"]


class MachineFacts(Frozen):
    """Of this process: cores and memory it may use, container limits included."""

    device: Literal["cpu"] = "cpu"
    cpu: str = Field(description="model name of the processor")
    cores: int = Field(ge=1)
    physical_cores: int | None = Field(
        None, ge=1, description="of them, two threads of a core counted once; None: not known"
    )
    memory_bytes: int = Field(gt=0)
    bf16: bool = Field(description="the processor multiplies bfloat16 in hardware")

    @property
    def identity(self) -> str:
        """Name of this kind of machine: device, cores, memory in GiB, processor."""
        memory_gib = max(1, round(self.memory_bytes / GIB))
        kind = digest_value({"device": self.device, "cpu": self.cpu, "bf16": self.bf16})[:8]
        return f"{self.device}-{self.cores}c-{memory_gib}g-{kind}"


class MatmulRate(Frozen):
    """y = x W^T and its two gradients, together: x [tokens, columns], W [rows, columns].

    This and the other rates are those of one lane's threads.
    """

    precision: Precision
    tokens: int
    columns: int
    rows: int
    flops_per_s: float


class AttentionRate(Frozen):
    """Scaled dot-product attention, forward and backward."""

    precision: Precision
    seq_len: int
    head_dim: int
    masked: bool
    pairs_per_s: float = Field(description="seq_len² pairs of all heads and rows, per second")


class TrafficRate(Frozen):
    """c = a + b on float32 arrays of `num_bytes` bytes in all."""

    num_bytes: int
    bytes_per_s: float


class ReferenceStep(Frozen):
    """One whole training step, timed: it sets the level that the operators' shapes do not."""

    layers: int
    width: int
    head_dim: int
    ffn_width: int
    vocab_size: int
    seq_len: int
    rows: int
    precision: Precision
    masked: bool
    lanes: int = 1
    attention_dtype: Precision = "fp32"
    compiled: bool = False
    step_s: float


class MeasuredChoice(Frozen):
    """One of several ways to compute, and the times here that it was chosen by."""

    key: str = Field(description="of the recipe, dotted")
    what: str = Field(description="what was timed")
    taken: str
    seconds: dict[str, float] = Field(description="way -> fastest seconds")
    settings: dict[str, bool | int | str] = Field(
        description="fields of TrainConfig that carry it out"
    )
    note: str = ""

    @property
    def reason(self) -> str:
        """In words: what was taken, what was timed, each way's time, fastest first."""
        ranked = sorted(self.seconds, key=lambda name: self.seconds[name])
        if not ranked:
            return f"{self.taken} taken; {self.note}"
        times = ", ".join(f"{name} {1000 * self.seconds[name]:.3g} ms" for name in ranked)
        found = f"{self.taken} taken; measured: {self.what}: {times}"
        return found + (f"; {self.note}" if self.note else "")


def settings_of(choices: Iterable[MeasuredChoice]) -> dict[str, Any]:
    """Fields of TrainConfig that carry all of them out."""
    return {name: value for choice in choices for name, value in choice.settings.items()}


class Calibration(Frozen):
    """Measured figures of one machine; the best of several tries each."""

    version: int = 3
    identity: str
    measured_at: str = Field(description="UTC, ISO 8601")
    torch: str
    threads: int
    matmuls: tuple[MatmulRate, ...]
    orthogonalise: tuple[MatmulRate, ...] = Field(description="products of Muon's iteration")
    attentions: tuple[AttentionRate, ...]
    traffic: tuple[TrafficRate, ...]
    exponentials_per_s: float
    operation_s: float = Field(description="cost of one small operation with its gradient")
    base_memory_bytes: int = Field(description="of a process that has loaded the framework")
    choices: tuple[MeasuredChoice, ...] = Field(description="how to compute here, and why")
    steps: tuple[ReferenceStep, ...]
    compiled_steps: tuple[ReferenceStep, ...] = Field(
        (), description="one step as its blocks are written, and with compiled blocks"
    )
    compiling_s: float = Field(0.0, description="what compiling such blocks took, once")
    busy: float = Field(0.0, description="share of all cores that others used then")
    noise: float = Field(description="median over all that was timed of (median - best) / best")
    measured: int = Field(0, description="of what was to be timed, what was")
    wanted: int = Field(0, description="how much that was; the rest is as of a usual machine")
    took_s: float

    @property
    def was_busy(self) -> bool:
        """Whether others left so little of the machine that a quiet one may be faster."""
        return self.busy > BUSY_SHARE

    @property
    def missing_share(self) -> float:
        """Of what was to be timed."""
        return 1 - self.measured / self.wanted if self.wanted else 0.0

    @property
    def settings(self) -> dict[str, Any]:
        """Fields of TrainConfig that the choices decide."""
        plain = {"threads": self.threads, "lanes": 1, "compiled": False}
        return plain | settings_of(self.choices)

    @property
    def doubt(self) -> str:
        """What to tell of a machine that was not quiet; empty if it was."""
        if self.noise <= NOISY and not self.was_busy and not self.missing_share:
            return ""
        some = f", {self.measured} of {self.wanted} figures were measured, the rest is usual ones"
        return (
            f"the machine was busy when it was measured (others used {self.busy:.0%} of it, "
            f"repeats varied by {self.noise:.0%}{some if self.missing_share else ''}): times may "
            "be too long; whorl doctor --calibrate repeats it"
        )

    def choice(self, key: str) -> MeasuredChoice | None:
        """What was chosen for a key of the recipe; None: nothing was timed for it."""
        return next((choice for choice in self.choices if choice.key == key), None)

    @property
    def digest(self) -> str:
        return digest_value(self.model_dump(mode="json"))[:32]


class Machine(Frozen):
    facts: MachineFacts
    calibration: Calibration
