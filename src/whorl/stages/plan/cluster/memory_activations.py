"""Bytes of activations: what a layer keeps for its backward pass, and what passes through.

Counted tensor by tensor after Korthikanti et al. 2022 (arXiv 2205.05198), whose 34 sbh + 5 a s^2 b
bytes of a GPT layer come out of the same list.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, cast

from whorl.arch.layers import block_count, layer_parts
from whorl.arch.shape import Experts, ModelShape
from whorl.stages.plan.cluster.job import TrainingJob
from whorl.stages.plan.cluster.learning import OTHER_LOGIT_BYTES
from whorl.stages.plan.software import LOGIT_BYTES, Loss, Software, software

__all__ = ["LayerBytes", "is_eager", "layer_bytes", "logit_bytes", "micro_batches_in_flight"]

FLOAT = 4
SCORE_BYTES = 5  # per score of unfused attention: softmax, dropout mask, dropout output


@dataclass(frozen=True)
class LayerBytes:
    """Of one layer and one micro-batch on one rank."""

    saved: float  # kept from forward to backward
    entry: float  # the layer's input, all that full recomputation keeps
    whole: float  # kept when the layer runs without recomputation
    passing: float  # the largest temporaries of its backward pass


def micro_batches_in_flight(job: TrainingJob, stage: int) -> float:
    """Micro-batches whose activations a stage holds at once, in units of its own layers.

    1F1B: the stages from this one on (Narayanan et al. 2021, arXiv 2104.04473). Interleaved: the
    warm-up of 2 (pp - stage - 1) + (vpp - 1) pp + 1 chunks of 1 / vpp of the layers. Zero-bubble
    (Qi et al. 2023, ZB-H2 excluded): as many as stages.
    """
    layout, number = job.layout, job.micro_batches
    pp, vpp = layout.pp, layout.vpp
    if pp == 1:
        return 1.0
    if layout.schedule == "zero_bubble":
        return float(min(pp, number))
    if vpp > 1:
        return min(2 * (pp - stage - 1) + (vpp - 1) * pp + 1, number * vpp) / vpp
    if software(job.stack).buffers_stages:  # a buffer of two per stage, and its source
        return 1.0 if stage == pp - 1 else 2.0 * pp + 1
    return float(min(pp - stage, number))


class _Way(NamedTuple):
    """How a job's layers run: what their bytes depend on beside the shape."""

    of: Software
    eager: bool
    tp: int
    sequence_parallel: bool
    element: float  # bytes of activations
    linear: float  # and of what products keep of their inputs
    trained: str  # all, or adapters of a kind
    quantised: bool
    recompute: str
    parts: tuple[str, ...]

    @property
    def keep(self) -> float:
        """Inputs of products are kept for gradients of trained weights, and by 4-bit products."""
        return self.linear if self.trained == "all" or self.quantised else 0.0

    @property
    def opened(self) -> bool:
        return self.eager or self.of.norms_in_fp32

    def norm_element(self, shape: ModelShape) -> float:
        """Norms keep what they worked on."""
        return FLOAT if self.opened and shape.norm == "rms" else self.element


class _Kept(NamedTuple):
    """Bytes per token that a layer keeps without recomputation, by what may be dropped."""

    inputs: float  # of its products
    attention: float
    expanded: float  # of it, by latent attention
    block: float
    product: float  # of it, the activation function's output
    others: float

    @property
    def whole(self) -> float:
        return self.inputs + self.attention + self.block + self.others


def _kept(shape: ModelShape, way: _Way, made: tuple[str, ...]) -> _Kept:
    a, element, keep, tp = shape.attention, way.element, way.keep, way.tp
    blocks, norm_element = block_count(made), way.norm_element(shape)
    width = shape.width / (tp if way.sequence_parallel else 1)
    readers = way.of.autocast_readers if element < FLOAT else 2
    attention = expanded = block = product = 0.0
    if "attention" in made:
        copied = way.linear < element or (way.quantised and way.trained != "all")
        joint = way.eager and way.of.eager == "adapters"
        attention, expanded = _attention(shape, element, keep, tp, copied, joint)
        if a.qk_norm != "none":
            attention += norm_element * (a.heads + a.kv_heads) * a.head_dim / tp
    if a.mixer is not None and "scan" in made:
        # what leads in, and again after the convolution; the scan's output, twice with its gate
        led = [rows for _, rows, _ in a.mixer.matrices[:-1]]
        attention += element * (sum(led) + led[0] + a.mixer.inner) / tp
    if "expert" in made and shape.experts is not None:
        block, product = _mixture(shape, shape.experts, element, keep, tp, way.opened)
    elif "dense" in made:
        block, product = _feed_forward(shape, shape.ffn_width, element, keep, tp, way.opened)
    norms, masks = blocks * norm_element * width, blocks * width * way.of.dropout
    others = norms + masks + _adapters(shape, made, element, way.trained, tp)
    inputs = blocks / 2 * readers * keep * width
    return _Kept(inputs, attention, expanded, block, product, others)


