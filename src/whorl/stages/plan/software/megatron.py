"""Megatron-Core and what is built on it, and the Megatron-LM and DeepSpeed of 2021."""

from __future__ import annotations

from whorl.stages.plan.software.base import Software, StateBytes

__all__ = ["MEGATRON", "MEGATRON_2021", "MEGATRON_BRIDGE"]

LOW = ("fp8", "fp8_block", "mxfp8", "nvfp4")


def _core(precision: str, experts: bool, whole: bool) -> StateBytes:
    if precision in LOW:  # two fp8 copies, bf16 gradients, cast by the optimiser
        return StateBytes(2.0, 2.0, 4.0, step_shard=4.0)
    return StateBytes(2.0, 4.0, 4.0)  # accumulate_allreduce_grads_in_fp32


def _bridge(precision: str, experts: bool, whole: bool) -> StateBytes:
    if experts and precision not in LOW:  # grad_reduce_in_fp32=False
        return StateBytes(2.0, 2.0, 4.0)
    return _core(precision, experts, whole)


def _of_2021(precision: str, experts: bool, whole: bool) -> StateBytes:
    if precision == "fp16":  # ZeRO-1 flattens the shard's gradients and casts them to fp32
        return StateBytes(2.0, 2.0, 4.0, step_shard=2.0 + 4.0)
    # bf16 gradients added up in fp32; all weights gathered in one piece, allgather_bucket_size
    # being 5e9 elements (bf16_optimizer.py)
    return StateBytes(2.0, 2.0 + 4.0, 4.0, step_whole=2.0)


MEGATRON = Software(
    name="megatron",
    title="Megatron-Core",
    rates="modern",
    loss="eager",
    # the product, its transpose, the fp32 copy that becomes its own gradient, which is cast again
    logit_bytes=2 + 2 + 4 + 2,
    states=_core,
    fp8_activations=True,
    chunks=4,
)
# NVIDIA's recipes for mixtures of experts: precision-aware optimiser, gradients in bf16.
MEGATRON_BRIDGE = Software(
    name="megatron_bridge",
    title="Megatron-Bridge and NeMo",
    rates="modern",
    loss="fused",
    logit_bytes=2 + 4,  # cross_entropy_loss_fusion
    states=_bridge,
    expert_moment_bytes=2.0,
    fp8_activations=True,
    chunks=4,
)
MEGATRON_2021 = Software(
    name="megatron_2021",
    title="Megatron-LM and DeepSpeed of 2019 to 2022",
    rates="2021",
    loss="eager",
    logit_bytes=2 + 2 * 4,
    states=_of_2021,
    dropout=True,
    holds_outputs=True,
    zero=True,
)
