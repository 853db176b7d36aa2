"""The words of Hugging Face's Trainer, TRL, PEFT and bitsandbytes; other tools build on them.

Keys and defaults: transformers.TrainingArguments, trl.SFTConfig and ModelConfig, peft.LoraConfig.
"""

from __future__ import annotations

from collections.abc import Mapping

from whorl.core.errors import SpecError
from whorl.core.units import parse_count
from whorl.stages.plan.ask.said import (
    OtherWords,
    Rule,
    choice,
    count,
    is_true,
    matters,
    part,
    passed,
    to,
    when,
)

__all__ = ["OPTIMIZERS", "PRECISIONS", "TRAINER", "family_of", "precise", "sharded", "targets"]

# Words for an optimiser -> ours. 4-bit states, rarer variants: not planned, refused by name.
OPTIMIZERS: Mapping[str, str] = {
    **dict.fromkeys(("adamw", "adam", "adamw_torch", "adamw_torch_fused", "adamw_hf"), "adamw"),
    **dict.fromkeys(("adamw_apex_fused", "fusedadam", "fused_adam", "cpu_adam"), "adamw"),
    **dict.fromkeys(
        ("torch_adam", "deepspeedcpuadam", "torch.optim.adamw", "adamw_32bit"), "adamw"
    ),
    **dict.fromkeys(
        ("adamw_8bit", "adamw_bnb_8bit", "adamw8bit", "adamw_torch_8bit"), "adamw_8bit"
    ),
    **dict.fromkeys(("bitsandbytes.optim.adamw8bit", "bnb.optim.adamw8bit"), "adamw_8bit"),
    **dict.fromkeys(("paged_adamw_8bit", "pagedadamw8bit"), "paged_adamw_8bit"),
    **dict.fromkeys(
        ("bitsandbytes.optim.pagedadamw8bit", "bnb.optim.pagedadamw8bit"), "paged_adamw_8bit"
    ),
    **dict.fromkeys(("paged_adamw", "paged_adamw_32bit", "pagedadamw"), "paged_adamw"),
    **dict.fromkeys(("adamw_anyprecision", "adamw_bf16"), "adamw_bf16"),
    "adafactor": "adafactor",
    **dict.fromkeys(("lion", "lion_32bit", "lion_pytorch"), "lion"),
    **dict.fromkeys(("lion_8bit",), "lion_8bit"),
    **dict.fromkeys(("sgd", "torch.optim.sgd"), "sgd"),
    "muon": "muon",
}
# Words for a precision -> ours; *-true: weights, gradients and states in 2 bytes.
PRECISIONS: Mapping[str, str] = {
    **dict.fromkeys(("bf16", "bf16_mixed", "bfloat16", "torch.bfloat16"), "bf16"),
    **dict.fromkeys(("bf16_true", "pure_bf16", "bf16_pure"), "bf16-true"),
    **dict.fromkeys(("fp16", "16_mixed", "fp16_mixed", "float16", "half"), "fp16"),
    **dict.fromkeys(("16_true", "fp16_true"), "fp16-true"),
    **dict.fromkeys(("fp32", "32", "32_true", "float32", "float", "no", "tf32"), "fp32"),
    **dict.fromkeys(("fp8", "float8", "float8_tensorwise", "fp8_tensorwise"), "fp8"),
    **dict.fromkeys(("float8_rowwise", "fp8_rowwise", "tensorwise", "rowwise"), "fp8"),
    **dict.fromkeys(("transformer_engine", "e4m3", "hybrid", "delayed", "fp8_delayed"), "fp8"),
    **dict.fromkeys(("fp8_block", "blockwise", "float8_blockwise", "fp8_blockwise"), "fp8_block"),
    **dict.fromkeys(("mxfp8", "mx"), "mxfp8"),
    **dict.fromkeys(("nvfp4", "fp4"), "nvfp4"),
}
QUERY_VALUE, ATTENTION = {"q_proj", "v_proj"}, {"q_proj", "k_proj", "v_proj", "o_proj"}
NOT_PLANNED = "not planned: memory and time are as without it"
UPLOADED = ("-unsloth", "-bnb-4bit", "-hf")  # of names in the hub: nothing of a model's sizes


def targets(value: str) -> str:
    """The matrices that LoRA adapts, as ours: "qv", "attention" or "all"."""
    names = {name.strip().rpartition(".")[2] for name in value.lower().split(",")}
    if names & {"all", "all-linear", "all_linear"}:
        return "all"
    if names <= QUERY_VALUE or names == {"qv"}:
        return "qv"
    fused = {"attention", "query_key_value", "qkv_proj", "c_attn", "wqkv", "w_pack"}
    return "attention" if names <= ATTENTION | fused else "all"


def family_of(model: str) -> str:
    """A model's name as people quantise and upload it, as the name of the model itself."""
    for word in UPLOADED:
        model = model.replace(word, "")
    return model


def sharded(said: OtherWords, key: str, value: str) -> None:
    """fsdp="full_shard auto_wrap": what is sharded. "fsdp2" and true are full sharding."""
    words = set(value.lower().replace(",", " ").split())
    if words & {"hybrid_shard", "hybrid_shard_zero2", "_hybrid_shard"}:
        said.warn(key, value, "planned as sharded over all devices")
    is_second = words & {"shard_grad_op", "hybrid_shard_zero2", "zero2"}
    if words & {"no_shard", "false"}:
        said.put("shard", "none", key, value)
        return
    said.put("shard", "zero2" if is_second else "zero3", key, value)
    if "offload" in words:
        said.put("offload_optimizer", "1", key, value)