@lru_cache(maxsize=32768)
def _layer(shape: ModelShape, kind: str, way: _Way) -> tuple[float, float, float, float]:
    """(saved, entry, whole, passing) per token; the scores of unfused attention apart."""
    made, of, element = layer_parts(shape, kind), way.of, way.element
    kept = _kept(shape, way, made)
    entry = element * shape.width / (way.tp if way.sequence_parallel else 1)
    saved = entry if way.recompute == "full" else kept.whole
    away = {"full": of.offloads_entries, "selective": of.offloads_selected}
    if away.get(way.recompute):
        saved = 0.0
    elif way.recompute == "selective" and of.selects_products and not way.parts:
        saved = entry + _selected(shape, made, element, way.tp)
    elif way.recompute == "selective":
        out = element * shape.attention.heads * shape.attention.values / way.tp
        has_copy = way.linear < element and "attention" in made  # of the next product
        dropped = {
            "layernorm": kept.inputs,
            "core_attn": out if has_copy else 0.0,
            "mla_up_proj": kept.expanded,
            "moe" if "expert" in made else "mlp": kept.block,
        }
        if "expert" in made and "moe" not in way.parts:
            dropped["moe_act"] = kept.product
        saved -= sum(dropped.get(part, 0.0) for part in way.parts)
    backward = element * (3 * shape.ffn_width / way.tp + 4 * shape.width)
    return saved, entry, kept.whole, backward


def _selected(shape: ModelShape, made: tuple[str, ...], element: float, tp: int) -> float:
    """Every second product, and the output of attention; of grouped products none."""
    a, products, out = shape.attention, 0.0, 0.0
    if "attention" in made:
        out = a.heads * a.values / tp
        products = (a.heads + 2 * a.kv_heads) * a.head_dim / tp + a.output_gate * out
    if a.mixer is not None and "scan" in made:
        products += sum(rows for _, rows, _ in a.mixer.matrices[:-1]) / tp
    if "dense" in made:
        products += (1 + shape.gated) * shape.ffn_width / tp
    products += block_count(made) * shape.width
    return element * (products / 2 + out)


def _attention(
    shape: ModelShape, element: float, keep: float, tp: int, copied: bool, joint: bool
) -> tuple[float, float]:
    """(all, of it what latent attention expands) per token."""
    a = shape.attention
    heads, kv_heads = a.heads / tp, max(1.0, a.kv_heads / tp)
    queries, keys, values = heads * a.head_dim, kv_heads * a.head_dim, kv_heads * a.values
    out = heads * a.values
    bytes_ = element * (queries + keys + values + out) + FLOAT * heads
    if a.output_gate:  # the gate after its sigmoid, and what it lets through
        bytes_ += element * 2 * out
    if copied:  # the output's own input to the next product
        bytes_ += keep * out
    if joint:  # the values are a view of the joint product, which stays whole
        bytes_ += element * (queries + keys)
    expanded = 0.0
    if a.latent is not None:
        expanded = element * (queries + keys + values)
        low = (a.latent.query_rank or 0) + a.latent.kv_rank
        bytes_ += 2 * element * (low + a.latent.rope_dim)
    return bytes_, expanded


def _feed_forward(
    shape: ModelShape, inner: int, element: float, keep: float, tp: int, opened: bool
) -> tuple[float, float]:
    """(all, the activation function's output) per token."""
    width = inner / tp
    product = keep * width
    if not shape.gated:
        return element * width + product, product
    between = element * width if opened else 0.0  # silu's output, an input of the product
    return 2 * element * width + between + product, product + between


