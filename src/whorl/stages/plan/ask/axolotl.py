"""axolotl's YAML: a Trainer whose weights are loaded in the precision that is asked for.

Keys and defaults: axolotl.utils.schemas.config.AxolotlInputConfig.
"""

from __future__ import annotations

from collections.abc import Mapping

from whorl.stages.plan.ask.deepspeed import referred
from whorl.stages.plan.ask.rules import precise, rules_of
from whorl.stages.plan.ask.said import OtherWords, Rule
from whorl.stages.plan.ask.trainer import TRAINER, preferred

__all__ = ["AXOLOTL", "axolotl_defaults"]

OFFLOADED = ("offload", "offload_disk", "unsloth")  # checkpoints of layers kept on the host


def _adapter(said: OtherWords, key: str, value: str) -> None:
    said.flags.pop("--tune", None)  # load_in_4bit may have said it
    said.put("--tune", value.lower(), key, value)


def _checkpointing(said: OtherWords, key: str, value: str) -> None:
    if value.lower() in OFFLOADED:
        said.put("recompute", "full", key, value)
        said.put("offload_activations", "1", key, value)
    else:
        TRAINER["gradient_checkpointing"](said, key, value)


def _bf16(said: OtherWords, key: str, value: str) -> None:
    precise("bf16-true")(said, key, "true" if value.lower() == "full" else value)


AXOLOTL: Mapping[str, Rule] = {
    **TRAINER,
    **rules_of("axolotl"),
    "adapter": _adapter,
    "gradient_checkpointing": _checkpointing,
    "bf16": _bf16,
    "bfloat16": _bf16,
    "deepspeed": referred,
    "rl": preferred,
}


def axolotl_defaults(said: OtherWords) -> None:
    """What it sets where its file says nothing."""
    said.parts.setdefault("mbs", "1")
    said.parts.setdefault("recompute", "none")
    said.flags.setdefault("--tune", "full")
    said.flags.setdefault("--precision", "bf16-true")  # bf16: auto, of devices that have it
