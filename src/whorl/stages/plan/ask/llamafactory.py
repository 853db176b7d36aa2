"""LLaMA-Factory's YAML. Keys and defaults: llamafactory.hparams, its four classes of arguments."""

from __future__ import annotations

from collections.abc import Mapping

from whorl.core.errors import SpecError
from whorl.stages.plan.ask.rules import rules_of
from whorl.stages.plan.ask.said import OtherWords, Rule
from whorl.stages.plan.ask.trainer import TRAINER, learned_by_default, preferred

__all__ = ["LLAMAFACTORY", "llamafactory_defaults"]

BITS = {"4": "nf4", "8": "int8"}


def _type(said: OtherWords, key: str, value: str) -> None:
    kind = value.lower()
    if kind not in ("lora", "full"):
        said.warn(key, value, "planned as full fine-tuning: fewer weights are trained than that")
        kind = "full"
    if said.flags.get("--tune") not in ("qlora", "dora"):
        said.put("--tune", kind, key, value)


def _stage(said: OtherWords, key: str, value: str) -> None:
    if value.lower() not in ("sft", "pt"):
        preferred(said, key, value)


def _bits(said: OtherWords, key: str, value: str) -> None:
    if value not in BITS:
        raise SpecError(key, found=value, expected=" or ".join(BITS))
    said.flags["--tune"] = "qlora"
    said.put("--base-format", BITS[value], key, value)


LLAMAFACTORY: Mapping[str, Rule] = {
    **TRAINER,
    **rules_of("llamafactory"),
    "stage": _stage,
    "finetuning_type": _type,
    "lora_target": TRAINER["target_modules"],
    "quantization_bit": _bits,
    "quantization_type": TRAINER["bnb_4bit_quant_type"],
    "flash_attn": TRAINER["attn_implementation"],
}


def llamafactory_defaults(said: OtherWords) -> None:
    """What it sets where its file says nothing."""
    learned_by_default(said)
    said.flags.setdefault("--tune", "lora")
    if said.flags["--tune"] != "full":
        said.flags.setdefault("--targets", "all")
        said.flags.setdefault("--rank", "8")
    said.flags.setdefault("--seq", "2048")
    said.parts.setdefault("mbs", "8")
    said.parts.setdefault("recompute", "full")
