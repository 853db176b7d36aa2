"""Parameters of one rank and the bytes they take: weights, gradients, optimiser state.

What each software keeps per parameter is read from its own sources; nothing here is fitted.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from whorl.arch.layers import layer_kinds, layer_matrices, layer_norm_parameters, layer_parts
from whorl.arch.shape import ModelShape
from whorl.arch.shape_counts import count_shape
from whorl.stages.plan.cluster.job import Layout, Lora, TrainingJob
from whorl.stages.plan.facts import fact
from whorl.stages.plan.software import Software, software

__all__ = [
    "QUANTISED_BYTES",
    "RankParameters",
    "adapter_elements",
    "other_bytes",
    "rank_parameters",
    "stage_kinds",
    "stage_layers",
    "state_bytes",
]

SMALL, SEGMENT = 2**20, 2**21  # bytes: tensors up to SMALL share segments of their own
BUCKET_ELEMENTS, LIVE_ELEMENTS = 5e8, 1e9  # DeepSpeed: buckets; gathered at once

QUANTISED_BYTES: dict[str, float] = fact("quantised_bytes")  # of an element of a frozen base
MOMENT_BYTES: dict[str, float] = fact("moment_bytes")  # of an element
IN_WEIGHTS_TYPE = frozenset({"adamw", "lion", "muon", "sgd"})  # moments as wide as weights


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


def stage_kinds(shape: ModelShape, pp: int, stage: int) -> dict[str, float]:
    """Layers of each kind in a pipeline stage: dense ones come first, a hybrid's are spread."""
    layers, kinds = stage_layers(shape.layers, pp, stage), layer_kinds(shape)
    if shape.parts or len(kinds) == 1:
        return {kind: layers * number / shape.layers for kind, number in kinds.items()}
    first = min(layers, kinds["dense"]) if stage == 0 else 0
    return {"dense": first, "expert": layers - first}


@lru_cache(maxsize=4096)
def _layer_elements(shape: ModelShape, tp: int, ep: int, kind: str) -> tuple[float, float]:
    """(all but routed experts, routed experts) of a layer of a kind, on one rank."""
    total, experts = float(layer_norm_parameters(shape, kind)), 0.0
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
    return total, experts


def rank_parameters(shape: ModelShape, layout: Layout, stage: int) -> RankParameters:
    """Of a rank of one pipeline stage; tied ends are stored twice when the stages differ."""
    return _rank_parameters(shape, layout.tp, layout.ep, layout.pp, stage)


@lru_cache(maxsize=16384)
def _rank_parameters(shape: ModelShape, tp: int, ep: int, pp: int, stage: int) -> RankParameters:
    kinds, counts = stage_kinds(shape, pp, stage), count_shape(shape)
    if stage == pp - 1:
        kinds[list(kinds)[-1]] += shape.predicted_tokens
    of = {kind: _layer_elements(shape, tp, ep, kind) for kind, number in kinds.items() if number}
    tables, beside = 0.0, 0.0
    if stage == 0:
        beside = counts.beside / tp
        tables += counts.embedding / tp + counts.positions
    if stage == pp - 1:
        norms = (n * layer_norm_parameters(shape, kind) for kind, n in layer_kinds(shape).items())
        tables += counts.norms - sum(norms)
        tables += counts.head / tp
        if shape.tied_embeddings and pp > 1:  # a copy of the embedding
            tables += counts.embedding / tp
    return RankParameters(
        dense=sum(kinds[kind] * dense for kind, (dense, _) in of.items()) + beside,
        experts=sum(kinds[kind] * experts for kind, (_, experts) in of.items()),
        tables=tables,
        layers=stage_layers(shape.layers, pp, stage),
        largest_layer=max(map(sum, of.values()), default=0.0),
    )


