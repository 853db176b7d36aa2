"""Rows of published measurements, as jobs: train_perf.csv and train_memory.csv.

Only shape, hardware, layout, precision, task and stack of a row become its job; the measured
columns are read into `measured` and nowhere else. What a row leaves out is filled in as its
software would have set it, and named in `inferred`.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

from whorl.arch.shape import ModelShape
from whorl.core.errors import DataError, SpecError
from whorl.stages.plan.cluster.devices import Device, device
from whorl.stages.plan.cluster.job import (
    SELECTIVE_PARTS,
    Layout,
    Lora,
    Precision,
    Recompute,
    Shard,
    Stack,
    Task,
    TrainingJob,
)
from whorl.stages.plan.cluster.row_shapes import row_shape, whole_number

__all__ = ["Metric", "PublishedRow", "parse_row", "read_precision", "read_rows", "read_table"]

Metric = Literal[
    "tokens_per_s_per_device",
    "peak_gib",
    "oom",  # 1: ran out of memory, 0: ran
    "ttft_ms",
    "tpot_ms",
    "tokens_per_s",
]
TIME_COLUMNS = ("tokens_per_s_per_gpu_norm", "measured_metric")
MEMORY_COLUMNS = ("peak_mem_gib", "oom", "memory_kind")  # one of them: a file of peaks
NEEDED = ("id", "source", "n_layers", "hidden", "n_heads", "seq_len", "gpu", "n_gpus", "tp", "pp")

# Words of a source's name -> the software that ran; the first that matches.
STACKS: tuple[tuple[str, Stack], ...] = (
    ("engine=oneflow", "oneflow"),
    ("engine=megatron", "megatron_2021"),
    ("mosaicml", "fsdp"),
    ("torchtitan", "fsdp"),
    ("litgpt", "fsdp"),
    ("tinyllama", "fsdp"),
    ("interne", "internevo"),
    ("maxtext", "xla"),
    ("tpu", "xla"),
    ("vtrain", "megatron_2021"),
    ("bigscience", "megatron_2021"),
    ("narayanan", "megatron_2021"),
    ("megatron-lm", "megatron_2021"),
    ("nemo", "megatron"),
    ("megatron", "megatron"),
)
PRECISIONS: tuple[tuple[str, Precision], ...] = (
    ("nvfp4", "nvfp4"),
    ("mxfp8", "mxfp8"),
    ("fp8-mx", "mxfp8"),
    ("blockwise", "fp8_block"),
    ("fp8", "fp8"),
    ("int8", "fp8"),
    ("bf16", "bf16"),
    ("fp16", "fp16"),
    ("fp32", "fp32"),
    ("tf32", "fp32"),
)
# Words of a row's flag, note or source -> the kind of task.
TASKS: tuple[tuple[str, Task], ...] = (
    ("adapter", "adapter"),
    ("lora", "lora"),
    ("peft", "lora"),
    ("sft", "sft"),
    ("fine-tun", "sft"),
    ("finetun", "sft"),
)


@dataclass(frozen=True)
class PublishedRow:
    id: str
    source: str  # first word of the source column
    metric: Metric
    job: TrainingJob | None
    refused: str | None  # why there is no job
    inferred: frozenset[str] = frozenset()  # names of Layout and TrainingJob fields not stated
    measured: float | None = None
    oom: bool = False
    memory_kind: str = ""
    group: str = ""  # machine and stack: rows that one calibration serves
    topic: str = ""  # the reporter's kind of run, such as dense, lora or serving


def read_table(path: Path) -> tuple[list[dict[str, str | None]], tuple[str, ...]]:
    """(rows, columns) of a CSV file. Raises DataError if it is none, or has a column twice."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)  # strict: a quote left open is an error
            rows = list(reader)
            columns = tuple(reader.fieldnames or ())
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as CSV", found=error) from error
    if twice := sorted({name for name in columns if name and list(columns).count(name) > 1}):
        raise DataError(f"{path} has two columns {', '.join(twice)}", do="keep one of each")
    return rows, columns