def _mixture(
    shape: ModelShape, experts: Experts, element: float, keep: float, tp: int, opened: bool
) -> tuple[float, float]:
    per_token, product = _feed_forward(shape, experts.width, element, keep, 1, opened)
    routed = experts.active * (per_token + element * 2 * shape.routed_width)  # and brought back
    inner = experts.shared * (experts.shared_width or experts.width)
    shared, _ = _feed_forward(shape, inner, element, keep, tp, opened)
    scores = FLOAT * 2 * experts.count
    return (routed + scores) / tp + shared, experts.active * product / tp


def _adapters(
    shape: ModelShape, made: tuple[str, ...], element: float, trained: str, tp: int
) -> float:
    """What adapters of a frozen base keep besides."""
    a, width = shape.attention, shape.width
    joint = (a.heads + 2 * a.kv_heads) * a.head_dim * ("attention" in made)
    if trained == "lora":  # dropout's output and mask, its product as wide as q, k and v
        return (element + 1) * width + element * joint / tp
    if trained == "scales":  # a scale and a shift on each linear's output, trained norms
        fed = (1 + shape.gated) * shape.ffn_width * bool({"dense", "expert"} & {*made})
        return element * ((joint + fed) / tp + 2 * block_count(made) * width)
    return 0.0


def is_eager(job: TrainingJob) -> bool:
    """Whether layers run operation by operation, each writing its output."""
    of = software(job.stack)
    fused = of.eager == "never" or (of.eager == "adapters" and job.lora is None and job.compiled)
    return not fused


def layer_bytes(job: TrainingJob, kind: str) -> LayerBytes:
    """Of one micro-batch; kind: of `layer_kinds`."""
    layout = job.layout
    element = 4.0 if job.precision == "fp32" else 2.0
    linear = element
    of = software(job.stack)
    if of.fp8_activations and job.precision in ("fp8", "fp8_block", "mxfp8", "nvfp4"):
        linear = 1.0
    trained, parts = "all", layer_parts(job.shape, kind)
    if job.lora is not None:
        trained = "scales" if job.lora.scales else str(job.task)
        if trained == "lora" and job.lora.targets != "all" and "attention" not in parts:
            trained = "frozen"  # no linear of the layer has adapters
    way = _Way(
        of,
        is_eager(job),
        layout.tp,
        layout.sequence_parallel,
        element,
        linear,
        trained,
        job.lora is not None and job.lora.base != "none",
        layout.recompute,
        layout.recompute_parts,
    )
    saved, entry, whole, passing = _layer(job.shape, kind, way)
    tokens = layout.micro_batch * job.seq_len / layout.cp
    scores = 0.0
    if not job.flash_attention and "attention" in parts:
        heads = job.shape.attention.heads / layout.tp
        scores = SCORE_BYTES * heads * tokens * job.seq_len
    kept_scores = 0.0 if layout.recompute != "none" else scores
    if layout.offload_activations:
        saved, kept_scores = 0.0, 0.0
    return LayerBytes(
        saved=tokens * saved + kept_scores,
        entry=tokens * entry,
        whole=tokens * whole + scores,
        passing=tokens * passing,
    )


def logit_bytes(job: TrainingJob) -> float:
    """Of one micro-batch on the rank that has the head; split over tp."""
    layout = job.layout
    learning, of = job.learning, software(job.stack)
    tokens = layout.micro_batch * job.seq_len / layout.cp * learning.head_share(job.seq_len)
    loss, logits = job.loss or of.loss, tokens * job.shape.vocab_size / layout.tp
    beside = 0.0
    if learning.other in ("model", "adapters") and loss != "chunked":
        beside = OTHER_LOGIT_BYTES.get(learning.kind, 0.0) * logits
    eager = LOGIT_BYTES["eager"] if job.precision != "fp32" else 3.0 * FLOAT  # no copy to widen
    if loss == "chunked" and of.chunk_elements:
        return beside + eager * min(logits, of.chunk_elements)
    if not job.loss and of.logit_bytes is not None:
        return beside + logits * of.logit_bytes
    return beside + logits * (eager if loss == "eager" else LOGIT_BYTES[cast(Loss, loss)])
