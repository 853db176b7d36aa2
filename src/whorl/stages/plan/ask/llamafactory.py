"""LLaMA-Factory's YAML. Keys and defaults: llamafactory.hparams, its four classes of arguments."""

from __future__ import annotations

from collections.abc import Mapping

from whorl.core.errors import SpecError
from whorl.stages.plan.ask.deepspeed import referred
from whorl.stages.plan.ask.said import OtherWords, Rule, is_true, matters, passed, to, when
from whorl.stages.plan.ask.trainer import NOT_PLANNED, TRAINER

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
        said.warn(key, value, "planned as supervised fine-tuning on sequences of this length")


def _bits(said: OtherWords, key: str, value: str) -> None:
    if value not in BITS:
        raise SpecError(key, found=value, expected=" or ".join(BITS))
    said.flags["--tune"] = "qlora"
    said.put("--base-format", BITS[value], key, value)


def _flash(said: OtherWords, key: str, value: str) -> None:
    said.put("--attention", "eager" if value.lower() == "disabled" else "flash", key, value)


def _not_recomputed(said: OtherWords, key: str, value: str) -> None:
    said.put("recompute", "none" if is_true(value, key) else "full", key, value)


LLAMAFACTORY: Mapping[str, Rule] = {
    **TRAINER,
    "stage": _stage,
    "finetuning_type": _type,
    "lora_target": TRAINER["target_modules"],
    "quantization_bit": _bits,
    "quantization_type": TRAINER["bnb_4bit_quant_type"],
    "cutoff_len": to("--seq"),
    "disable_gradient_checkpointing": _not_recomputed,
    "flash_attn": _flash,
    "deepspeed": referred,
    "use_unsloth": when(("--stack", "unsloth")),
    "enable_liger_kernel": when(("--loss", "fused")),
    **dict.fromkeys(
        ("use_galore", "use_apollo", "use_badam", "use_llama_pro", "freeze_trainable_layers",
         "mixture_of_depths", "use_unsloth_gc", "additional_target", "pref_loss", 
         "image_max_pixels",         "video_max_pixels", "freeze_vision_tower", "shift_attn"),
        matters(NOT_PLANNED),
    ),
    **dict.fromkeys(
        ("quantization_method", "max_samples", "upcast_layernorm", "double_quantization",
         "lora_alpha", "rope_scaling", "neat_packing", "max_new_tokens"),
        passed,
    ),
}  # fmt: skip


def llamafactory_defaults(said: OtherWords) -> None:
    """What it sets where its file says nothing."""
    said.flags.setdefault("--tune", "lora")
    if said.flags["--tune"] != "full":
        said.flags.setdefault("--targets", "all")
        said.flags.setdefault("--rank", "8")
    said.flags.setdefault("--seq", "2048")
    said.parts.setdefault("mbs", "8")
    said.parts.setdefault("recompute", "full")
