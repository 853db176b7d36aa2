"""What one step asks of one device: FLOPs, bytes, messages and launches, counted from the layout.

Nothing here is fitted. Amounts are those of the busiest pipeline rank, per micro-batch unless a
field says "step"; `seconds.py` turns them into time. Collectives are rings: a group of n devices
moves (n-1)/n of the data once per gather or scatter (Thakur et al. 2005).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from whorl.arch.layers import block_count, layer_kinds, layer_matrices, layer_parts
from whorl.arch.shape import ModelShape
from whorl.arch.shape_counts import flops_per_token
from whorl.stages.plan.cluster.devices import Device
from whorl.stages.plan.cluster.exchange import (
    FULL,
    HALF,
    element_bytes,
    expert_ways,
    ring,
    sharding_amounts,
)
from whorl.stages.plan.cluster.images import beside_flops
from whorl.stages.plan.cluster.job import TrainingJob
from whorl.stages.plan.cluster.learning import other_passes
from whorl.stages.plan.cluster.memory_states import QUANTISED_BYTES
from whorl.stages.plan.cluster.tables import layer_products_s
from whorl.stages.plan.facts import fact
from whorl.stages.plan.software import Rates, software

__all__ = ["FAMILIES", "Amounts", "amounts"]

GENERATIONS: dict[str, int] = fact("generations")
TPU, OTHER = 9, 2
FAMILY_OF: dict[str, str] = fact("families")  # the longest beginning that fits counts
FAMILIES: tuple[str, ...] = tuple(dict.fromkeys(filter(None, FAMILY_OF.values())))
STACKS: dict[Rates, int] = {"2021": 0, "fsdp": 1, "xla": 2, "internevo": 3, "modern": 4, "eager": 5}
LOW_PRECISION = {"fp8": "fp8", "fp8_block": "fp8", "mxfp8": "fp8", "nvfp4": "nvfp4"}
FLASH_BACKWARD = 2.5  # five products against two: FlashAttention-2, arXiv 2307.08691
BACKWARD = 2.0  # of what has no weights, or whose weights are trained, per forward pass
# Share of a layer's forward pass that is repeated when only a part is recomputed.
PART_SHARES = {"mlp": 0.6, "moe": 0.6, "mla_up_proj": 0.1, "layernorm": 0.03, "moe_act": 0.03}
EVERY_SECOND_PRODUCT = 0.5  # torchtitan's selective recomputation saves the others
ZERO_BUBBLE = 3  # ZB-H1 waits a third as long as 1F1B: Qi et al. 2023, arXiv 2401.10241
PCIE_BYTES_PER_S = 64e9  # of 16 lanes of the fifth generation, one direction
SCANNED = 4  # values of a scan's inner width: its inputs, gate and output
ROUTED_PASSES = 6  # times a routed token is read or written around the experts


class Amounts(NamedTuple):
    micro_batches: float  # a step
    fill: float  # micro-batches' worth of waiting a step, at the pipeline's two ends
    layer_flops: float  # products with the layers' matrices, at low_peak
    head_flops: float  # head and router, at peak
    attention_flops: float
    matmul_bytes: float
    score_bytes: float  # attention scores in memory, without flash attention
    elementwise_bytes: float
    logit_bytes: float
    cast_bytes: float  # conversion to 8 or 4 bits
    route_bytes: float  # tokens sorted to experts and back
    expert_rows: float  # tokens of one expert's product
    layer_passes: float  # launches of a whole layer, forward, recomputed or backward
    expert_layer_passes: float
    tp: float
    tp_bytes: float
    tp_messages: float
    ep_node_bytes: float
    ep_network_bytes: float
    ep_messages: float
    cp_bytes: float
    pp_bytes: float
    pp_messages: float
    gather_bytes: float  # zero3: weights gathered, gradients scattered
    step_reduce_bytes: float
    step_reduce_messages: float
    step_optimizer_bytes: float
    peak: float  # FLOP/s of the 16-bit type (fp32 jobs: of fp32)
    low_peak: float  # FLOP/s of the type the layers multiply in
    memory_bytes_per_s: float
    link_bytes_per_s: float
    network_bytes_per_s: float
    tp_bandwidth: float  # of one ring over the group, bytes/s
    cp_bandwidth: float
    dp_bandwidth: float
    shard_bandwidth: float
    pp_bandwidth: float
    nodes: float
    step_tokens_per_device: float
    bits: float  # 16 or 32, 8 or 4
    misaligned: float  # 1: attention rows are no multiple of 16 bytes
    generation: float
    stack: float
    family: float  # index into FAMILIES, -1: none
    moe: float
    frozen: float  # 1: the base's weights are not trained
    overlap: float  # 0: gradients are exchanged after the backward pass, not beside it
    pcie: float  # 1: the devices of a node are joined by PCIe alone
    expert_passes: float  # one expert after the other, where no product takes all of them
    expert_gathers: float  # and weights that zero3 brings together for each alone
    dequantised_bytes: float  # a frozen base of 4 or 8 bits, written out and read in 16
    product_s: float  # layer_flops as fast as tables measured them, seconds; 0: not looked up


@dataclass(frozen=True)
class _Layers:
    """Sums over all layers, forward, per token, before any splitting."""

    number: float
    blocks: float  # that read the residual stream and add to it: two of most layers
    seeing: float  # with attention
    expert_layers: float
    dense: float  # elements of matrices every token meets
    router: float
    expert: float  # elements of the routed experts one token meets
    stored_experts: float
    io: float  # rows and columns of those products
    inner: float  # values between the feed-forward products
    heads: float  # queries, keys, values and their mixture, or what a scan reads and writes
    kv: float


@lru_cache(maxsize=1024)
def _layers(shape: ModelShape) -> _Layers:
    dense = router = expert = stored = io = inner = scanned = blocks = seeing = mixed = 0.0
    kinds = layer_kinds(shape)
    kinds[list(kinds)[-1]] += shape.predicted_tokens
    for kind, number in kinds.items():
        parts = layer_parts(shape, kind)
        seeing += number * ("attention" in parts)
        mixed += number * ("expert" in parts)
        blocks += number * block_count(parts)
        if shape.attention.mixer is not None and "scan" in parts:
            scanned += number * SCANNED * shape.attention.mixer.inner
        for matrix in layer_matrices(shape, kind):
            size = number * matrix.active * matrix.elements
            if matrix.kind == "router":
                router += size
                continue
            io += number * matrix.active * (matrix.rows + matrix.columns)
            if matrix.kind == "expert":
                expert += size
                stored += number * matrix.count * matrix.elements
            else:
                dense += size
            if matrix.kind != "attention" and matrix.columns == shape.width:
                inner += number * matrix.active * matrix.rows
    a, layers = shape.attention, shape.layers + shape.predicted_tokens
    kv = 2.0 * a.kv_heads * a.head_dim
    heads = seeing * (a.heads * (a.head_dim + (1 + a.output_gate) * a.values) + kv) + scanned
    sums = (mixed, dense, router, expert, stored, io, inner, heads, seeing * kv)
    return _Layers(layers, blocks, seeing, *sums)


@lru_cache(maxsize=4096)
def _attention(shape: ModelShape, seq_len: int, causal: bool) -> float:
    return flops_per_token(shape, seq_len, causal=causal).attention


def _copies(groups: int, active: int, once: bool) -> float:
    """Times one token is sent to other groups when it picks `active` experts at random: for each
    expert, or once for all of a group's."""
    return (groups - 1) * (1 - (1 - 1 / groups) ** active if once else active / groups)


