"""torchtitan's TOML. Keys and defaults: torchtitan.config, its dataclasses of job configuration."""

from __future__ import annotations

from collections.abc import Mapping

from whorl.arch.known_models import is_known
from whorl.stages.plan.ask.said import (
    OtherWords,
    Rule,
    choice,
    count,
    matters,
    part,
    passed,
    to,
    when,
)
from whorl.stages.plan.ask.trainer import NOT_PLANNED, OPTIMIZERS, precise

__all__ = ["TORCHTITAN", "torchtitan_defaults"]

NAMES = {"llama3": "llama-3.1", "llama2": "llama-2", "deepseek_v3": "deepseek-v3"}  # of its models
FLAVORS = {"deepseek-v3-671b": "deepseek-v3", "deepseek-v3-16b": "deepseek-v2-lite"}
PIPELINES = {"1f1b": "1f1b", "interleaved1f1b": "interleaved", "interleavedzerobubble":
             "zero_bubble", "zbvzerobubble": "zero_bubble"}  # fmt: skip


def _keep(name: str) -> Rule:
    """Kept until all is read: the model is named by two keys, the shards by two."""

    def rule(said: OtherWords, key: str, value: str) -> None:
        said.origin[name] = value
        if not name.startswith("model"):
            said.tell(key, value, "what is sharded")

    return rule


def _converters(said: OtherWords, key: str, value: str) -> None:
    if "mx" in value.lower():
        precise("mxfp8")(said, key, "true")
    elif "float8" in value.lower():
        precise("fp8")(said, key, "true")


def _batch(said: OtherWords, key: str, value: str) -> None:
    if value != "-1":  # local batch times data-parallel degree
        count("sequences")(said, key, value)


def _dtype(said: OtherWords, key: str, value: str) -> None:
    if value.lower() == "bfloat16":
        precise("bf16-true")(said, key, "true")


TORCHTITAN: Mapping[str, Rule] = {
    "model.name": _keep("model name"),
    "model.flavor": _keep("model flavor"),
    "model.converters": _converters,
    "training.seq_len": to("--seq"),
    "training.local_batch_size": part("mbs"),
    "training.batch_size": part("mbs"),
    "training.global_batch_size": _batch,
    "training.steps": count("steps"),
    "training.dtype": _dtype,
    "parallelism.data_parallel_replicate_degree": _keep("replicas"),
    "parallelism.data_parallel_shard_degree": _keep("shards"),
    "parallelism.tensor_parallel_degree": part("tp"),
    "parallelism.pipeline_parallel_degree": part("pp"),
    "parallelism.context_parallel_degree": part("cp"),
    "parallelism.expert_parallel_degree": part("ep"),
    "parallelism.pipeline_parallel_schedule": choice("schedule", PIPELINES),
    "parallelism.pipeline_parallel_microbatch_size": _keep("pipeline batch"),
    "activation_checkpoint.mode": choice(
        "recompute",
        {"none": "none", "selective": "selective", "full": "full", "memory_budget": "selective"},
    ),
    "optimizer.name": choice("--optimizer", OPTIMIZERS),
    "optimizer.early_step_in_backward": when(("--step-in-backward", "true")),
    "lora.rank": to("--rank"),
    "training.enable_cpu_offload": when(("offload_optimizer", "1")),
    **dict.fromkeys(
        ("parallelism.pipeline_parallel_layers_per_stage", 
         "parallelism.expert_tensor_parallel_degree",
         "parallelism.pipeline_parallel_schedule_csv", "activation_checkpoint.early_stop"),
        matters(NOT_PLANNED),
    ),
    **dict.fromkeys(
        ("compile.enable", "compile.components", "activation_checkpoint.selective_ac_option",
         "parallelism.enable_async_tensor_parallel", "parallelism.fsdp_reshard_after_forward",
         "parallelism.disable_loss_parallel", "optimizer.implementation",
         "parallelism.context_parallel_rotate_method", "model.hf_assets_path",
         "training.mixed_precision_param", "training.mixed_precision_reduce"),
        passed,
    ),
}  # fmt: skip


def torchtitan_defaults(said: OtherWords) -> None:
    """The model of name and flavour, the shards, and what it sets where the file says nothing."""
    kept, parts = said.origin, said.parts
    name, flavor = kept.get("model name", ""), kept.get("model flavor", "")
    if name:
        model = f"{NAMES.get(name, name.replace('_', '-'))}-{flavor.lower()}"
        model = FLAVORS.get(model, model)
        if is_known(model):
            said.put("--model", model, "model.name, model.flavor", f"{name} {flavor}")
        else:
            said.warn("model", f"{name} {flavor}", "no model of that name is known: give --model")
    replicas, shards = int(kept.get("replicas", "1")), int(kept.get("shards", "-1"))
    if shards == 1:
        parts["shard"] = "none"
    else:
        parts["shard"] = "zero3"
        if replicas > 1 and shards > 1:
            parts["shard_devices"] = str(shards)
    parts.setdefault("mbs", "8")
    parts.setdefault("recompute", "selective")
    if int(parts.get("pp", "1")) > 1:  # of a pipeline the local batch is cut into micro-batches
        each = int(kept.get("pipeline batch", "1"))
        said.accumulation = max(1, int(parts["mbs"]) // each)
        parts["mbs"] = str(each)
        if parts.get("schedule") in ("interleaved", "zero_bubble"):
            parts.setdefault("vpp", "2")
    else:
        parts.pop("schedule", None)
    if parts.get("schedule") == "1f1b" or parts.get("vpp"):
        parts.pop("schedule", None)
    said.flags.setdefault("--seq", "2048")
