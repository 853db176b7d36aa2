"""Rows of published measurements, as jobs: train_perf.csv and train_memory.csv.

Only shape, hardware, layout, precision, task and stack of a row become its job; the measured
columns are read into `measured` and nowhere else. What a row leaves out is filled in as its
software would have set it, and named in `inferred`.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

from whorl.arch.shape import ModelShape
from whorl.core.errors import DataError, SpecError
from whorl.stages.plan.cluster.devices import Device, device
from whorl.stages.plan.cluster.job import Layout, Stack, TrainingJob
from whorl.stages.plan.cluster.row_shapes import row_shape, whole_number
from whorl.stages.plan.cluster.row_words import (
    read_lora,
    read_optimizer,
    read_precision,
    read_recompute,
    read_shard,
    read_stack,
    read_task,
    words_of,
)
from whorl.stages.plan.facts import fact
from whorl.stages.plan.software import software

__all__ = [
    "Fields",
    "Metric",
    "PublishedRow",
    "parse_row",
    "read_rows",
    "read_table",
    "usual_batch",
]

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
COLUMNS: list[str] = fact("columns")
FILLING_PASSES = 4  # micro-batches per pipeline rank, where no batch is stated
NEEDED = ("id", "source", "n_layers", "hidden", "n_heads", "seq_len", "gpu", "n_gpus", "tp", "pp")


class Fields(dict[str, str]):
    """The cells of a row by their columns, stripped."""

    @classmethod
    def of(cls, row: Mapping[str, str | None]) -> Fields:
        return cls(
            {key: (value or "").strip() for key, value in row.items() if isinstance(key, str)}
        )

    def check(self, row: Mapping[str, Any], columns: Sequence[str]) -> None:
        """Raises SpecError for cells beyond the header, or in a column that is not known."""
        if any(row.get(cast(Any, None)) or ()):  # where csv puts them
            raise SpecError("the row has more cells than the header", do="quote cells with commas")
        if unknown := [name for name, value in self.items() if value and name not in columns]:
            raise SpecError(f"column {unknown[0]} is not known", expected=", ".join(columns))

    def number(self, name: str, default: int | None = None) -> int:
        """Raises SpecError for what is no whole number, and for none without a default."""
        if text := self.get(name):
            return whole_number(text, name)
        if default is None:
            raise SpecError(f"column {name} is empty", do="state it")
        return default

    def measured(self, name: str) -> float | None:
        try:
            value = float(self.get(name) or "nan")
        except ValueError:
            return None
        return value if value == value else None


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
    fields = Fields.of(row)
    source = (fields.get("source", "").split() or ["?"])[0]
    inferred: set[str] = set()
    job, refused = None, None
    try:
        fields.check(row, COLUMNS)
        job = _job(fields, inferred)
    except (SpecError, ValueError) as error:
        refused = f"row {fields.get('id') or '?'}: {error}"
    name = "peak_mem_gib" if metric == "peak_gib" else "tokens_per_s_per_gpu_norm"
    return PublishedRow(
        id=fields.get("id", ""),
        source=source,
        metric=metric,
        job=job,
        refused=refused,
        inferred=frozenset(inferred),
        measured=fields.measured(name),
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


def _job(fields: Fields, inferred: set[str]) -> TrainingJob:
    target, task = _device(fields), read_task(fields)
    stack = read_stack(fields, target)
    shape = row_shape(fields)
    layout = _layout(fields, stack, shape, target, inferred)
    precision = read_precision(fields.get("precision", ""), inferred)
    batch = fields.number("global_batch_seqs", 0)
    if not batch:
        inferred.add("global_batch")
        batch = usual_batch(layout)
    if task in ("lora", "adapter"):
        batch = min(batch, layout.dp * layout.micro_batch * 128)
    older = software(stack).is_old
    return TrainingJob(
        shape=shape,
        device=target,
        layout=layout,
        seq_len=fields.number("seq_len"),
        global_batch=batch,
        precision=precision,
        optimizer=read_optimizer(fields),
        stack=stack,
        task=task,
        lora=read_lora(words_of(fields)) if task in ("lora", "adapter") else None,
        pure_low_precision="PURE" in fields.get("zero_fsdp", "")
        or "true" in fields.get("precision", ""),
        flash_attention=not older,
        causal_flops=not older and stack != "xla",
        overlap="no overlap" not in words_of(fields),
    )


def usual_batch(layout: Layout) -> int:
    """Sequences of a step that does not say: one pass of each rank, or what fills a pipeline."""
    passes = 1 if layout.pp == 1 else FILLING_PASSES * layout.pp
    return layout.dp * layout.micro_batch * passes


def usual_chunks(shape: ModelShape, pp: int, stack: Stack) -> int:
    """Model chunks per pipeline rank where nothing is stated: most of what its software does."""
    most = software(stack).chunks
    return next((n for n in range(most, 1, -1) if pp > 1 and shape.layers % (pp * n) == 0), 1)


def _device(fields: Mapping[str, str]) -> Device:
    """The row's device; a network it names, such as "4x100Gb RoCE", replaces the usual one."""
    found = device(fields["gpu"])
    network = re.search(r"(?:(\d+)x)?(\d+)g(?:b|\b)", fields.get("flag", "").lower())
    if network is None:
        return found
    node_bytes_per_s = int(network[1] or 1) * int(network[2]) * 1e9 / 8
    return replace(found, network_bytes_per_s=node_bytes_per_s / found.node_devices)


def _layout(
    fields: Fields,
    stack: Stack,
    shape: ModelShape,
    target: Device,
    inferred: set[str],
) -> Layout:
    for column, name in (
        ("micro_batch_seqs", "micro_batch"),
        ("zero_fsdp", "shard"),
        ("activation_recompute", "recompute"),
    ):
        if not fields.get(column) or "not stated" in fields[column]:
            inferred.add(name)
    tp, pp, cp = fields.number("tp", 1), fields.number("pp", 1), fields.number("cp", 1)
    vpp = fields.number("vpp", usual_chunks(shape, pp, stack)) if pp > 1 else 1
    if not fields.get("vpp") and pp > 1:
        inferred.add("vpp")
    devices = fields.number("n_gpus")
    if fields.get("dp"):
        devices = tp * pp * cp * fields.number("dp")
    shard, ways = read_shard(fields.get("zero_fsdp", ""), stack, target)
    recompute, parts = read_recompute(fields.get("activation_recompute", ""))
    micro_batch = fields.number("micro_batch_seqs", 1)
    if stack == "xla" and fields.get("global_batch_seqs"):  # one forward pass per step
        micro_batch = max(1, fields.number("global_batch_seqs") // (devices // (tp * pp * cp)))
    return Layout(
        devices=devices,
        tp=tp,
        pp=pp,
        vpp=vpp,
        cp=cp,
        ep=fields.number("ep", 1) if shape.experts else 1,
        shard=shard,
        shard_devices=ways,
        micro_batch=micro_batch,
        recompute=recompute,
        recompute_parts=parts,
        sequence_parallel=not software(stack).is_old or recompute == "selective",
        schedule="interleaved" if vpp > 1 else "1f1b",
    )
