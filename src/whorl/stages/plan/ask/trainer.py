"""The words of Hugging Face's Trainer, TRL, PEFT and bitsandbytes; other tools build on them.

Keys and defaults: transformers.TrainingArguments, trl.SFTConfig and ModelConfig, peft.LoraConfig.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from whorl.core.errors import SpecError
from whorl.core.units import parse_count, parse_number
from whorl.stages.plan.ask.deepspeed import beside, referred
from whorl.stages.plan.ask.rules import PRECISIONS, kept, offloaded, precise, rules_of
from whorl.stages.plan.ask.said import FALSE, OtherWords, Rule, apply, is_true, nearest
from whorl.stages.plan.ask.texts import flat, read_mapping
from whorl.stages.plan.facts import fact

__all__ = ["TRAINER", "learned_by_default", "preferred", "sharded", "targets", "trainer_defaults"]

QUERY_VALUE, ATTENTION, FUSED, OURS, TABLES = (
    set(fact(f"matrices.{name}"))
    for name in ("query_value", "attention", "fused", "ours", "tables")
)
WHOLE = [set(names) for names in fact("matrices.whole")]
MATRICES = frozenset().union(OURS, TABLES, fact("matrices.others"), FUSED, *WHOLE)
OF_FSDP = ("fsdp_config.activation_checkpointing", "fsdp_config.fsdp_activation_checkpointing")
ALONE, SINGLE = {"simpo", "orpo", "cpo", "rm"}, {"kto", "bco"}  # no reference; no pairs
PAIRS = {"dpo", "ipo", *ALONE, *SINGLE}


def _matrices(value: str) -> set[str]:
    """Names of matrices of a list, or that a regular expression spells out. Raises SpecError."""
    found: set[str] = set()
    for item in filter(None, (item.strip() for item in value.lower().split(","))):
        name = item.rpartition(".")[2]
        words = set(re.findall(r"[a-z]\w*", item))
        spelt, wrong = words & MATRICES, {w for w in words - MATRICES if w.endswith("_proj")}
        is_plain = re.fullmatch(r"[\w.-]+", item) is not None
        if name not in MATRICES and (not spelt or wrong or is_plain):
            near = nearest(min(wrong, default=name), MATRICES, 0.6)
            raise SpecError(
                "--targets", found=item, expected=", ".join(sorted(MATRICES)),
                do=f"did you mean {near}?" if near else None,
            )  # fmt: skip
        found |= {name} if name in MATRICES else spelt
    if not found:
        raise SpecError("--targets", found=value, expected=", ".join(sorted(MATRICES)))
    return found


def targets(value: str) -> str:
    """The matrices that LoRA adapts, as ours: "qv", "attention" or "all", the least that has them.

    Raises SpecError, with the nearest, for a name that no model here has.
    """
    names = _matrices(value)
    if names <= QUERY_VALUE | {"qv"}:
        return "qv"
    return "attention" if names <= ATTENTION | FUSED | {"attention"} else "all"


def _targets(said: OtherWords, key: str, value: str) -> None:
    ours = targets(value)
    said.put("--targets", ours, key, value)
    names = _matrices(value)
    is_whole = names & OURS or names in WHOLE
    if not is_whole or names & TABLES:
        more = "; adapters of tables and head are not planned" if names & TABLES else ""
        said.warn(key, value, f"planned as --targets {ours}, the least that has them{more}")


def sharded(said: OtherWords, key: str, value: str) -> None:
    """fsdp="full_shard auto_wrap": what is sharded. "fsdp2" and true are full sharding."""
    words = set(value.lower().replace(",", " ").split())
    if words & {"hybrid_shard", "hybrid_shard_zero2"}:
        said.warn(key, value, "planned as sharded over all devices")
    if words & {"no_shard", "false"}:
        if "false" not in words or said.flags.get("--stack") != "deepspeed":
            said.put("shard", "none", key, value)
        return
    is_second = words & {"shard_grad_op", "hybrid_shard_zero2", "zero2"}
    said.put("shard", "zero2" if is_second else "zero3", key, value)
    if "offload" in words:
        offloaded(said, key, "true")


def _reshard(said: OtherWords, key: str, value: str) -> None:
    """FSDP2 says whether, FSDP's first version what."""
    if value.lower() in FALSE:
        said.put("shard", "zero2", key, value)
    else:
        sharded(said, key, value)