def _generation(device: Device) -> int:
    if device.kind == "tpu":
        return TPU
    return GENERATIONS.get(device.catalogued.split("-")[0], OTHER)


def _family(device: Device) -> int:
    fitting = [name for name in FAMILY_OF if device.catalogued.startswith(name)]
    family = FAMILY_OF[max(fitting, key=len)] if fitting else ""
    return FAMILIES.index(family) if family else -1


class _Pass(NamedTuple):
    """How often a layer is gone through, in units of one forward pass."""

    backward: float
    repeated: float  # another model's passes among them
    attention_repeated: float
    elementwise: float = 0.0  # of the repeated, with what lies between the products
    exchanged: float = 0.0  # and with the experts' exchange
    other: float = 0.0  # of a reference or a teacher, its head too

    @property
    def total(self) -> float:
        return 1 + self.backward + self.repeated


def _passes(job: TrainingJob) -> _Pass:
    own, other = _own_passes(job), other_passes(job)
    again = _Pass(own.backward, *(part + other for part in own[1:-1]))
    return again._replace(other=other)


def _own_passes(job: TrainingJob) -> _Pass:
    layout, backward = job.layout, 1.0 if job.task in ("lora", "adapter") else BACKWARD
    if layout.recompute == "none":
        return _Pass(backward, 0.0, 0.0)
    if layout.recompute == "full":
        return _Pass(backward, 1.0, 1.0, 1.0, 1.0)
    if not layout.recompute_parts and software(job.stack).selects_products:
        return _Pass(backward, EVERY_SECOND_PRODUCT, 0.0, 1.0)
    parts = layout.recompute_parts or ("core_attn",)
    repeated = min(1.0, sum(PART_SHARES.get(part, 0.0) for part in set(parts)))
    whole = "moe" in parts
    return _Pass(backward, repeated, float("core_attn" in parts), repeated, float(whole))


