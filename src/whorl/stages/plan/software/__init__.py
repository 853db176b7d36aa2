"""One frozen record per training software: what it keeps in memory, which loss, how it is timed."""

from __future__ import annotations

from whorl.core.errors import SpecError
from whorl.stages.plan.software.base import LOGIT_BYTES, Loss, Rates, Software, StateBytes
from whorl.stages.plan.software.fsdp import FSDP, TORCHTITAN
from whorl.stages.plan.software.hugging_face import DEEPSPEED, HUGGING_FACE, TORCHTUNE, UNSLOTH
from whorl.stages.plan.software.megatron import MEGATRON, MEGATRON_2021, MEGATRON_BRIDGE
from whorl.stages.plan.software.others import INTERNEVO, ONEFLOW, WHORL, XLA

__all__ = [
    "LOGIT_BYTES",
    "SOFTWARE",
    "Loss",
    "Rates",
    "Software",
    "StateBytes",
    "software",
]

SOFTWARE = {
    item.name: item
    for item in (
        *(MEGATRON, MEGATRON_BRIDGE, MEGATRON_2021, FSDP, TORCHTITAN, HUGGING_FACE, DEEPSPEED),
        *(TORCHTUNE, UNSLOTH, INTERNEVO, ONEFLOW, XLA, WHORL),
    )
}


ALIASES = {  # what people call it -> a name of SOFTWARE
    **{"megatron-lm": "megatron", "megatron-core": "megatron", "ms-swift-megatron": "megatron"},
    **{"megatron-bridge": "megatron_bridge", "nemo": "megatron_bridge", "primus": "megatron"},
    **{"fsdp2": "fsdp", "litgpt": "fsdp", "llm-foundry": "fsdp", "nanochat": "fsdp"},
    **{"huggingface": "hf", "transformers": "hf", "trainer": "hf", "trl": "hf", "peft": "hf"},
    **{"accelerate": "hf", "axolotl": "hf", "llamafactory": "hf", "llama-factory": "hf"},
    **{"zero": "deepspeed", "maxtext": "xla", "jax": "xla"},
}


def software(name: str) -> Software:
    """The record of a name or of what people call it. Raises SpecError with the names there are."""
    found = SOFTWARE.get(name)
    if found is None:
        key = name.strip().lower()
        found = SOFTWARE.get(ALIASES.get(key, key.replace("-", "_")))
    if found is None:
        raise SpecError("unknown training software", found=name, expected=", ".join(SOFTWARE))
    return found
