"""The words of Hugging Face's Trainer, TRL, PEFT and bitsandbytes; other tools build on them.

Keys and defaults: transformers.TrainingArguments, trl.SFTConfig and ModelConfig, peft.LoraConfig.
"""

from __future__ import annotations

from collections.abc import Mapping

from whorl.core.errors import SpecError
from whorl.core.units import parse_count
from whorl.stages.plan.ask.rules import PRECISIONS, precise, rules_of
from whorl.stages.plan.ask.said import FALSE, OtherWords, Rule, is_true

__all__ = ["TRAINER", "preferred", "sharded", "targets", "trainer_defaults"]

QUERY_VALUE, ATTENTION = {"q_proj", "v_proj"}, {"q_proj", "k_proj", "v_proj", "o_proj"}
PAIRS, ALONE = {"dpo", "ipo", "simpo", "orpo", "cpo"}, {"simpo", "orpo", "cpo"}  # no reference
FUSED = {"attention", "query_key_value", "qkv_proj", "c_attn", "wqkv", "w_pack"}


def targets(value: str) -> str:
    """The matrices that LoRA adapts, as ours: "qv", "attention" or "all"."""
    names = {name.strip().rpartition(".")[2] for name in value.lower().split(",")}
    if names <= QUERY_VALUE or names == {"qv"}:
        return "qv"
    return "attention" if names <= ATTENTION | FUSED else "all"


def _targets(said: OtherWords, key: str, value: str) -> None:
    said.put("--targets", targets(value), key, value)


def sharded(said: OtherWords, key: str, value: str) -> None:
    """fsdp="full_shard auto_wrap": what is sharded. "fsdp2" and true are full sharding."""
    words = set(value.lower().replace(",", " ").split())
    if words & {"hybrid_shard", "hybrid_shard_zero2"}:
        said.warn(key, value, "planned as sharded over all devices")
    if words & {"no_shard", "false"}:
        said.put("shard", "none", key, value)
        return
    is_second = words & {"shard_grad_op", "hybrid_shard_zero2", "zero2"}
    said.put("shard", "zero2" if is_second else "zero3", key, value)
    if "offload" in words:
        said.put("offload_optimizer", "1", key, value)


def _reshard(said: OtherWords, key: str, value: str) -> None:
    """FSDP2 says whether, FSDP's first version what."""
    if value.lower() in FALSE:
        said.put("shard", "zero2", key, value)
    else:
        sharded(said, key, value)


def preferred(said: OtherWords, key: str, value: str) -> None:
    """What is learned besides next tokens: of preferences, an example is two sequences."""
    kind = value.lower()
    if kind in PAIRS:
        said.per_example = 2
        said.tell(key, value, "two sequences an example")
    if kind in PAIRS and kind not in ALONE:
        said.warn(key, value, "the reference's forward pass (a third more time, half more with "
                  "adapters) and, without adapters, its weights are not planned")  # fmt: skip
    elif kind not in PAIRS:
        said.warn(key, value, "planned as supervised fine-tuning on sequences of this length")


def _weights(said: OtherWords, key: str, value: str) -> None:
    """torch_dtype: what the weights are loaded in, and so gradients and moments."""
    word = PRECISIONS.get(value.lower().replace("-", "_"))
    if word in ("bf16", "fp16"):
        precise(f"{word}-true")(said, key, "true")


def _bits(base: str, tune: str) -> Rule:
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


def _attention(said: OtherWords, key: str, value: str) -> None:
    is_eager = value.lower() in ("eager", "disabled")
    said.put("--attention", "eager" if is_eager else "flash", key, value)


def _steps(said: OtherWords, key: str, value: str) -> None:
    if value.strip() != "-1":  # TrainingArguments: epochs decide
        said.steps = parse_count(value, key)
        said.tell(key, value, "steps")


TRAINER: Mapping[str, Rule] = {
    **rules_of("trainer"),
    **dict.fromkeys(("lora_target_modules", "target_modules", "lora_targets"), _targets),
    **dict.fromkeys(("use_peft", "use_lora"), _peft),
    **dict.fromkeys(("torch_dtype", "dtype"), _weights),
    "fsdp": sharded,
    **dict.fromkeys(
        ("fsdp_config.reshard_after_forward", "fsdp_config.fsdp_reshard_after_forward"), _reshard
    ),
    "load_in_4bit": _bits("nf4", "qlora"),
    "load_in_8bit": _bits("int8", "lora"),
    "bnb_4bit_quant_type": _quantised,
    "attn_implementation": _attention,
    "max_steps": _steps,
}


def trainer_defaults(said: OtherWords) -> None:
    """What it sets where its file says nothing."""
    said.parts.setdefault("mbs", "8")
    said.parts.setdefault("recompute", "none")
    said.flags.setdefault("--tune", "full")
    if "--precision" not in said.flags:
        said.put("--precision", "fp32", "bf16, fp16", "not set")
