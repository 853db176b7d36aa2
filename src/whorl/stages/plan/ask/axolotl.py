"""axolotl's YAML: a Trainer whose weights are loaded in the precision that is asked for.

Keys and defaults: axolotl.utils.schemas.config.AxolotlInputConfig.
"""

from __future__ import annotations

from collections.abc import Mapping

from whorl.stages.plan.ask.deepspeed import referred
from whorl.stages.plan.ask.said import (
    OtherWords,
    Rule,
    count,
    is_true,
    matters,
    part,
    passed,
    to,
    when,
)
from whorl.stages.plan.ask.trainer import NOT_PLANNED, TRAINER, precise, sharded

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


def _reshard(said: OtherWords, key: str, value: str) -> None:
    said.put("shard", "zero3" if is_true(value, key) else "zero2", key, value)


AXOLOTL: Mapping[str, Rule] = {
    **TRAINER,
    "sequence_len": to("--seq"),
    "micro_batch_size": part("mbs"),
    "adapter": _adapter,
    "lora_target_linear": when(("--targets", "all")),
    "peft_use_dora": when(("--tune", "dora")),
    "optimizer": TRAINER["optim"],
    "gradient_checkpointing": _checkpointing,
    "bf16": _bf16,
    "bfloat16": _bf16,
    "fp8": precise("fp8"),
    "deepspeed": referred,
    "fsdp": sharded,
    "fsdp_version": passed,
    "fsdp_config.reshard_after_forward": _reshard,
    **dict.fromkeys(
        ("fsdp_config.offload_params", "fsdp_config.fsdp_offload_params"),
        when(("offload_optimizer", "1")),
    ),
    **dict.fromkeys(
        ("fsdp_config.activation_checkpointing", "fsdp_config.fsdp_activation_checkpointing"),
        when(("recompute", "full")),
    ),
    "dp_shard_size": count("dp"),
    "sequence_parallel_degree": part("cp"),
    **dict.fromkeys(
        ("flash_attention", "sdp_attention", "xformers_attention", "flex_attention"),
        when(("--attention", "flash")),
    ),
    "eager_attention": when(("--attention", "eager")),
    **dict.fromkeys(
        ("liger_fused_linear_cross_entropy", "cut_cross_entropy"), when(("--loss", "fused"))
    ),
    "chunked_cross_entropy": when(("--loss", "chunked")),
    **dict.fromkeys(
        ("rl", "relora", "unfrozen_parameters", "lora_modules_to_save", "process_reward_model",
         "dp_replicate_size", "torchao", "quantization", "qat"),
        matters(NOT_PLANNED),
    ),
    **dict.fromkeys(
        ("sample_packing", "pad_to_sequence_len", "eval_sample_packing", "plugins", "lora_alpha",
         "liger_rope", "liger_rms_norm", "liger_glu_activation", "liger_swiglu", "lora_mlp_kernel",
         "liger_layer_norm", "lora_qkv_kernel", "lora_o_kernel", "model_type", "gpu_memory_limit"),
        passed,
    ),
}  # fmt: skip


def axolotl_defaults(said: OtherWords) -> None:
    said.parts.setdefault("mbs", "1")
    said.parts.setdefault("recompute", "none")
    said.flags.setdefault("--tune", "full")
    said.flags.setdefault("--precision", "bf16-true")  # bf16: auto, of devices that have it
