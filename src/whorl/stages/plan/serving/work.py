"""What one pass of a served model costs at the device's own rates: bytes, FLOPs, messages.

A pass is one step of the engine: `tokens` new tokens of `sequences` requests. Times here are the
speed of light (work over the data sheet's rate); `times.py` adds what is lost on the way.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from whorl.arch.layers import blocks, layers_with
from whorl.arch.shape import ModelShape
from whorl.arch.shape_counts import count_shape, flops_per_token, kv_bytes_per_token
from whorl.core.errors import SpecError
from whorl.stages.plan.cluster.devices import Device
from whorl.stages.plan.facts import fact

__all__ = [
    "QUANTISATIONS",
    "Deployment",
    "PassWork",
    "Quantisation",
    "decode_work",
    "distinct_experts",
    "prefill_work",
]


@dataclass(frozen=True)
class Quantisation:
    """Bytes of one weight with its scales; the type it is multiplied in; one cache element."""

    name: str
    weight_bytes: float
    compute: str
    cache_bytes: float
    experts_only: bool = False  # a mixture of experts keeps its other matrices at 16 bit


QUANTISATIONS = {name: Quantisation(name, **of) for name, of in fact("quantisations").items()}
ACTIVATION_BYTES = 2.0
TABLE_BYTES = 2.0  # embedding and head stay at 16 bit or wider


@dataclass(frozen=True)
class Deployment:
    """One replica: a model on `devices` devices. Raises SpecError on impossible splits."""

    shape: ModelShape
    device: Device
    devices: int  # tensor parallel
    quantisation: Quantisation
    attention_replicas: int = 1  # groups of devices that each serve their own requests' attention

    def __post_init__(self) -> None:
        heads = self.shape.attention.heads
        if self.devices < 1 or heads % self.attention_parallel:
            raise SpecError(
                f"{self.shape.name} on {self.devices} devices: attention heads do not divide",
                found=f"{heads} heads",
                expected="a number of devices that divides the heads",
            )
        if self.devices % self.attention_replicas:
            raise SpecError(
                "attention replicas", found=self.attention_replicas, expected="a divisor of devices"
            )

    @property
    def attention_parallel(self) -> int:
        return max(1, self.devices // self.attention_replicas)

    @property
    def cache_shards(self) -> int:
        """Devices that split one request's cache: no more than key-value heads; MLA copies it."""
        a = self.shape.attention
        return 1 if a.latent is not None else min(self.attention_parallel, a.kv_heads)

    def cache_bytes(self, context: int) -> float:
        """Of one request of `context` tokens on one device; a scan's state is split like heads."""
        keys = kv_bytes_per_token(self.shape, self.quantisation.cache_bytes, context, 0.0)
        mixer = self.shape.attention.mixer
        each = 0.0 if mixer is None else mixer.state_bytes
        state = kv_bytes_per_token(self.shape, 0.0, context, each) / self.attention_parallel
        return context * (keys / self.cache_shards + state)

    def weight_parts(self) -> tuple[float, float, float]:
        """Bytes on one device: attention and dense matrices, head, all routed experts."""
        counts, q = count_shape(self.shape), self.quantisation
        moe = self.shape.experts is not None
        attention_bytes = TABLE_BYTES if moe and q.experts_only else q.weight_bytes
        dense = counts.attention * attention_bytes / self.attention_parallel
        feed_forward = counts.feed_forward + counts.shared_experts + counts.routers
        dense += feed_forward * q.weight_bytes / self.devices
        head = self.shape.vocab_size * self.shape.width * max(TABLE_BYTES, q.weight_bytes)
        return dense, head / self.devices, counts.experts * q.weight_bytes / self.devices

    @property
    def weight_bytes(self) -> float:
        """Resident on one device; the input embedding too, split like the head."""
        dense, head, experts = self.weight_parts()
        copies = 1 if self.shape.tied_embeddings else 2
        beside = count_shape(self.shape).beside * TABLE_BYTES / self.devices
        return dense + copies * head + experts + beside


