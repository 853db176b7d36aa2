"""InternEvo, OneFlow, XLA's compiled programs, and whorl itself."""

from __future__ import annotations

from whorl.stages.plan.software.base import Software, StateBytes, foreach_adam, kept_in_fp32

__all__ = ["INTERNEVO", "ONEFLOW", "WHORL", "XLA"]


def _internevo(precision: str, experts: bool, whole: bool) -> StateBytes:
    # Gradients cast to fp32; root and sum of foreach AdamW before torch 2.1. Its own ZeRO casts
    # them for the norm too and flattens them (hybrid_zero_optim.py).
    return StateBytes(2.0, 2.0, 4.0, step_shard=4.0 + 8.0 + (4.0 + 2.0 if whole else 0.0))


INTERNEVO = Software(
    name="internevo",
    title="InternEvo",
    rates="internevo",
    loss="eager",
    logit_bytes=2 + 2 * 4,
    states=_internevo,
)
ONEFLOW = Software(
    name="oneflow",
    title="OneFlow",
    rates="2021",
    loss="fused",
    logit_bytes=2 + 4,
    states=kept_in_fp32,
    dropout=True,
    holds_outputs=True,
    buffers_stages=True,  # pipeline_buffer_pass.cpp
    static_allocator=True,
)
XLA = Software(
    name="xla",
    title="MaxText and others, compiled by XLA",
    rates="xla",
    loss="fused",
    offloads_selected=True,  # custom policies: computed again, or sent to the host
    static_allocator=True,
    gathers_smallest=True,
)
WHORL = Software(
    name="whorl",
    title="whorl",
    rates="fsdp",
    loss="chunked",
    chunk_elements=2**21,  # CHUNK_ELEMENTS of whorl/model/head.py
    states=foreach_adam,
    selects_products=True,
    autocast_readers=5,
    norms_in_fp32=True,
    casts_whole=True,
    copies_gradients=True,
)