def state_bytes(job: TrainingJob, params: RankParameters) -> dict[str, float]:
    """weights, gradients, optimizer, step, gathered and communication of one rank."""
    if job.lora is not None:
        return _frozen(job, job.lora, params)
    layout, of = job.layout, software(job.stack)
    key = (job.stack, job.precision, job.optimizer, job.pure_low_precision, layout.shard)
    per = _element_bytes(*key, layout.offload_optimizer, job.shape.experts is not None)
    dense, experts = params.dense + params.tables, params.experts
    ways = expert_ways = layout.sharded_over
    if layout.ep > 1 and layout.shard != "none":  # one copy of an expert is spread over ep ranks
        copies = max(1, layout.dp * layout.cp * layout.tp // layout.ep)
        expert_ways = copies if layout.shard_devices is None else min(ways, copies)

    def split(whole: float, shard: float) -> float:
        return (whole + shard / ways) * dense + (whole + shard / expert_ways) * experts

    buckets = 0.0
    if layout.dp > 1 and layout.shard in ("zero1", "zero2") and of.zero:
        buckets = 2 * 2 * min(BUCKET_ELEMENTS, dense + experts)
        if layout.pp == 1 and layout.shard == "zero1":  # anew at each pass, gradients stay in them
            buckets += 2 * (dense + experts)
    elif layout.dp > 1 and layout.shard == "none" and of.copies_gradients:
        buckets = split(per.gradient_whole, 0.0)  # DDP copies gradients into its buckets
    step = split(per.step_whole, per.step_shard)
    if of.zero and layout.dp > 1:  # the norm is taken of gradients in fp64
        step = max(step, 8 * min(params.tables, (dense + experts) / ways))
    optimizer = split(0.0, per.optimizer_shard)
    if job.optimizer == "muon":  # tables are AdamW's, with a second moment
        moment = min(per.optimizer_shard, 2.0 if job.pure_low_precision else 4.0)
        optimizer += moment * params.tables / ways
    gradients = split(per.gradient_whole, per.gradient_shard)
    if job.step_in_backward:  # one layer's, or the table's, at a time
        share = max(params.largest_layer, params.tables) / max(1.0, dense + experts)
        gradients, step = min(1.0, share) * gradients, min(1.0, share) * step
    return {
        "weights": split(per.weight_whole, per.weight_shard),
        "gradients": gradients,
        "optimizer": optimizer,
        "step": step,
        "gathered": _gathered(of, params, per) + per.cast_whole * (dense + experts),
        "communication": buckets,
    }


def other_bytes(job: TrainingJob, stage: int) -> float:
    """Weights of a reference as the trained ones are kept, or of a teacher in 16 bits."""
    learning, layout = job.learning, job.layout
    if learning.other != "model":
        return 0.0
    low = job.pure_low_precision or learning.teacher is not None
    kept = software(job.stack).states(job.precision, job.shape.experts is not None, True)
    of = rank_parameters(learning.teacher or job.shape, layout, stage)
    ways = layout.sharded_over if layout.shard == "zero3" else 1
    return (of.dense + of.experts + of.tables) * (2.0 if low else kept.weights) / ways


def _gathered(of: Software, params: RankParameters, per: ElementBytes) -> float:
    """Bytes of whole weights and gradients that zero2 and zero3 bring together for a while."""
    unit = params.largest_layer
    weights, gradients = max(2 * unit, params.tables), max(unit, params.tables)  # one prefetched
    if of.zero:  # stage3_max_live_parameters
        weights, gradients = min(weights, LIVE_ELEMENTS), min(gradients, BUCKET_ELEMENTS)
    elif of.gathers_smallest:
        weights, gradients = gradients, 0.0
    return per.gathered * weights + per.gathered_gradient * gradients


def _frozen(job: TrainingJob, lora: Lora, params: RankParameters) -> dict[str, float]:
    """States of a frozen, perhaps quantised base with small trained adapters."""
    layout, of = job.layout, software(job.stack)
    ways = layout.sharded_over if layout.shard == "zero3" else 1
    element = 2.0 if job.pure_low_precision or ways == 1 else 4.0
    if job.precision == "fp32":
        element = 4.0
    quantised = lora.base != "none"
    head = 0 if job.shape.tied_embeddings else params.tables / 2
    linears = params.dense + params.experts + (head if of.quantises_head or not quantised else 0)
    tables = params.dense + params.experts + params.tables - linears
    per = QUANTISED_BYTES[lora.base] if quantised else element
    trained = params.layers * adapter_elements(job.shape, lora) / layout.tp
    moments = MOMENT_BYTES[job.optimizer]
    if job.pure_low_precision and job.optimizer in IN_WEIGHTS_TYPE:
        moments /= 2
    own = 2.0 if job.pure_low_precision else 4.0  # of the adapters: their masters are in fp32
    matrix = job.shape.width * job.shape.ffn_width / layout.tp
    gathered = 0.0
    if quantised:  # one matrix of the base at a time, back in 16 bits
        gathered = 2.0 * max(head if of.quantises_head else 0.0, matrix)
        if ways > 1:  # two layers as they are stored, and what the outermost unit keeps whole
            gathered += per * 2 * params.largest_layer + 2.0 * tables * of.tables_in_root
    elif ways > 1:
        gathered = 2.0 * max(2 * params.largest_layer, params.tables)
    if lora.dora:  # the sum of base and adapters, whose rows' norms are taken
        gathered += element * matrix
    return {
        "weights": (per * linears + element * tables) / ways + own * trained,
        "gradients": own * trained,
        "optimizer": moments * trained,
        "step": own * trained,
        "gathered": gathered,
        "communication": 0.0,
        "blocks": _lost_blocks(job.shape, of, params, per) / ways if quantised else 0.0,
    }


def _lost_blocks(shape: ModelShape, of: Software, params: RankParameters, per: float) -> float:
    """What small tensors of the same size leave unused in torch's segments for small tensors.

    Source: SMALL and SEGMENT are kSmallSize and kSmallBuffer of torch's CUDACachingAllocator.
    """
    if shape.experts is None or not of.experts_apart:
        return 0.0
    elements = shape.width * shape.experts.width
    packed = int(per) * elements if per >= 1 else elements // 2  # its scales are another tensor
    if packed > SMALL:
        return 0.0
    return params.experts / elements * max(0.0, SEGMENT / (SEGMENT // packed) - per * elements)


def adapter_elements(shape: ModelShape, lora: Lora) -> float:
    """Of one layer, the mean: rank times rows and columns of each linear that has adapters."""
    kinds = layer_kinds(shape).items()
    whole = sum(number * _adapted(shape, lora, kind) for kind, number in kinds)
    return whole / shape.layers


def _adapted(shape: ModelShape, lora: Lora, kind: str) -> float:
    a, parts = shape.attention, layer_parts(shape, kind)
    keys, out = a.kv_heads * a.head_dim, a.heads * a.head_dim
    sides: list[tuple[int, int]] = []
    if "attention" in parts:
        sides += [(shape.width, out * (1 + a.output_gate)), (shape.width, keys)]  # q, v
        if lora.targets != "qv":
            sides += [(shape.width, keys), (out, shape.width)]  # k, o
    if lora.targets == "all":
        if a.mixer is not None and "scan" in parts:
            sides += [(columns, rows) for _, rows, columns in a.mixer.matrices]
        fed = {"dense": (1, shape.ffn_width, shape.width)}
        if shape.experts is not None:
            fed["expert"] = (shape.experts.count, shape.experts.width, shape.routed_width)
        for part in parts:
            number, inner, width = fed.get(part, (0, 0, 0))
            sides += [(width, inner)] * (1 + shape.gated) * number
            sides += [(inner, width)] * number
    norms = sum(rows for _, rows in sides) if lora.dora else 0
    return lora.rank * sum(map(sum, sides)) + norms


@lru_cache(maxsize=1024)
def _element_bytes(
    stack: str, precision: str, optimizer: str, pure: bool, shard: str, offload: bool, mixture: bool
) -> ElementBytes:
    of, state = software(stack), MOMENT_BYTES[optimizer]
    sharded_grads = shard in ("zero2", "zero3")
    whole = shard != "zero3"
    kept = of.states(precision, mixture, whole)
    weight, gradient = kept.weights, kept.gradients
    step, step_whole = kept.step_shard, kept.step_whole
    if pure:
        weight = gradient = 2.0
        state /= 2 if optimizer in IN_WEIGHTS_TYPE else 1
        step, step_whole = (step / 2 if of.rates == "eager" else 0.0), 0.0
    elif precision == "fp32":
        weight, gradient = 4.0, 4.0
        step = step if not kept.master else 0.0
    else:
        if mixture and optimizer == "adamw":
            state = 2 * of.expert_moment_bytes
        state += kept.master
    if offload:
        state = step = 0.0
    copy = 0.0
    in_fp32 = not kept.master and of.rates != "2021"
    if in_fp32 and shard == "zero2":  # fp32 shards, a whole copy to compute with
        whole, copy = False, 2.0
    cast = 2.0 if precision != "fp32" and not pure else weight
    return ElementBytes(
        weight_whole=weight if whole else copy,
        weight_shard=0.0 if whole else weight,
        gradient_whole=0.0 if sharded_grads else gradient,
        gradient_shard=gradient if sharded_grads else 0.0,
        optimizer_shard=state,
        step_shard=step,
        step_whole=step_whole,
        gathered=0.0 if whole or copy else cast,
        gathered_gradient=cast if sharded_grads else 0.0,
        cast_whole=cast if whole and cast < weight and of.casts_whole else 0.0,
    )