@dataclass(frozen=True)
class PassWork:
    """Seconds of one pass on one device at its peak rates, and what has a fixed price."""

    weights_s: float  # reading dense matrices and the head
    experts_s: float  # reading the routed experts that some token of the pass chose
    cache_s: float  # reading keys and values
    compute_s: float  # dense matrix products, at the type they are multiplied in
    expert_compute_s: float  # products of the routed experts
    activations_s: float  # writing the hidden state once per layer, which no split divides
    routed_s: float  # writing it once more for each expert it is sent to
    attention_s: float  # scores and weighted sums, at bf16
    network_s: float  # bytes of the all-reduces over the link
    reduces: float  # number of all-reduces
    layers: float
    expert_layers: float


def distinct_experts(count: int, active: int, tokens: float) -> float:
    """Expected experts of one layer chosen by at least one of `tokens` even-handed tokens.

    count (1 - (1 - active / count)^tokens): each token picks `active` of `count`.
    """
    return count * -math.expm1(tokens * math.log1p(-active / count)) if active < count else count


def decode_work(deployment: Deployment, sequences: float, context: int) -> PassWork:
    """One new token for each of `sequences` requests, `context` tokens each so far."""
    a = deployment.shape.attention
    if a.latent is None:
        elements = a.head_dim + a.values
    else:  # latent attention decodes in the latent space (DeepSeek-V2, section 2.1.2)
        elements = 2 * a.latent.kv_rank + a.latent.rope_dim
    window = context if a.window is None else min(context, a.window)
    seeing = layers_with(deployment.shape, "attention")
    seen = (seeing - a.window_layers) * context + a.window_layers * window
    flops = 2.0 * a.heads * elements * seen * sequences
    if a.mixer is not None:
        scans = layers_with(deployment.shape, "scan") * sequences
        flops += a.mixer.scan_flops * a.mixer.inner * a.mixer.state * scans
    cache = deployment.cache_bytes(context) * sequences / deployment.attention_replicas
    return _pass(deployment, sequences, sequences, flops, cache)


def prefill_work(deployment: Deployment, prompts: float, length: int) -> PassWork:
    """`prompts` whole prompts of `length` tokens each; only their last tokens meet the head."""
    flops = flops_per_token(deployment.shape, length).attention * length * prompts
    return _pass(deployment, prompts * length, prompts, flops, 0.0)


def _pass(
    d: Deployment, tokens: float, sequences: float, attention_flops: float, cache: float
) -> PassWork:
    shape, device, n = d.shape, d.device, d.devices
    counts = count_shape(shape)
    dense, head, experts = d.weight_parts()
    e = shape.experts
    if e is not None:
        experts *= distinct_experts(e.count, e.active, tokens) / e.count
    table = shape.vocab_size * shape.width
    rate = device.peak(compute_type(device, d.quantisation)) * n
    routed = counts.active_experts
    flops = 2.0 * ((counts.matmul_active - table - routed) * tokens + table * sequences)
    message = 2 * (n - 1) / n * tokens * shape.width * ACTIVATION_BYTES
    inside = n <= device.node_devices
    link = device.link_bytes_per_s if inside else device.network_bytes_per_s
    bandwidth = device.memory_bytes_per_s
    hidden = tokens * shape.width * ACTIVATION_BYTES / bandwidth
    layers = blocks(shape) / 2  # whole ones, of two blocks
    reduces = 2 * layers if n > 1 else 0.0
    sent = hidden * shape.routed_width / shape.width
    return PassWork(
        weights_s=(dense + head) / bandwidth,
        experts_s=experts / bandwidth,
        cache_s=cache / bandwidth,
        compute_s=flops / rate,
        expert_compute_s=2.0 * routed * tokens / rate,
        activations_s=layers * hidden,
        routed_s=0.0 if e is None else shape.expert_layers * e.active * sent,
        attention_s=attention_flops / n / device.peak("bf16"),
        network_s=reduces * message / link,
        reduces=reduces,
        layers=layers,
        expert_layers=float(shape.expert_layers),
    )


def compute_type(device: Device, quantisation: Quantisation) -> str:
    """What the products run in: weights of a type the device lacks are widened to bf16."""
    return quantisation.compute if quantisation.compute in device.flops_per_s else "bf16"
