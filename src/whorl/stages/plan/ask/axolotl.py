"""axolotl's YAML: a Trainer whose weights are loaded in the precision that is asked for.

Keys and defaults: axolotl.utils.schemas.config.AxolotlInputConfig.
"""

from __future__ import annotations

from collections.abc import Mapping

from whorl.core.units import parse_count
from whorl.stages.plan.ask.rules import kept, precise, rules_of
from whorl.stages.plan.ask.said import FALSE, OtherWords, Rule
from whorl.stages.plan.ask.trainer import TRAINER, learned_by_default, preferred

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
    if value.lower() in FALSE:
        said.origin["no bf16"] = f"{key}: {value}"


AXOLOTL: Mapping[str, Rule] = {
    **TRAINER,
    **rules_of("axolotl"),
    "adapter": _adapter,
    "gradient_checkpointing": _checkpointing,
    "bf16": _bf16,
    "bfloat16": _bf16,
    "dp_shard_size": kept("shards"),
    "dp_replicate_size": kept("replicas"),
    "rl": preferred,
}


def axolotl_defaults(said: OtherWords) -> None:
    """What it sets where its file says nothing."""
    learned_by_default(said)
    said.parts.setdefault("mbs", "1")
    said.parts.setdefault("recompute", "none")
    said.flags.setdefault("--tune", "full")
    if "--precision" not in said.flags and "no bf16" in said.origin:
        said.put("--precision", "fp32", "bf16, fp16", "false")
    said.flags.setdefault("--precision", "bf16-true")  # bf16: auto, of devices that have it
    shards, replicas = said.origin.get("shards"), said.origin.get("replicas")
    if shards or replicas:
        copies = parse_count(replicas or 1, "dp_replicate_size")
        said.dp = copies * parse_count(shards or 1, "dp_shard_size")
        written = f"{shards or 1} x {copies}"
        said.tell("dp_shard_size x dp_replicate_size", written, f"{said.dp} data-parallel ranks")
        if copies > 1 and parse_count(shards or 1, "dp_shard_size") > 1:
            said.put("replicas", str(copies), "dp_replicate_size", str(copies))
