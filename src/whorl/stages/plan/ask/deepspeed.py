"""DeepSpeed's JSON, alone or as a Trainer, axolotl or LLaMA-Factory refers to it.

Keys: the configuration page of DeepSpeed's documentation. "auto" is left to who refers to it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from whorl.core.errors import SpecError
from whorl.stages.plan.ask.rules import rules_of
from whorl.stages.plan.ask.said import NOTHING, OtherWords, Rule, apply
from whorl.stages.plan.ask.texts import flat, read_mapping

__all__ = ["apply_deepspeed", "referred"]

STAGES = {"0": "none", "1": "zero1", "2": "zero2", "3": "zero3"}


def _stage(said: OtherWords, key: str, value: str) -> None:
    if value not in STAGES:
        raise SpecError(key, found=value, expected="0, 1, 2 or 3")
    said.put("shard", STAGES[value], key, value)


def _offloaded(said: OtherWords, key: str, value: str) -> None:
    said.put("offload_optimizer", "1", key, value)


DEEPSPEED: Mapping[str, Rule] = {
    **rules_of("deepspeed"),
    "zero_optimization.stage": _stage,
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
    for key, value in flat(values).items():
        if key in DEEPSPEED or not TUNING.match(key):
            of_weight[key] = value
        else:
            said.passed.append(key)
    said.flags["--stack"] = "deepspeed"
    apply(said, DEEPSPEED, of_weight)


def referred(said: OtherWords, key: str, value: str) -> None:
    """deepspeed: a file, beside the one that names it or from here. A file of axolotl's or
    LLaMA-Factory's own folder that is not here says its stage by its name: zero3_bf16_cpuoffload.
    """
    if value.lower() in NOTHING:
        return
    for path in (Path(said.where).parent / value, Path(value)):
        if path.is_file():
            apply_deepspeed(said, read_mapping(path))
            return
    stage = re.search(r"z(?:ero)?[_-]?([123])", Path(value).name.lower())
    if stage is None:
        raise SpecError(f"{said.where}: {key}", found=f"{value}, which is no file", do="copy it"
                        " beside, or name it zero2.json or zero3.json")  # fmt: skip
    said.flags["--stack"] = "deepspeed"
    said.put("shard", STAGES[stage[1]], key, value)
    if "offload" in value.lower():
        said.put("offload_optimizer", "1", key, value)