def read_rows(path: Path) -> list[PublishedRow]:
    """One PublishedRow per row of the file, in its order. Raises DataError, naming the column."""
    rows, columns = read_table(path)
    if missing := [name for name in NEEDED if name not in columns]:
        raise DataError(
            f"{path} has no column {', '.join(missing)}",
            found=", ".join(columns)[:200],
            expected="the columns of train_perf.csv, train_memory.csv or reports.csv",
        )
    is_time = any(name in columns for name in TIME_COLUMNS)
    memory = not is_time and any(name in columns for name in MEMORY_COLUMNS)
    return [parse_row(row, "peak_gib" if memory else "tokens_per_s_per_device") for row in rows]


def parse_row(row: Mapping[str, str | None], metric: Metric) -> PublishedRow:
    """The job of one row; `refused` says why there is none."""
    fields = {key: (value or "").strip() for key, value in row.items() if isinstance(key, str)}
    source = (fields.get("source", "").split() or ["?"])[0]
    inferred: set[str] = set()
    job, refused = None, None
    try:
        if any(row.get(cast(Any, None)) or ()):  # where csv puts cells beyond the header
            raise SpecError("the row has more cells than the header", do="quote cells with commas")
        job = _job(fields, inferred)
    except (SpecError, ValueError) as error:
        refused = str(error)
    name = "peak_mem_gib" if metric == "peak_gib" else "tokens_per_s_per_gpu_norm"
    try:
        measured = float(fields.get(name) or "nan")
    except ValueError:
        measured = float("nan")
    return PublishedRow(
        id=fields.get("id", ""),
        source=source,
        metric=metric,
        job=job,
        refused=refused,
        inferred=frozenset(inferred),
        measured=measured if measured == measured else None,
        oom=fields.get("oom") == "1",
        memory_kind=fields.get("memory_kind", ""),
        group="" if job is None else _group(fields.get("source", ""), job),
    )


def _group(source: str, job: TrainingJob) -> str:
    """Source, release of its software, device, precision, kind of model."""
    release = re.search(r"release ([\d.]+)|engine=([\w-]+)|NeMo (\d[\d.]+)", source)
    software = next((word for word in release.groups() if word), "") if release else ""
    bits = job.precision.replace("mxfp8", "fp8")
    kind = "experts" if job.shape.experts else "dense"
    first = (source.split() or ["?"])[0]
    return " ".join((first, software or job.stack, job.device.name, bits, kind))


