"""PyTorch's fully sharded data parallelism: torchtitan, and others that compile or fuse."""

from __future__ import annotations

from whorl.stages.plan.software.base import Software

__all__ = ["FSDP", "TORCHTITAN"]

FSDP = Software(
    name="fsdp",
    title="PyTorch FSDP, fused or compiled; LitGPT",
    rates="fsdp",
    loss="fused",
    eager="adapters",
    quantises_head=True,
    selects_products=True,
    casts_whole=True,
    copies_gradients=True,
)
TORCHTITAN = Software(
    name="torchtitan",
    title="torchtitan",
    rates="fsdp",
    loss="eager",  # components/loss.py: cross_entropy of logits.float()
    selects_products=True,
    casts_whole=True,
    copies_gradients=True,
)
