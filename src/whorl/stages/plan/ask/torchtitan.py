"""torchtitan's TOML. Keys and defaults: torchtitan.config, its dataclasses of job configuration."""

from __future__ import annotations

from collections.abc import Mapping

from whorl.arch.known_models import is_known
from whorl.core.errors import SpecError
from whorl.stages.plan.ask.rules import choice, kept, matters, precise, rules_of
from whorl.stages.plan.ask.said import OtherWords, Rule, number
from whorl.stages.plan.facts import fact

__all__ = ["TORCHTITAN", "torchtitan_defaults"]

RESHARDS: Mapping[str, str] = fact("torchtitan.reshards")


def _converters(said: OtherWords, key: str, value: str) -> None:
    for word, precision in (("mx", "mxfp8"), ("float8", "fp8")):
        if word in value.lower():
            precise(precision)(said, key, "true")
            return


def _batch(said: OtherWords, key: str, value: str) -> None:
    if (sequences := number(value, key)) != -1:  # local batch times data-parallel degree
        said.sequences = sequences
        said.tell(key, value, "sequences of a step")


def _dtype(said: OtherWords, key: str, value: str) -> None:
    if value.lower() == "bfloat16":
        precise("bf16-true")(said, key, "true")


def _computed(said: OtherWords, key: str, value: str) -> None:
    """mixed_precision_param: what the products are computed in."""
    computed = fact("torchtitan.computed")
    precision = computed.get(value.lower())
    if precision is None:
        raise SpecError(key, found=value, expected=", ".join(computed))
    if precision != "bf16":
        said.put("--precision", precision, key, value)


TORCHTITAN: Mapping[str, Rule] = {
    **rules_of("torchtitan"),
    "model.name": kept("model name"),
    "model.flavor": kept("model flavor"),
    "model.converters": _converters,
    "training.global_batch_size": _batch,
    "training.dtype": _dtype,
    "training.mixed_precision_param": _computed,
    "parallelism.fsdp_reshard_after_forward": kept("reshard"),
    "activation_checkpoint.selective_ac_option": kept("selected"),
    "parallelism.data_parallel_replicate_degree": kept("replicas"),
    "parallelism.data_parallel_shard_degree": kept("shards"),
    "parallelism.pipeline_parallel_schedule": choice("schedule", fact("torchtitan.pipelines")),
    "parallelism.pipeline_parallel_microbatch_size": kept("pipeline batch"),
    "activation_checkpoint.mode": choice("recompute", fact("torchtitan.recomputes")),
}


def torchtitan_defaults(said: OtherWords) -> None:
    """The model of name and flavour, the shards, and what it sets where the file says nothing."""
    kept, parts = said.origin, said.parts
    name, flavor = kept.get("model name", ""), kept.get("model flavor", "")
    if name:
        model = f"{fact('torchtitan.names').get(name, name.replace('_', '-'))}-{flavor.lower()}"
        model = fact("torchtitan.flavors").get(model, model)
        if is_known(model):
            said.put("--model", model, "model.name, model.flavor", f"{name} {flavor}")
        else:
            said.warn("model", f"{name} {flavor}", "no model of that name is known: give --model")
    replicas = number(kept.get("replicas", "1"), "data_parallel_replicate_degree")
    shards = number(kept.get("shards", "-1"), "data_parallel_shard_degree")
    if shards != -1:
        said.dp = max(1, replicas) * shards
        said.tell("data_parallel_shard_degree x data_parallel_replicate_degree",
                  f"{shards} x {max(1, replicas)}", f"{said.dp} data-parallel ranks")  # fmt: skip
    if shards == 1:
        parts["shard"] = "none"
    else:
        _sharded(said, replicas)
    parts.setdefault("mbs", "8")
    parts.setdefault("recompute", "selective")
    selected = kept.get("selected", "op")
    if parts["recompute"] == "selective" and selected != "op":
        matters(said, "activation_checkpoint.selective_ac_option", selected)
    if int(parts.get("pp", "1")) > 1:  # of a pipeline the local batch is cut into micro-batches
        batch = kept.get("pipeline batch", "1")
        each = max(1, number(batch, "pipeline_parallel_microbatch_size"))
        said.accumulation = max(1, int(parts["mbs"]) // each)
        parts["mbs"] = str(each)
        if parts.get("schedule") in ("interleaved", "zero_bubble"):
            parts.setdefault("vpp", "2")
    else:
        parts.pop("schedule", None)
    if parts.get("schedule") == "1f1b" or parts.get("vpp"):
        parts.pop("schedule", None)
    said.flags.setdefault("--seq", "2048")


def _sharded(said: OtherWords, replicas: int) -> None:
    """Weights are gathered again in the backward pass unless there is a pipeline, or as stated."""
    key = "parallelism.fsdp_reshard_after_forward"
    word = said.origin.get("reshard", "default").lower()
    if word not in RESHARDS:
        raise SpecError(key, found=word, expected=", ".join(RESHARDS))
    piped = int(said.parts.get("pp", "1")) > 1
    shard = RESHARDS[word] or ("zero2" if piped else "zero3")
    if shard == "zero2" or word != "default":
        said.put("shard", shard, key, word)
    else:
        said.parts["shard"] = shard
    if replicas > 1:
        said.put("replicas", str(replicas), "data_parallel_replicate_degree", str(replicas))