def _number(fields: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = fields.get(name, "")
    if not text:
        if default is None:
            raise SpecError(f"column {name} is empty", do="state it")
        return default
    return whole_number(text, name)


def _job(fields: Mapping[str, str], inferred: set[str]) -> TrainingJob:
    words = " ".join((fields.get("source", ""), fields.get("flag", ""), fields.get("note", "")))
    words = words.lower()
    stack = _stack(fields, words)
    task = _task(fields, words)
    shape = row_shape(fields)
    layout = _layout(fields, stack, shape, inferred)
    precision = read_precision(fields.get("precision", ""), inferred)
    if not fields.get("global_batch_seqs"):
        inferred.add("global_batch")
    batch = _number(fields, "global_batch_seqs", layout.dp * layout.micro_batch)
    if task in ("lora", "adapter"):
        batch = min(batch, layout.dp * layout.micro_batch * 128)
    older = stack in ("megatron_2021", "oneflow")
    return TrainingJob(
        shape=shape,
        device=_device(fields, words),
        layout=layout,
        seq_len=_number(fields, "seq_len"),
        global_batch=max(batch, 1),
        precision=precision,
        stack=stack,
        task=task,
        lora=_lora(fields, words) if task in ("lora", "adapter") else None,
        pure_low_precision="PURE" in fields.get("zero_fsdp", "")
        or "true" in fields.get("precision", ""),
        flash_attention=not older,
        causal_flops=not older and stack != "xla",
    )


def _device(fields: Mapping[str, str], words: str) -> Device:
    """The row's device; a network it names, such as "4x100Gb RoCE", replaces the usual one."""
    found = device(fields["gpu"])
    network = re.search(r"(?:(\d+)x)?(\d+)g(?:b|\b)", fields.get("flag", "").lower())
    if network is None:
        return found
    node_bytes_per_s = int(network[1] or 1) * int(network[2]) * 1e9 / 8
    return replace(found, network_bytes_per_s=node_bytes_per_s / found.node_devices)


def _stack(fields: Mapping[str, str], words: str) -> Stack:
    if stated := fields.get("stack"):
        return cast(Stack, stated)
    for word, stack in STACKS:
        if word in words:
            return stack
    if fields.get("gpu", "").startswith("tpu"):
        return "xla"
    if "fsdp" in fields.get("zero_fsdp", "") and "megatron" not in fields["zero_fsdp"]:
        return "fsdp"
    return "megatron_2021" if fields.get("precision", "").startswith("fp16") else "megatron"


def _task(fields: Mapping[str, str], words: str) -> Task:
    words = fields.get("task", "").lower() or words
    stated = re.search(r"task=([\w-]+)", words)
    text = stated[1] if stated else words
    if text.startswith("pretrain") or text.startswith("pre-train"):
        return "pretrain"
    for word, task in TASKS:
        if word in text:
            return task
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


def _lora(fields: Mapping[str, str], words: str) -> Lora:
    found = re.search(r"base_quant=([\w-]+)", words)
    base = found[1] if found else "none"
    known = base if base in ("nf4", "nf4-dq", "fp4", "int8") else "none"
    return Lora(base=cast(Any, known), scales="adapter_v2" in words)


def _layout(
    fields: Mapping[str, str], stack: Stack, shape: ModelShape, inferred: set[str]
) -> Layout:
    for column, name in (
        ("micro_batch_seqs", "micro_batch"),
        ("zero_fsdp", "shard"),
        ("activation_recompute", "recompute"),
    ):
        if not fields.get(column) or "not stated" in fields[column]:
            inferred.add(name)
    tp, pp, cp = _number(fields, "tp", 1), _number(fields, "pp", 1), _number(fields, "cp", 1)
    vpp = _number(fields, "vpp", 1) if pp > 1 else 1
    if not fields.get("vpp") and pp > 1:
        inferred.add("vpp")
    devices = _number(fields, "n_gpus")
    if fields.get("dp"):
        devices = tp * pp * cp * _number(fields, "dp")
    shard, ways = _shard(fields.get("zero_fsdp", ""), stack)
    recompute, parts = _recompute(fields.get("activation_recompute", ""))
    micro_batch = _number(fields, "micro_batch_seqs", 1)
    if stack == "xla" and fields.get("global_batch_seqs"):  # one forward pass per step
        micro_batch = max(1, _number(fields, "global_batch_seqs") // (devices // (tp * pp * cp)))
    return Layout(
        devices=devices,
        tp=tp,
        pp=pp,
        vpp=vpp,
        cp=cp,
        ep=_number(fields, "ep", 1) if shape.experts else 1,
        shard=shard,
        shard_devices=ways,
        micro_batch=micro_batch,
        recompute=recompute,
        recompute_parts=parts,
        sequence_parallel=stack not in ("megatron_2021", "oneflow"),
        schedule="interleaved" if vpp > 1 else "1f1b",
    )


def _shard(text: str, stack: Stack) -> tuple[Shard, int | None]:
    """(what is sharded, over how many ranks), from words such as "zero1-in-node8"."""
    text = text.lower()
    number = re.search(r"(?:node|group|fsdp)(\d+)$", text)
    ways = int(number[1]) if number else None
    if "slice" in text:
        ways = 256
    if "grad_op" in text or "zero2" in text:
        return "zero2", ways
    if "zero1" in text or "dist-optimizer" in text:
        return "zero1", ways
    if "fsdp" in text or "zero3" in text or "full_shard" in text:
        return "zero3", ways
    if text == "none" or "deepspeed" in text:
        return "none", None
    return ("zero3" if stack in ("fsdp", "xla") else "zero1"), ways


def _recompute(text: str) -> tuple[Recompute, tuple[str, ...]]:
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
    return "none", ()
