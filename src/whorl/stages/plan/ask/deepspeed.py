"""DeepSpeed's JSON, alone or as a Trainer, axolotl or LLaMA-Factory refers to it.

Keys: the configuration page of DeepSpeed's documentation. "auto" is left to who refers to it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from whorl.core.errors import SpecError
from whorl.core.units import parse_number
from whorl.stages.plan.ask.rules import choice, rules_of
from whorl.stages.plan.ask.said import NOTHING, OtherWords, Rule, apply, is_true, nearest
from whorl.stages.plan.ask.texts import flat, read_mapping

__all__ = ["apply_deepspeed", "beside", "referred"]

PRECISE = ("bf16.enabled", "bfloat16.enabled", "fp16.enabled", "torch_autocast.enabled")
STAGES = {"0": "none", "1": "zero1", "2": "zero2", "3": "zero3"}


def _offloaded(said: OtherWords, key: str, value: str) -> None:
    said.put("offload_optimizer", "1", key, value)


def _ratio(said: OtherWords, key: str, value: str) -> None:
    if parse_number(value, key, 0) < 1:
        said.warn(key, value, "not planned: the optimiser's states are planned on the host, all")


def _apex(said: OtherWords, key: str, value: str) -> None:
    if is_true(value, key):
        said.put("--precision", "fp16", key, value)
        said.warn(key, value, "Apex's mixed precision is planned as fp16")


DEEPSPEED: Mapping[str, Rule] = {
    **rules_of("deepspeed"),
    "amp.enabled": _apex,
    "zero_optimization.offload_optimizer.ratio": _ratio,
    "zero_optimization.stage": choice("shard", STAGES),
    "zero_optimization.offload_optimizer.device": _offloaded,
}
TUNING = re.compile(  # sizes of buckets and switches that are on anyway; what is only configured
    r"zero_optimization\.(?!.*(quantiz|partition_size|mics))|optimizer\.params|scheduler|"
    r"activation_checkpointing|(bf16|fp16)\.|amp|flops_profiler|communication|prescale|zero_allow|"
    r"aio\.|elasticity|zero_force|train_steps"
)


def apply_deepspeed(said: OtherWords, values: Mapping[str, object]) -> None:
    """Its keys, flat. What tunes buckets and overlap has no weight here."""
    of_weight = {}
    whole = flat(values)
    for key, value in whole.items():
        if key in DEEPSPEED or not TUNING.match(key) or nearest(key, DEEPSPEED):
            of_weight[key] = value
        else:
            said.passed.append(key)
    said.flags["--stack"] = "deepspeed"
    if said.parts.get("shard") == "none":  # fsdp: false
        said.unsay("shard")
    apply(said, DEEPSPEED, of_weight)
    if "zero_optimization.stage" not in whole and "shard" not in said.parts:
        said.put("shard", "none", "zero_optimization.stage", "0, not set")
    left_open = [key for key in PRECISE if str(whole.get(key, "")).lower() == "auto"]
    if said.tool == "deepspeed" and "--precision" not in said.flags and not left_open:
        said.put("--precision", "fp32", "bf16, fp16", "not set")


def beside(said: OtherWords, value: str) -> Path | None:
    """A file beside the one that names it, or from here."""
    paths = (Path(said.where).parent / value, Path(value))
    return next((path for path in paths if path.is_file()), None)


def referred(said: OtherWords, key: str, value: str) -> None:
    """deepspeed: a file, beside the one that names it or from here. A file of axolotl's or
    LLaMA-Factory's own folder that is not here says its stage by its name: zero3_bf16_cpuoffload.
    """
    if value.lower() in NOTHING:
        return
    if path := beside(said, value):
        apply_deepspeed(said, read_mapping(path))
        return
    stage = re.search(r"z(?:ero)?[_-]?([123])", Path(value).name.lower())
    if stage is None:
        raise SpecError(
            f"{said.where or said.tool}: {key}",
            found=f"{value}, which is no file",
            do="copy it beside, or name it zero2.json or zero3.json",
        )
    said.flags["--stack"] = "deepspeed"
    if said.parts.get("shard") == "none":
        said.unsay("shard")
    said.put("shard", STAGES[stage[1]], key, value)
    if "offload" in value.lower():
        said.put("offload_optimizer", "1", key, value)
