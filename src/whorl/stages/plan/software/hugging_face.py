"""What runs a transformers model layer by layer: Trainer, TRL, Axolotl, LlamaFactory; DeepSpeed."""

from __future__ import annotations

from dataclasses import replace

from whorl.stages.plan.software.base import Software, StateBytes, foreach_adam

__all__ = ["DEEPSPEED", "HUGGING_FACE", "TORCHTUNE", "UNSLOTH"]


def _zero(precision: str, experts: bool, whole: bool) -> StateBytes:
    """16-bit weights and gradients, a master copy; the step casts its gradients to fp32."""
    if precision == "fp32":
        return StateBytes(4.0, 4.0, step_shard=4.0)
    return StateBytes(2.0, 2.0, 4.0, step_shard=4.0)


HUGGING_FACE = Software(
    name="hf",
    title="Hugging Face Trainer, TRL, Axolotl, LlamaFactory",
    rates="eager",
    loss="eager",
    states=foreach_adam,
    eager="always",
    casts_whole=True,
    copies_gradients=True,
    tables_in_root=True,
    experts_apart=True,  # transformers before version 5
    experts_in_loop=True,
)
DEEPSPEED = Software(
    name="deepspeed",
    title="DeepSpeed under a transformers model",
    rates="eager",
    loss="eager",
    states=_zero,
    eager="always",
    zero=True,
    experts_apart=True,
    experts_in_loop=True,
    # Gradients go down after each pass and the host's Adam waits for them: a public report has
    # steps 4.8 times as long with the optimiser on the host.
    host_optimizer_bytes_per_s=8e9,
)
TORCHTUNE = Software(
    name="torchtune",
    title="torchtune",
    rates="fsdp",
    trains_pure=True,
    loss="chunked",  # CEWithChunkedOutputLoss is its recipes' default
    eager="adapters",
    selects_products=True,
    casts_whole=True,
    copies_gradients=True,
)
UNSLOTH = replace(
    HUGGING_FACE,
    name="unsloth",
    title="Unsloth",
    rates="fsdp",
    loss="fused",
    eager="never",
    offloads_entries=True,  # use_gradient_checkpointing="unsloth"
    experts_in_loop=False,
)