def _stage(job: TrainingJob, layers: _Layers) -> tuple[float, float, float]:
    """(share of the layers, heads, pipeline fill) of the busiest pipeline rank.

    The last rank has the head too, unless the layers are shared out as if embedding and head
    were layers (Llama 3, arXiv 2407.21783).
    """
    pp, vpp = job.layout.pp, job.layout.vpp
    if pp == 1:
        return 1.0, 1.0, 0.0
    number = layers.number
    share = math.ceil(number / pp) / number
    if vpp > 1:
        share = max(1 / pp, math.ceil(number / (pp * vpp)) * vpp / number)
    balanced = number % pp and (number + 2) % pp == 0
    head = 0.5 if balanced else 1.0
    waits = pp - 1 if job.layout.schedule != "zero_bubble" else (pp - 1) / ZERO_BUBBLE
    of_rank = (layers.dense + layers.expert) / pp
    table = job.shape.vocab_size * job.shape.width
    return share, head, waits / vpp * of_rank / (of_rank + 0.75 * head * table)


def amounts(job: TrainingJob, tables: bool = False) -> Amounts:
    """All amounts of one job, plain numbers; product_s only with tables (tables.py)."""
    shape, layout, device = job.shape, job.layout, job.device
    layers, passes = _layers(shape), _passes(job)
    share, head, fill = _stage(job, layers)
    head *= job.learning.head_share(job.seq_len)
    tokens = layout.micro_batch * job.seq_len / layout.cp
    low = LOW_PRECISION.get(job.precision)
    peak = device.peak("bf16" if low else job.precision)
    products = layers.dense + layers.expert
    heads = shape.vocab_size * shape.width * (1 + shape.predicted_tokens)  # elements, each its own
    seen = beside_flops(job, passes.total / (1 + passes.other))
    more = 1 + seen / (2 * products)  # as that many more tokens of the layers
    memory = _memory_amounts(job, layers, passes, share, head, tokens)
    memory |= {name: more * memory[name] for name in ("matmul_bytes", "elementwise_bytes")}
    looked_up = layer_products_s(job, tokens, passes.backward, passes.repeated) if tables else None
    return Amounts(
        micro_batches=job.micro_batches,
        fill=fill,
        layer_flops=2 * tokens * more * products / layout.tp * share * passes.total,
        head_flops=2 * tokens * layers.router * share * passes.total
        + 2 * (1 + passes.backward + passes.other) * tokens * heads / layout.tp * head,
        **memory,
        layer_passes=layers.blocks / 2 * share * passes.total,
        expert_layer_passes=layers.expert_layers * share * passes.total,
        **_message_amounts(job, layers, passes, share, tokens),
        **sharding_amounts(job),
        peak=peak,
        low_peak=device.peak(low) if low else peak,
        memory_bytes_per_s=device.memory_bytes_per_s,
        link_bytes_per_s=device.link_bytes_per_s,
        network_bytes_per_s=device.network_bytes_per_s,
        nodes=-(-layout.devices // device.node_devices),
        step_tokens_per_device=job.tokens_per_step / layout.devices,
        bits=4.0 if low == "nvfp4" else 8.0 if low else 16.0,
        generation=_generation(device),
        stack=STACKS[software(job.stack).rates],
        family=_family(device),
        moe=float(shape.experts is not None),
        frozen=float(job.task in ("lora", "adapter")),
        overlap=float(job.overlap),
        pcie=float(device.kind == "gpu" and device.link_bytes_per_s <= PCIE_BYTES_PER_S),
        **_one_by_one(job, layers, passes, share),
        product_s=(looked_up or 0.0) * share,
    )


def _one_by_one(job: TrainingJob, layers: _Layers, passes: _Pass, share: float) -> dict[str, float]:
    """What each expert, or each matrix of a quantised base, asks for by itself."""
    shape, layout = job.shape, job.layout
    loops = 0.0
    if shape.experts is not None and software(job.stack).experts_in_loop:
        loops = shape.experts.count / layout.ep * layers.expert_layers * share * passes.total
    written = 0.0
    if job.lora is not None and job.lora.base != "none":
        held = layers.dense / layout.tp + layers.stored_experts / expert_ways(layout)
        stored = QUANTISED_BYTES[job.lora.base]
        written = held * share * (stored + 2 * HALF) * passes.total
    return {
        "expert_passes": loops,
        "expert_gathers": loops if layout.shard == "zero3" else 0.0,
        "dequantised_bytes": written,
    }


def _memory_amounts(
    job: TrainingJob, layers: _Layers, passes: _Pass, share: float, head: float, tokens: float
) -> dict[str, float]:
    """Attention and what is limited by memory bandwidth."""
    shape, layout = job.shape, job.layout
    tp, total = layout.tp, passes.total
    low = job.precision in LOW_PRECISION
    plain_bytes = element_bytes(job)
    element = 1.2 if low else plain_bytes  # of a product's operand, mean over inputs and outputs
    weights = (layers.dense / tp + layers.stored_experts / expert_ways(layout)) * share
    seen = min(job.document_tokens or job.seq_len, job.seq_len)
    attention = _attention(shape, seen, job.causal_flops) * tokens / tp * share
    scores = 0.0
    if job.flash_attention:
        attention *= 1 + FLASH_BACKWARD + passes.attention_repeated
    else:
        attention *= 1 + BACKWARD + passes.attention_repeated
        elements = layers.seeing * shape.attention.heads * job.seq_len / tp * share * tokens
        scores = elements * plain_bytes * 8
        scores *= 1 + 0.75 * BACKWARD + passes.attention_repeated
    residual = 6 * layers.blocks * shape.width / (tp if layout.sequence_parallel else 1)
    split = (3 * layers.inner * (1.5 if shape.gated else 1) + 3 * layers.heads) / tp
    experts = shape.experts
    active = experts.active if experts else 0
    routed = ROUTED_PASSES * active * shape.routed_width * layers.expert_layers / tp
    return {
        "attention_flops": attention,
        "misaligned": float(not job.flash_attention and shape.attention.head_dim % 8 != 0),
        "matmul_bytes": (tokens * layers.io / tp * share + weights) * element * total,
        "score_bytes": scores,
        "elementwise_bytes": tokens
        * share
        * plain_bytes
        * (residual + split)
        * (1 + 0.75 * BACKWARD + passes.elementwise),
        "logit_bytes": 5 * FULL * tokens * shape.vocab_size / tp * head,
        "cast_bytes": 6 * tokens * layers.io / tp * share + 3 * weights if low else 0.0,
        "route_bytes": routed * tokens * plain_bytes * share * total,
        "expert_rows": tokens * active / experts.count * (layout.ep / tp if layout.ep > 1 else 1)
        if experts
        else 0.0,
    }


def _message_amounts(
    job: TrainingJob, layers: _Layers, passes: _Pass, share: float, tokens: float
) -> dict[str, float]:
    """Tensor, expert, context and pipeline parallelism: what each sends per micro-batch."""
    shape, layout, device = job.shape, job.layout, job.device
    tp, ep = layout.tp, layout.ep
    hidden = tokens * shape.width * element_bytes(job)
    rounds = 2 + passes.repeated  # two all-reduces a layer forward, two backward
    sent = hidden * shape.routed_width / shape.width
    trips = 2 * (2 + passes.exchanged)  # to experts and back, forward and backward
    expert_groups = sent / tp * trips * layers.expert_layers * share
    ep_node = max(1, min(ep, device.node_devices))
    ep_nodes = -(-ep // ep_node)
    active, once = (shape.experts.active if shape.experts else 0), software(job.stack).sends_once
    in_node = _copies(ep_node, active, once) / (1 if once else ep_nodes)
    kv = layers.kv / min(tp, shape.attention.kv_heads)  # keys are divided, or copied whole
    crosses = layout.devices > device.node_devices
    return {
        "tp": tp,
        "tp_bytes": 2 * (tp - 1) / tp * hidden * layers.blocks * share * rounds,
        "tp_messages": layers.blocks * share * rounds if tp > 1 else 0.0,
        "tp_bandwidth": ring(tp, 1, device),
        "ep_node_bytes": expert_groups * in_node,
        "ep_network_bytes": expert_groups * _copies(ep_nodes, active, once),
        "ep_messages": trips * layers.expert_layers * share if ep > 1 else 0.0,
        "cp_bytes": 3 * element_bytes(job) * tokens * kv * share * (layout.cp - 1),
        "cp_bandwidth": ring(layout.cp, tp, device),
        "pp_bytes": 2 * hidden / tp * layout.vpp if layout.pp > 1 else 0.0,
        "pp_messages": 2 * layout.vpp if layout.pp > 1 else 0.0,
        "pp_bandwidth": device.network_bytes_per_s if crosses else device.link_bytes_per_s,
    }