def _model(said: OtherWords, key: str, value: str) -> None:
    said.put("--model", family_of(value), key, value)


def precise(precision: str) -> Rule:
    """bf16: true. False says nothing: the other one may be true. Weights in two bytes (bf16-true)
    go before mixed ones, whichever key comes first."""

    def rule(said: OtherWords, key: str, value: str) -> None:
        before = said.flags.get("--precision", "")
        if not is_true(value, key) or before == f"{precision}-true":
            return
        if precision == f"{before}-true":
            del said.flags["--precision"]
        said.put("--precision", precision, key, value)

    return rule


def _weights(said: OtherWords, key: str, value: str) -> None:
    """torch_dtype: what the weights are loaded in, and so gradients and moments."""
    word = PRECISIONS.get(value.lower().replace("-", "_"))
    if word in ("bf16", "fp16"):
        precise(f"{word}-true")(said, key, "true")


def _bits(base: str, tune: str = "qlora") -> Rule:
    """A base loaded in 4 or 8 bits is frozen: adapters are trained."""

    def rule(said: OtherWords, key: str, value: str) -> None:
        if is_true(value, key):
            said.flags["--tune"] = tune
            said.put("--base-format", base, key, value)

    return rule


def _quantised(said: OtherWords, key: str, value: str) -> None:
    """bnb_4bit_quant_type: nf4 or fp4 of a base in 4 bits."""
    if value.lower() not in ("nf4", "fp4"):
        raise SpecError(key, found=value, expected="nf4 or fp4")
    said.flags["--base-format"] = value.lower()
    said.tell(key, value, f"--base-format {value.lower()}")


def _peft(said: OtherWords, key: str, value: str) -> None:
    if is_true(value, key) and "--tune" not in said.flags:
        said.put("--tune", "lora", key, value)


def _rank(said: OtherWords, key: str, value: str) -> None:
    said.put("--rank", str(parse_count(value, key)), key, value)


def _attention(said: OtherWords, key: str, value: str) -> None:
    is_eager = value.lower() in ("eager", "disabled")
    said.put("--attention", "eager" if is_eager else "flash", key, value)


def _steps(said: OtherWords, key: str, value: str) -> None:
    if value.strip() != "-1":  # TrainingArguments: epochs decide
        count("steps")(said, key, value)


BATCH = part("mbs")
ACCUMULATION = count("accumulation")
LENGTH = to("--seq")
CHECKPOINTING = when(("recompute", "full"), otherwise=(("recompute", "none"),))
LIGER = when(("--loss", "fused"))

TRAINER: Mapping[str, Rule] = {
    **dict.fromkeys(("model_name_or_path", "model_name", "model_id", "base_model"), _model),
    "per_device_train_batch_size": BATCH,
    "gradient_accumulation_steps": ACCUMULATION,
    **dict.fromkeys(("max_seq_length", "max_length", "model_max_length", "max_seq_len"), LENGTH),
    "gradient_checkpointing": CHECKPOINTING,
    **dict.fromkeys(("optim", "optimizer_name"), choice("--optimizer", OPTIMIZERS)),
    "bf16": precise("bf16"),
    "fp16": precise("fp16"),
    "pure_bf16": precise("bf16-true"),
    "mixed_precision": choice("--precision", PRECISIONS),
    "float8": precise("fp8"),
    "fsdp": sharded,
    "fsdp2": when(("shard", "zero3")),
    "use_peft": _peft,
    "use_lora": _peft,
    **dict.fromkeys(("lora_r", "lora_rank"), _rank),
    **dict.fromkeys(
        ("lora_target_modules", "target_modules", "lora_targets"),
        lambda said, key, value: said.put("--targets", targets(value), key, value),
    ),
    "use_dora": when(("--tune", "dora")),
    "load_in_4bit": _bits("nf4"),
    "load_in_8bit": _bits("int8", "lora"),
    "bnb_4bit_quant_type": _quantised,
    "attn_implementation": _attention,
    **dict.fromkeys(("use_liger_kernel", "use_liger", "use_liger_loss"), LIGER),
    "activation_offloading": when(("offload_activations", "1")),
    "max_steps": _steps,
    **dict.fromkeys(
        ("num_train_epochs", "num_epochs", "epochs", "packing", "padding_free", "group_by_length"),
        passed,
    ),
    **dict.fromkeys(("torch_compile", "tf32", "bnb_4bit_compute_dtype"), passed),
    **dict.fromkeys(("torch_dtype", "dtype"), _weights),
    **dict.fromkeys(("bnb_4bit_use_double_quant", "gradient_checkpointing_kwargs"), passed),
    **dict.fromkeys(("fsdp_config", "lora_bias", "task_type", "bias", "use_cache"), passed),
    **dict.fromkeys(("modules_to_save", "use_rslora", "ddp_find_unused_parameters"), passed),
    **dict.fromkeys(
        ("optim_target_modules", "num_generations", "use_vllm", "ref_model", "beta"),
        matters(NOT_PLANNED),
    ),
    **dict.fromkeys(("dp", "data_parallel_size", "data_parallel"), count("dp")),
    **dict.fromkeys(("tensor_parallel", "tensor_parallel_size"), part("tp")),
    **dict.fromkeys(("pipeline_parallel", "pipeline_parallel_size"), part("pp")),
    **dict.fromkeys(("context_parallel", "context_parallel_size", "cp_size"), part("cp")),
    **dict.fromkeys(("expert_parallel", "expert_parallel_size"), part("ep")),
    **dict.fromkeys(
        ("num_processes", "nproc_per_node", "num_gpus", "n_gpus", "devices"), to("--count")
    ),
}
