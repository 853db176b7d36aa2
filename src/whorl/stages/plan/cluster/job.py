"""One training job on many devices: model, device, layout, batch, precision.

Names are the field's own: tp, pp, cp, ep and dp are the degrees of tensor, pipeline, context,
expert and data parallelism, vpp the model chunks per pipeline rank.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from whorl.arch.shape import ModelShape
from whorl.core.errors import SpecError
from whorl.stages.plan.cluster.devices import Device
from whorl.stages.plan.cluster.learning import NEXT_TOKENS, Learning
from whorl.stages.plan.software import Shard

__all__ = [
    "SELECTIVE_PARTS",
    "Layout",
    "Lora",
    "LossKind",
    "Optimizer",
    "Precision",
    "Recompute",
    "Shard",
    "Stack",
    "Task",
    "TrainingJob",
    "kinds_of",
]

Precision = Literal["fp32", "fp16", "bf16", "fp8", "fp8_block", "mxfp8", "nvfp4"]
Recompute = Literal["none", "selective", "full"]
Task = Literal["pretrain", "sft", "lora", "adapter", "full"]
Stack = Literal[  # the names of whorl.stages.plan.software
    "megatron",
    "megatron_bridge",
    "megatron_2021",
    "fsdp",
    "torchtitan",
    "hf",
    "deepspeed",
    "torchtune",
    "unsloth",
    "internevo",
    "oneflow",
    "xla",
    "whorl",
]
Schedule = Literal["1f1b", "interleaved", "zero_bubble"]
Optimizer = Literal[
    "adamw",
    "adamw_bf16",  # moments in bf16
    "adamw_8bit",
    "paged_adamw",  # moments in pages that the host takes when the device is full
    "paged_adamw_8bit",
    "adafactor",
    "lion",
    "lion_8bit",
    "muon",
    "sgd",
]
LossKind = Literal["", "eager", "fused", "chunked"]  # "": what the software does

# What selective recomputation may name; "core_attn" is what it means without a name.
SELECTIVE_PARTS = ("core_attn", "mlp", "layernorm", "moe_act", "mla_up_proj", "moe")


@dataclass(frozen=True)
class Layout:
    """How a model is spread. devices = dp * tp * pp * cp; experts reuse dp * cp (and tp) ranks."""

    devices: int
    tp: int = 1
    pp: int = 1
    vpp: int = 1
    cp: int = 1
    ep: int = 1
    shard: Shard = "zero1"
    shard_devices: int | None = None  # ranks one copy of the shards spans; None: all dp * cp
    micro_batch: int = 1  # sequences of one forward pass of one data-parallel rank
    recompute: Recompute = "none"
    recompute_parts: tuple[str, ...] = ()  # of SELECTIVE_PARTS, with recompute="selective"
    sequence_parallel: bool = True  # norms and residuals split over tp
    schedule: Schedule = "1f1b"
    offload_optimizer: bool = False
    offload_activations: bool = False

    def __post_init__(self) -> None:
        for name in ("devices", "tp", "pp", "vpp", "cp", "ep", "micro_batch"):
            if getattr(self, name) < 1:
                raise SpecError(f"layout.{name}", found=getattr(self, name), expected="at least 1")
        if self.devices % (self.tp * self.pp * self.cp):
            raise SpecError(
                f"{self.devices} devices are not divisible by tp {self.tp} x pp {self.pp} x "
                f"cp {self.cp}",
                do=f"use a multiple of {self.tp * self.pp * self.cp} devices",
            )
        if unknown := set(self.recompute_parts) - set(SELECTIVE_PARTS):
            raise SpecError(
                "layout.recompute_parts", found=sorted(unknown), expected=SELECTIVE_PARTS
            )

    @property
    def dp(self) -> int:
        return self.devices // (self.tp * self.pp * self.cp)

    @property
    def sharded_over(self) -> int:
        """Ranks over which optimiser state (and with zero3 the weights) is split."""
        if self.shard == "none":
            return 1
        whole = self.dp * self.cp
        return whole if self.shard_devices is None else min(self.shard_devices, whole)

    def with_(self, **changes: object) -> Layout:
        return replace(self, **changes)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Lora:
    """Low-rank fine-tuning of a frozen base."""

    rank: int = 8
    base: Literal["none", "nf4", "nf4-dq", "fp4", "int8", "int4"] = "none"  # int4: GPTQ, AWQ
    targets: Literal["qv", "attention", "all"] = "qv"  # linears that have adapters
    dora: bool = False  # a trained norm of each row of the sum: arXiv 2402.09353
    scales: bool = False  # a scale and a shift on every linear's output (adapter v2)


@dataclass(frozen=True)
class TrainingJob:
    """global_batch in sequences of seq_len tokens. Raises SpecError if it cannot be run."""

    shape: ModelShape
    device: Device
    layout: Layout
    seq_len: int
    global_batch: int
    precision: Precision = "bf16"
    optimizer: Optimizer = "adamw"
    stack: Stack = "whorl"
    task: Task = "pretrain"
    lora: Lora | None = None
    pure_low_precision: bool = False  # weights, gradients and optimiser state in 2 bytes
    flash_attention: bool = True
    loss: LossKind = ""
    learning: Learning = NEXT_TOKENS
    images: int = 0  # of one sequence, of a model that sees
    image_pixels: int = 0  # of one
    per_example: int = 1  # sequences of one example, which pass together: two of a preference
    document_tokens: int = 0  # mean length of packed documents; 0: attention sees all of seq_len
    step_in_backward: bool = False  # each gradient is used and dropped as it is made
    overlap: bool = True  # gradients are exchanged beside the backward pass
    compiled: bool = True  # layers' element-wise work is fused, where the software can
    causal_flops: bool = True  # the kernel skips what the mask hides

    def __post_init__(self) -> None:
        layout, heads = self.layout, self.shape.attention.heads
        for name in ("seq_len", "global_batch"):
            if (value := getattr(self, name)) < 1 or value != int(value):
                raise SpecError(f"job: {name}", found=value, expected="a whole number >= 1")
        if layout.tp > heads or heads % layout.tp:
            raise SpecError(
                f"tp {layout.tp} does not divide the {heads} attention heads of {self.shape.name}",
                do=f"use a divisor of {heads}",
            )
        experts = self.shape.experts
        if layout.ep > 1 and (experts is None or experts.count % layout.ep):
            raise SpecError(
                f"ep {layout.ep} does not divide the experts of {self.shape.name}",
                found=0 if experts is None else experts.count,
            )
        if layout.pp * layout.vpp > self.shape.layers + 2:  # embedding and head may be stages
            raise SpecError(
                f"pp {layout.pp} x vpp {layout.vpp} is more than the {self.shape.layers} layers",
                do="use fewer pipeline stages",
            )

    @property
    def micro_batches(self) -> int:
        """Forward passes of one data-parallel rank in one step."""
        return max(1, -(-self.global_batch // (self.layout.dp * self.layout.micro_batch)))

    @property
    def tokens_per_step(self) -> int:
        return self.global_batch * self.seq_len


def kinds_of(job: TrainingJob) -> tuple[str, str]:
    """(device, "software kind"): what decides whether a job is of a kind that was fitted."""
    return job.device.name, f"{job.stack} {'experts' if job.shape.experts else 'dense'}"
