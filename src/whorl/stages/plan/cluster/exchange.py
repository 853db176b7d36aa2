"""What data parallelism asks of one device: weights gathered, gradients exchanged, the update."""

from __future__ import annotations

import math
from functools import lru_cache

from whorl.arch.shape import ModelShape
from whorl.arch.shape_counts import ShapeCounts, count_shape
from whorl.stages.plan.cluster.devices import Device
from whorl.stages.plan.cluster.job import Layout, TrainingJob
from whorl.stages.plan.cluster.learning import other_passes
from whorl.stages.plan.software import software

__all__ = ["FULL", "HALF", "element_bytes", "expert_ways", "ring", "sharding_amounts"]

HALF, FULL = 2.0, 4.0  # bytes
MIXED_ADAM_BYTES, PURE_ADAM_BYTES = 34.0, 16.0  # read and written per parameter, one update
BUCKET_BYTES = 512e6  # of one gradient message


def ring(size: int, stride: int, device: Device) -> float:
    """Bytes/s of a ring over `size` devices, `stride` apart: its node's ports work together."""
    per_node = max(1, min(size, device.node_devices // max(1, stride)))
    if size <= per_node:
        return device.link_bytes_per_s
    return min(device.link_bytes_per_s, per_node * device.network_bytes_per_s)


@lru_cache(maxsize=1024)
def _counts(shape: ModelShape) -> ShapeCounts:
    return count_shape(shape)


def sharding_amounts(job: TrainingJob) -> dict[str, float]:
    """Data parallelism: gathered weights, exchanged gradients, the optimiser's update."""
    shape, layout, device = job.shape, job.layout, job.device
    counts, element = _counts(shape), element_bytes(job)
    dense = (counts.total - counts.experts) / (layout.tp * layout.pp)
    experts = counts.experts / (expert_ways(layout) * layout.pp)
    frozen = job.task in ("lora", "adapter")
    trained = 0.01 if frozen else 1.0  # share of the elements
    ranks = layout.dp * layout.cp
    ways = max(1, min(layout.sharded_over, ranks))
    # ranks with the same experts: ep spreads one copy of them over ep of the ranks of a stage
    copies = max(1, ranks * layout.tp // layout.ep) if layout.ep > 1 else ranks
    sharing = min(ways, copies)
    stride = max(layout.tp, layout.ep)  # between ranks with the same experts: ep reuses tp ranks

    def as_slow(group: int, expert_group: int) -> float:
        """Time of an expert byte in bytes of the dense ring."""
        return ring(group, layout.tp, device) / ring(expert_group, stride, device)

    gather = reduce = messages = 0.0
    replicas = 1  # of the shards, with zero3
    if layout.shard == "zero3" and ranks > 1:
        rounds = (2.0 if frozen else 3.0) + other_passes(job)
        moved = dense * (ways - 1) / ways
        of_experts = experts * (sharing - 1) / sharing
        moved += of_experts * as_slow(ways, sharing)
        gather, replicas = moved * element * rounds, ranks // ways
        if replicas > 1:
            shards = dense / ways + experts / sharing
            reduce = trained * shards * 2 * element * (replicas - 1) / replicas
    elif ranks > 1:
        moved = dense * (ranks - 1) / ranks
        moved += experts * (copies - 1) / copies * as_slow(ranks, copies)
        reduce = trained * moved * sum(_exchanged_bytes(job))
        if layout.shard == "zero1" and software(job.stack).rates != "modern":
            buckets = math.ceil(trained * (dense + experts) * element / BUCKET_BYTES)
            messages = 2 * buckets * (ways - 1)
    update = PURE_ADAM_BYTES if job.pure_low_precision else MIXED_ADAM_BYTES
    if layout.offload_optimizer:  # as long as it takes to move it to the host and back
        update *= device.memory_bytes_per_s / software(job.stack).host_optimizer_bytes_per_s
    return {
        "gather_bytes": gather,
        "step_reduce_bytes": reduce,
        "step_reduce_messages": messages,
        "step_optimizer_bytes": trained * (dense / ways + experts / sharing) * update,
        "dp_bandwidth": ring(replicas, layout.tp * ways, device)
        if replicas > 1
        else ring(ranks, layout.tp, device),
        "shard_bandwidth": ring(ways, layout.tp, device),
    }


def _exchanged_bytes(job: TrainingJob) -> tuple[float, float]:
    """Bytes per element of the gradients' reduction, and of what is gathered after it."""
    element, of, shard = element_bytes(job), software(job.stack), job.layout.shard
    kept = of.states(job.precision, job.shape.experts is not None, True)
    wide = bool(kept.master) and kept.gradients > HALF and job.precision != "fp16"
    gradient = FULL if wide or (of.name == "whorl" and shard == "none") else element
    return gradient, gradient if shard == "none" else element


def element_bytes(job: TrainingJob) -> float:
    """Of activations, and of weights and gradients on their way."""
    return FULL if job.precision == "fp32" else HALF


def expert_ways(layout: Layout) -> int:
    """Ranks that one copy of a layer's experts is spread over before any sharding."""
    return layout.ep if layout.ep > 1 else layout.tp
