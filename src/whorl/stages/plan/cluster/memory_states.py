"""Parameters of one rank and the bytes they take: weights, gradients, optimiser state.

What each software keeps per parameter is read from its own sources; nothing here is fitted.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from whorl.arch.shape import ModelShape
from whorl.arch.shape_counts import (
    LayerKind,
    count_shape,
    layer_matrices,
    layer_norm_parameters,
)
from whorl.stages.plan.cluster.job import Layout, Lora, TrainingJob

__all__ = ["RankParameters", "rank_parameters", "stage_layers", "state_bytes"]

BUCKET_ELEMENTS, LIVE_ELEMENTS = 5e8, 1e9  # DeepSpeed: buckets; gathered at once

QUANTISED_BYTES = {  # per element of a frozen base; blocks of 64 with one fp32 scale, or 8-bit
    "none": 2.0,
    "nf4": 0.5 + 4 / 64,
    "fp4": 0.5 + 4 / 64,
    "nf4-dq": 0.5 + 1 / 64 + 4 / (64 * 256),  # QLoRA (arXiv 2305.14314), section 3
    "int8": 1.0,
}


@dataclass(frozen=True)
class RankParameters:
    """Elements one rank holds before any data-parallel sharding."""

    dense: float  # of layers, without routed experts
    experts: float
    tables: float  # embedding, head, positions
    layers: int
    largest_layer: float  # of one layer, what a gather unit brings together


@dataclass(frozen=True)
class ElementBytes:
    """Bytes per element: *_whole on every rank that computes with it, *_shard over data ranks."""

    weight_whole: float
    weight_shard: float
    gradient_whole: float
    gradient_shard: float
    optimizer_shard: float
    step_shard: float  # temporaries of the optimiser's step
    step_whole: float
    gathered: float  # weights of a gathered unit (zero3)
    gathered_gradient: float
    cast_whole: float  # copies of whole weights that autocast keeps


@lru_cache(maxsize=4096)
def stage_layers(layers: int, pp: int, stage: int) -> int:
    """Layers of a pipeline stage.

    Where pp does not divide them but divides layers + 2, embedding and head count as one layer
    each, as DeepSpeed's and Megatron's balanced splits do; else the largest share.
    """
    if layers % pp == 0:
        return layers // pp
    if (layers + 2) % pp == 0:
        return (layers + 2) // pp - (stage in (0, pp - 1))
    return -(-layers // pp)


@lru_cache(maxsize=4096)
def _layer_elements(shape: ModelShape, tp: int, ep: int) -> tuple[float, float, float]:
    """(dense layer, expert layer without experts, routed experts of it) on one rank."""
    found, experts = [], 0.0
    kinds: tuple[LayerKind, ...] = ("dense", "expert") if shape.experts else ("dense",)
    for kind in kinds:
        total = float(layer_norm_parameters(shape))
        for matrix in layer_matrices(shape, kind):
            ways = tp
            if matrix.kind == "expert":  # each split over ep alone, where there is one
                experts += matrix.parameters / (ep if ep > 1 else tp)
                continue
            if matrix.name in ("k_proj", "v_proj"):
                ways = min(tp, shape.attention.kv_heads)
            elif matrix.kind == "router" or matrix.name in ("q_a_proj", "kv_a_proj"):
                ways = 1
            total += matrix.parameters / ways
        found.append(total)
    return found[0], found[-1], experts


def rank_parameters(shape: ModelShape, layout: Layout, stage: int) -> RankParameters:
    """Of a rank of one pipeline stage; tied ends are stored twice when the stages differ."""
    return _rank_parameters(shape, layout.tp, layout.ep, layout.pp, stage)


@lru_cache(maxsize=16384)
def _rank_parameters(shape: ModelShape, tp: int, ep: int, pp: int, stage: int) -> RankParameters:
    dense, mixed, experts = _layer_elements(shape, tp, ep)
    layers = stage_layers(shape.layers, pp, stage)
    first = layers  # the dense ones
    if shape.experts is not None:
        first = min(layers, shape.experts.dense_layers) if stage == 0 else 0
    others = layers - first
    counts = count_shape(shape)
    tables = 0.0
    if stage == 0:
        tables += counts.embedding / tp + counts.positions
    if stage == pp - 1:
        others += shape.predicted_tokens
        tables += counts.norms - shape.layers * layer_norm_parameters(shape)
        tables += counts.head / tp
        if shape.tied_embeddings and pp > 1:  # a copy of the embedding
            tables += counts.embedding / tp
    return RankParameters(
        dense=first * dense + others * mixed,
        experts=others * experts,
        tables=tables,
        layers=layers,
        largest_layer=max(dense * (first > 0), (mixed + experts) * (others > 0)),
    )


def state_bytes(job: TrainingJob, params: RankParameters) -> dict[str, float]:
    """weights, gradients, optimizer, step, gathered and communication of one rank."""
    if job.lora is not None:
        return _frozen(job, job.lora, params)
    layout, stack = job.layout, job.stack
    key = (stack, job.precision, job.optimizer, job.pure_low_precision, layout.shard)
    per = _element_bytes(*key, layout.offload_optimizer, job.shape.experts is not None)
    dense, experts = params.dense + params.tables, params.experts
    ways = expert_ways = layout.sharded_over
    if layout.ep > 1 and layout.shard != "none":  # one copy of an expert is spread over ep ranks
        copies = max(1, layout.dp * layout.cp * layout.tp // layout.ep)
        expert_ways = copies if layout.shard_devices is None else min(ways, copies)

    def split(whole: float, shard: float) -> float:
        return (whole + shard / ways) * dense + (whole + shard / expert_ways) * experts

    buckets = 0.0
    if layout.dp > 1 and layout.shard == "zero1" and stack == "megatron_2021":
        buckets = 2 * 2 * min(BUCKET_ELEMENTS, dense + experts)
        if layout.pp == 1:  # made anew at each backward pass, and gradients stay in them
            buckets += 2 * (dense + experts)
    elif layout.dp > 1 and layout.shard == "none" and stack in ("fsdp", "whorl"):
        buckets = split(per.gradient_whole, 0.0)  # DDP copies gradients into its buckets
    step = split(per.step_whole, per.step_shard)
    if stack == "megatron_2021" and layout.dp > 1:  # the norm is taken of gradients in fp64
        step = max(step, 8 * min(params.tables, (dense + experts) / ways))
    optimizer = split(0.0, per.optimizer_shard)
    if job.optimizer == "muon":  # tables are AdamW's, with a second moment
        moment = min(per.optimizer_shard, 2.0 if job.pure_low_precision else 4.0)
        optimizer += moment * params.tables / ways
    return {
        "weights": split(per.weight_whole, per.weight_shard),
        "gradients": split(per.gradient_whole, per.gradient_shard),
        "optimizer": optimizer,
        "step": step,
        "gathered": _gathered(stack, params, per) + per.cast_whole * (dense + experts),
        "communication": buckets,
    }


def _gathered(stack: str, params: RankParameters, per: ElementBytes) -> float:
    """Bytes of whole weights and gradients that zero2 and zero3 bring together for a while."""
    unit = params.largest_layer
    weights, gradients = max(2 * unit, params.tables), max(unit, params.tables)  # one prefetched
    if stack == "megatron_2021":  # DeepSpeed: stage3_max_live_parameters
        weights, gradients = min(weights, LIVE_ELEMENTS), min(gradients, BUCKET_ELEMENTS)
    elif stack == "xla":
        weights, gradients = gradients, 0.0
    return per.gathered * weights + per.gathered_gradient * gradients


def _frozen(job: TrainingJob, lora: Lora, params: RankParameters) -> dict[str, float]:
    """States of a frozen, perhaps quantised base with small trained adapters."""
    layout, a = job.layout, job.shape.attention
    ways = layout.sharded_over if layout.shard == "zero3" else 1
    element = 2.0 if job.pure_low_precision or ways == 1 else 4.0
    quantised = lora.base != "none"
    head = 0 if job.shape.tied_embeddings else params.tables / 2
    linears = params.dense + params.experts + head
    per = QUANTISED_BYTES[lora.base] if quantised else element
    trained = params.layers * lora.rank * 2 * (job.shape.width + a.heads * a.head_dim)
    gathered = 0.0
    if quantised:  # one matrix of the base at a time, back in 16 bits
        gathered = 2.0 * max(head, job.shape.width * job.shape.ffn_width / layout.tp)
    elif ways > 1:
        gathered = 2.0 * max(2 * params.largest_layer, params.tables)
    return {
        "weights": (per * linears + element * (params.tables - head)) / ways,
        "gradients": element * trained,
        "optimizer": 2 * element * trained,
        "step": element * trained,
        "gathered": gathered,
        "communication": 0.0,
    }


@lru_cache(maxsize=1024)
def _element_bytes(
    stack: str, precision: str, optimizer: str, pure: bool, shard: str, offload: bool, mixture: bool
) -> ElementBytes:
    moments = {"adamw": 8.0, "adamw_bf16": 4.0, "adamw_8bit": 2.0 + 8 / 256, "muon": 4.0}
    state = moments.get(optimizer, 4.0)
    sharded_grads = shard in ("zero2", "zero3")
    whole = shard != "zero3"
    step = step_whole = 0.0
    if pure:
        weight = gradient = 2.0
        state = state / 2 if optimizer in ("adamw", "muon", "sgd") else state
    elif precision == "fp32" or (stack in ("fsdp", "xla", "whorl", "oneflow")):
        weight, gradient = 4.0, 4.0  # fp32 weights, cast where they are used
        step = 4.0 if stack == "whorl" else 0.0
    else:
        weight, gradient, step, step_whole = _mixed(stack, precision, mixture, whole)
        state += 4.0  # fp32 master
        if stack == "megatron" and mixture and optimizer == "adamw":
            state -= 4.0  # precision-aware optimiser: moments in bf16
    if offload:
        state = step = 0.0
    kept = 0.0
    if stack in ("fsdp", "xla") and shard == "zero2":  # fp32 shards, a whole copy to compute with
        whole, kept = False, 2.0
    cast = 2.0 if precision != "fp32" and not pure else weight
    return ElementBytes(
        weight_whole=weight if whole else kept,
        weight_shard=0.0 if whole else weight,
        gradient_whole=0.0 if sharded_grads else gradient,
        gradient_shard=gradient if sharded_grads else 0.0,
        optimizer_shard=state,
        step_shard=step,
        step_whole=step_whole,
        gathered=0.0 if whole or kept else cast,
        gathered_gradient=cast if sharded_grads else 0.0,
        cast_whole=cast if whole and cast < weight and stack in ("fsdp", "whorl") else 0.0,
    )


def _mixed(
    stack: str, precision: str, mixture: bool, whole: bool
) -> tuple[float, float, float, float]:
    """(weight, gradient, step per shard, step per rank) of 16-bit weights with fp32 masters."""
    if stack == "internevo":
        # Gradients cast to fp32; root and sum of foreach AdamW before torch 2.1. Its own ZeRO
        # casts them for the norm too and flattens them (hybrid_zero_optim.py).
        return 2.0, 2.0, 4.0 + 8.0 + (4.0 + 2.0 if whole else 0.0), 0.0
    if stack == "megatron_2021":
        if precision == "fp16":  # DeepSpeed ZeRO-1 flattens the shard's gradients, casts to fp32
            return 2.0, 2.0, 2.0 + 4.0, 0.0
        # bf16 gradients added up in fp32; all weights gathered in one piece, allgather_bucket_size
        # being 5e9 elements (bf16_optimizer.py)
        return 2.0, 2.0 + 4.0, 0.0, 2.0
    if precision in ("fp8", "fp8_block", "mxfp8", "nvfp4"):
        return 2.0, 2.0, 4.0, 0.0  # two fp8 copies, bf16 gradients, cast by the optimiser
    if mixture:
        return 2.0, 2.0, 0.0, 0.0
    return 2.0, 4.0, 0.0, 0.0