def _checkpointing(said: OtherWords, key: str, value: str) -> None:
    """gradient_checkpointing: off where FSDP does it, as its documentation advises."""
    if is_true(value, key):
        said.put("recompute", "full", key, value)
    elif said.origin.get("recompute") not in OF_FSDP:
        said.put("recompute", "none", key, value)


def _fsdp_checkpointing(said: OtherWords, key: str, value: str) -> None:
    if not is_true(value, key):
        return
    if said.parts.get("recompute") == "none":
        said.unsay("recompute")
    said.put("recompute", "full", key, value)


def _fsdp_config(said: OtherWords, key: str, value: str) -> None:
    """A file of FSDP's settings, beside the one that names it."""
    if value.lower() in FALSE:
        return
    path = beside(said, value)
    if path is None:
        raise SpecError(f"{said.where or said.tool}: {key}", found=f"{value}, which is no file",
                        do="copy it beside, or write its settings here")  # fmt: skip
    apply(said, TRAINER, flat(read_mapping(path), "fsdp_config."))


def learned_by_default(said: OtherWords) -> None:
    """What a file that names no objective learns, by keys that only GRPO's or DPO's have."""
    beta = said.origin.get("beta")
    if "kind" not in said.learned and {"generations", "completion"} & set(said.learned):
        said.put("objective.kind", "grpo", "num_generations", "given")
    if "kind" not in said.learned and (beta or "reference" in said.learned):
        said.put("objective.kind", "dpo", "beta", beta or "given")
        said.warn("beta", beta or "given", "taken for DPOConfig's; of another trainer say "
                  "--objective")  # fmt: skip
    if said.learned.get("kind") == "grpo" and beta and parse_number(beta, "beta", 0) > 0:
        said.learned.setdefault("reference", "model")


def _by_engine(said: OtherWords, key: str, value: str) -> None:
    if is_true(value, key):
        said.learned.setdefault("rollout", "colocated")
        said.tell(key, value, f"completions written by an engine, {said.learned['rollout']}")


def _engine_mode(said: OtherWords, key: str, value: str) -> None:
    said.learned["rollout"] = "server" if value.lower() == "server" else "colocated"
    said.tell(key, value, f"completions written by an engine, {said.learned['rollout']}")


def preferred(said: OtherWords, key: str, value: str) -> None:
    """What is learned besides next tokens: of preferences, an example is two sequences."""
    kind = value.lower()
    if kind in PAIRS:
        said.put("objective.kind", "dpo", key, value)
        if kind in ALONE:
            said.put("objective.reference", "none", key, value)
        if kind in SINGLE:
            said.put("objective.sequences", "1", key, value)
    elif kind in ("grpo", "gspo", "dapo"):
        said.put("objective.kind", "grpo", key, value)
    else:
        said.warn(key, value, "planned as supervised fine-tuning on sequences of this length")


def _preferred_by(said: OtherWords, key: str, value: str) -> None:
    """pref_loss of LLaMA-Factory: how, where a stage said that."""
    if value.lower() in ALONE:
        said.put("objective.reference", "none", key, value)


def _teacher(said: OtherWords, key: str, value: str) -> None:
    said.put("objective.kind", "distil", key, value)
    said.put("objective.teacher", value, key, value)


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
    **dict.fromkeys(("beta", "trl.beta"), kept("beta")),
    **dict.fromkeys(("use_vllm", "trl.use_vllm"), _by_engine),
    **dict.fromkeys(("vllm_mode", "trl.vllm_mode"), _engine_mode),
    "pref_loss": _preferred_by,
    "batch_sampler": lambda said, key, value: said.put(  # of SentenceTransformerTrainingArguments
        "objective.kind", "embedding", key, value
    ),
    **dict.fromkeys(("teacher_model_name_or_path", "teacher_model"), _teacher),
    "deepspeed": referred,
    "fsdp": sharded,
    "fsdp_config": _fsdp_config,
    "gradient_checkpointing": _checkpointing,
    **dict.fromkeys(OF_FSDP, _fsdp_checkpointing),
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
    learned_by_default(said)
    said.parts.setdefault("mbs", "8")
    said.parts.setdefault("recompute", "none")
    said.flags.setdefault("--tune", "full")
    if "--precision" not in said.flags:
        said.put("--precision", "fp32", "bf16, fp16", "not set")
