"""The words of a row: which software ran, in what type, what it shards, recomputes and trains."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, cast, get_args

from whorl.core.errors import SpecError
from whorl.stages.plan.cluster.devices import Device
from whorl.stages.plan.cluster.job import (
    SELECTIVE_PARTS,
    Lora,
    Optimizer,
    Precision,
    Recompute,
    Shard,
    Stack,
    Task,
)
from whorl.stages.plan.facts import fact
from whorl.stages.plan.software import software

__all__ = [
    "BASES",
    "read_lora",
    "read_optimizer",
    "read_precision",
    "read_recompute",
    "read_shard",
    "read_stack",
    "read_task",
    "stack_in",
    "words_of",
]

STACKS: list[tuple[str, Stack]] = fact("stacks")
YEAR_OF_CORE = 2023  # from when on Megatron-LM is Megatron-Core with flash attention
PRECISIONS: list[tuple[str, Precision]] = fact("precisions")
TASKS: list[tuple[str, Task]] = fact("tasks")
SHARDS: list[tuple[str, Shard]] = fact("shards")
BASES: dict[str, str] = fact("bases")
SLICE = 256  # chips of a TPU slice


def words_of(fields: Mapping[str, str]) -> str:
    return " ".join(fields.get(name, "") for name in ("source", "flag", "note")).lower()


def read_stack(fields: Mapping[str, str], device: Device) -> Stack:
    """What is stated, what the words say, else what is usual. Raises SpecError if unknown."""
    if stated := fields.get("stack"):
        return cast(Stack, software(stated).name)
    words, shard = words_of(fields), fields.get("zero_fsdp", "").lower()
    is_half = fields.get("precision", "").startswith("fp16")
    told = stack_in(words)
    if told == "megatron" and _is_old(fields.get("source", ""), device, is_half):
        return "megatron_2021"
    if told is not None:
        return told
    if device.kind == "tpu":
        return "xla"
    if ("fsdp" in shard and "megatron" not in shard) or "hsdp" in shard:
        return "fsdp"
    return "megatron_2021" if is_half and device.year < YEAR_OF_CORE - 1 else "megatron"


def stack_in(words: str) -> Stack | None:
    """The software that words in lower case name, None if they name none."""
    return next((stack for word, stack in STACKS if re.search(word, words)), None)


def _is_old(source: str, device: Device, is_half: bool) -> bool:
    """Megatron-LM before its core: by the year of the source, else in fp16 on the cards of then."""
    years = [int(year) for year in re.findall(r"\b(20[12]\d)\b", source)]
    if years:
        return max(years) < YEAR_OF_CORE and device.year < YEAR_OF_CORE - 1
    return is_half and device.year < YEAR_OF_CORE - 1


def read_task(fields: Mapping[str, str]) -> Task:
    words = fields.get("task", "").lower() or words_of(fields)
    stated = re.search(r"task=([\w-]+)", words)
    text = stated[1] if stated else words
    if text.startswith("pretrain") or text.startswith("pre-train"):
        return "pretrain"
    for word, task in TASKS:
        if word in text:
            return task
    if fields.get("task") and text != "full":
        known = ["pretrain", "full", *(word for word, _ in TASKS)]
        raise SpecError("column task", found=fields["task"], expected=", ".join(known))
    return "pretrain"


def read_precision(text: str, inferred: set[str]) -> Precision:
    """The type of products in the words of a row; what is assumed is added to `inferred`."""
    for word, precision in PRECISIONS:
        if word in text.lower():
            if "assumed" in text:
                inferred.add("precision")
            return precision
    if text:
        raise SpecError("precision", found=text, expected=", ".join(w for w, _ in PRECISIONS))
    inferred.add("precision")
    return "bf16"


def read_optimizer(fields: Mapping[str, str]) -> Optimizer:
    found = fields.get("optimizer", "") or "adamw"
    if found not in get_args(Optimizer):
        raise SpecError("column optimizer", found=found, expected=", ".join(get_args(Optimizer)))
    return cast(Optimizer, found)


def read_lora(words: str) -> Lora:
    """Of words such as "base_quant=nf4 rank=16". Raises SpecError for a base that is unknown."""
    found = re.search(r"base_quant=([\w-]+)", words)
    base = found[1] if found else "none"
    if base not in BASES:
        raise SpecError("base_quant", found=base, expected=", ".join(BASES))
    rank = re.search(r"\b(?:lora_)?r(?:ank)?[= ]?(\d+)\b", words)
    return Lora(
        rank=int(rank[1]) if rank else 8,
        base=cast(Any, BASES[base]),
        scales="adapter_v2" in words,
        dora="dora" in words,
    )


def read_shard(text: str, stack: Stack, device: Device) -> tuple[Shard, int | None]:
    """(what is sharded, over how many ranks), from words such as "zero1-in-node8".

    FSDP2 is FSDP's second version, not a group of two. HSDP shards within a node unless it says.
    """
    text = re.sub(r"(?<!megatron-)\bfsdp[12]\b", "fsdp", text.lower())
    number = re.search(r"(?:node|group|[fh]sdp)-?(\d+)$", text)
    ways = int(number[1]) if number else None
    if "slice" in text:
        ways = SLICE
    found = next((shard for word, shard in SHARDS if re.search(word, text)), None)
    if found is None and text and "not stated" not in text:
        expected = "none, zero1, zero2, zero3, fsdp, hsdp or dist-optimizer"
        raise SpecError("column zero_fsdp", found=text, expected=expected)
    if re.search("hsdp|hybrid_shard", text):
        ways = ways or device.node_devices
    usual: Shard = "zero3" if software(stack).rates in ("fsdp", "xla") else "zero1"
    return found or usual, None if found == "none" else ways


def read_recompute(text: str) -> tuple[Recompute, tuple[str, ...]]:
    text = text.lower()
    if text.startswith("full"):
        return "full", ()
    if text.startswith("selective"):
        words = text.removeprefix("selective").strip().replace(",", "+").split("+")
        return "selective", tuple(part for part in map(str.strip, words) if part in SELECTIVE_PARTS)
    if "minimal" in text:  # MaxText: products are kept, the rest is repeated
        return "selective", ("core_attn", "layernorm")
    if "offload" in text or "remat" in text:
        return "selective", ("core_attn", "mlp")
    if text in ("", "none", "no", "false") or "not stated" in text:
        return "none", ()
    expected = "none, selective, full, minimal or offload"
    raise SpecError("column activation_recompute", found=text, expected=expected)
