"""Reports of practitioners as jobs: reports.csv, one row per measured figure, in their words.

Rows of training, of runs out of memory and of serving stand in one file. As in the tables of
published measurements, only what was run becomes the job; the measured columns are read into
`measured` and nowhere else.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

from whorl.arch.hf_config import model_shape
from whorl.arch.shape import ModelShape
from whorl.core.errors import SpecError
from whorl.stages.plan.ask.layouts import parse_layout
from whorl.stages.plan.cluster.devices import device
from whorl.stages.plan.cluster.job import Layout, Lora, Optimizer, Stack, TrainingJob
from whorl.stages.plan.cluster.row_shapes import whole_number
from whorl.stages.plan.cluster.row_words import BASES, read_optimizer, read_precision, stack_in
from whorl.stages.plan.cluster.rows import Fields, Metric, PublishedRow, read_table, usual_batch
from whorl.stages.plan.facts import fact
from whorl.stages.plan.serving.work import QUANTISATIONS, Deployment
from whorl.stages.plan.software import software

__all__ = ["RunReport", "ServedLoad", "is_reports", "parse_report", "read_reports"]

COLUMNS: list[str] = fact("report_columns")
METRICS: Mapping[str, Metric] = fact("metrics")
SERVING = frozenset({"ttft_ms", "tpot_ms", "tokens_per_s"})
ENGINES = ("vllm", "sglang", "trtllm")
UNSTATED_FORMATS = ("bf16", "fp8")  # what a service may run in that does not say
TASKS = ("sft", "full", "lora", "qlora", "dora", "adapter")
STAND_INS = ("fsdp", "megatron")  # stacks that reporters' software was put under
SHORT_DOCUMENT = 512  # tokens: packed documents are between that and the whole row
CHUNKED = r"chunked|loss chunks|liger|cut cross|fused linear"
IN_BACKWARD = r"step in backward|fused step|optimizer in backward"
UNSTATED = re.compile(r"\b(seq|batch|mbs)\b[^;|]* not stated")  # of a note: what was assumed
WORDS = {"zero=none": "shard=none", "zero=fsdp": "shard=zero3"}  # of a layout


@dataclass(frozen=True)
class ServedLoad:
    """What a service was asked for, all requests alike."""

    deployment: Deployment
    engine: str
    users: int  # requests in flight
    input_tokens: int
    output_tokens: int


@dataclass(frozen=True)
class RunReport:
    """A row, and what was served where it is one of serving."""

    row: PublishedRow
    served: tuple[ServedLoad, ...] = ()


def is_reports(columns: tuple[str, ...]) -> bool:
    return "repo" in columns and "layout" in columns


def read_reports(path: Path) -> list[RunReport]:
    """One RunReport per row of the file, in its order. Raises DataError if it is no table.

    A note that begins with "+" adds to that of the run before it.
    """
    rows, _ = read_table(path)
    run, before, note = ("", ""), "", ""
    reports = []
    for row in rows:
        same_repo = (row.get("repo") or "") == run[0]
        if (this := (row.get("repo") or "", row.get("id") or "")) != run:
            run, before = this, note if same_repo else ""
        note = (row.get("note") or "").strip()
        note = f"{before} {note}" if note.startswith("+") else note
        reports.append(parse_report({**row, "note": note}, path.parent))
    return reports


def parse_report(row: Mapping[str, str | None], folder: Path) -> RunReport:
    """The job of one row, or the load of one of serving; `refused` says why there is neither.

    folder: where a model that is a file lies.
    """
    fields = Fields.of(row)
    metric = METRICS.get(fields.get("measured_metric", ""))
    inferred: set[str] = set()
    job, refused = None, None
    served: tuple[ServedLoad, ...] = ()
    try:
        fields.check(row, COLUMNS)
        if empty := [name for name in ("model", "device") if not fields.get(name)]:
            raise SpecError(f"column {empty[0]} is empty", do="state it")
        if metric in SERVING:
            served = _served(fields, folder)
        elif metric is not None:
            job = _trained(fields, folder, inferred)
        else:
            found = fields.get("measured_metric", "")
            raise SpecError("measured_metric", found=found, expected=", ".join(METRICS))
    except (SpecError, ValueError) as error:
        refused = f"row {fields.get('id') or '?'}: {error}"
    return RunReport(
        PublishedRow(
            id=fields.get("id", ""),
            source=(fields.get("repo", "").split() or ["?"])[0],
            metric=metric or "tokens_per_s_per_device",
            job=job,
            refused=refused,
            inferred=frozenset(inferred),
            measured=_measured(fields, job),
            oom=fields.get("measured_metric") == "oom" and fields.get("measured_value") == "1",
            memory_kind=_memory_kind(job, fields.get("note", "").lower()),
            topic=fields.get("group", ""),
        ),
        served,
    )


def _measured(fields: Fields, job: TrainingJob | None) -> float | None:
    value = fields.measured("measured_value")
    if fields.get("measured_metric") == "step_s" and job is not None and value and value > 0:
        return job.tokens_per_step / job.layout.devices / value
    return value


def _shape(fields: Mapping[str, str], folder: Path) -> ModelShape:
    name = fields["model"]
    return model_shape(folder / name if name.endswith(".json") else name)


def _served(fields: Fields, folder: Path) -> tuple[ServedLoad, ...]:
    """Every load that the row may mean: where it names no engine or format, each that there is."""
    engine, quantisation = fields.get("stack", ""), fields.get("precision", "")
    for name, found, known in (
        ("stack", engine, ("", *ENGINES)),
        ("precision", quantisation, ("", *QUANTISATIONS)),
    ):
        if found not in known:
            raise SpecError(f"column {name}", found=found, expected=", ".join(known[1:]))
    shape, target = _shape(fields, folder), device(fields["device"])
    users, asked, written = (fields.number(name) for name in ("mbs", "seq", "gbs"))
    loads = [
        ServedLoad(
            Deployment(shape, target, fields.number("count"), QUANTISATIONS[name]),
            each,
            users=users,
            input_tokens=asked,
            output_tokens=written,
        )
        for name in ([quantisation] if quantisation else UNSTATED_FORMATS)
        for each in ([engine] if engine else ENGINES)
    ]
    return tuple(loads)


def _trained(fields: Fields, folder: Path, inferred: set[str]) -> TrainingJob:
    target, shape = device(fields["device"]), _shape(fields, folder)
    words = f"{fields.get('repo', '')} {fields.get('note', '')}".lower()
    task, lora = _task(fields, words)
    stack = _software(fields, words, lora is not None)
    of, layout = software(stack), _layout(fields, fields.number("count"), inferred)
    if "activation offload" in words:
        layout = layout.with_(offload_activations=True)
    if fields.get("weak") or UNSTATED.search(words):
        inferred |= {"micro_batch", "global_batch"}
    if "gpu not stated" in words:
        inferred.add("device")
    if layout.pp > 1 and "vpp=" not in fields.get("layout", ""):
        inferred.add("vpp")
    if fields.get("gbs"):
        batch = fields.number("gbs")
    else:
        batch = usual_batch(layout)
        inferred.add("global_batch")
    optimizer = _optimizer(fields, words)
    precision = read_precision(fields.get("precision", ""), inferred)
    packed = "packed" in words
    if packed:
        inferred.add("document_tokens")
    seq_len = fields.number("seq")
    is_pure = "true" in fields.get("precision", "") or "pure bf16" in words or of.trains_pure
    return TrainingJob(
        shape=shape,
        device=target,
        layout=layout,
        seq_len=seq_len,
        global_batch=batch,
        precision=precision,
        optimizer=optimizer,
        stack=stack,
        task=cast(Any, task),
        lora=lora,
        pure_low_precision=is_pure and precision != "fp32",
        flash_attention=not of.is_old,
        causal_flops=not of.is_old and stack != "xla",
        document_tokens=min(seq_len, int((SHORT_DOCUMENT * seq_len) ** 0.5)) if packed else 0,
        loss="chunked" if re.search(CHUNKED, words) else "",
        # torchtune's recipes of one device set optimizer_in_bwd beside their paged optimiser
        step_in_backward=re.search(IN_BACKWARD, words) is not None
        or (stack == "torchtune" and optimizer.startswith("paged")),
    )


def _software(fields: Mapping[str, str], words: str, is_adapter: bool) -> Stack:
    """What ran: the words tell more than a stated stack of which there are few to choose from."""
    stated = software(fields["stack"]).name if fields.get("stack") else ""
    if stated and stated not in STAND_INS:
        return cast(Stack, stated)
    note = stack_in(fields.get("note", "").lower())
    told = note if note == "deepspeed" else stack_in(words)
    if told == "deepspeed" or (told and stated == "fsdp" and "megatron" not in told):
        return told
    if is_adapter and stated in ("", "fsdp"):
        return "hf"
    return cast(Stack, stated or told or "megatron")


def _optimizer(fields: Mapping[str, str], words: str) -> Optimizer:
    found = read_optimizer(fields)
    paged = f"paged_{found}"
    return cast(Optimizer, paged) if "paged" in words and paged in get_args(Optimizer) else found


def _layout(fields: Fields, devices: int, inferred: set[str]) -> Layout:
    if not fields.get("layout"):  # alone it is not sharded, among others usually fully
        inferred |= {"micro_batch", "recompute", "shard"}
        size = fields.number("mbs") if fields.get("mbs") else 1
        return Layout(devices, shard="none" if devices == 1 else "zero3", micro_batch=size)
    parts = [WORDS.get(part.strip(), part) for part in fields.get("layout", "").split(",")]
    if fields.get("mbs") and not any(part.startswith("mbs=") for part in parts):
        parts.append(f"mbs={fields['mbs']}")
    return parse_layout(",".join(parts), devices, "column layout")


def _task(fields: Mapping[str, str], words: str) -> tuple[str, Lora | None]:
    """(task, adapters) of a column such as "lora base=nf4 rank=16"; empty: what the words say."""
    told = re.search(r"\bq?lora\b", words) if not fields.get("layout") else None
    kind, *pairs = fields.get("lora", "").split() or [told[0] if told else "full"]
    if kind not in TASKS:
        raise SpecError("column lora", found=kind, expected=", ".join(TASKS))
    given = dict(pair.partition("=")[::2] for pair in pairs)
    usual = "nf4" if kind == "qlora" else "none"
    base, rank = given.pop("base", usual), given.pop("rank", given.pop("r", "8"))
    targets = given.pop("targets", "qv")
    if given or base not in BASES or targets not in ("qv", "attention", "all"):
        expected = f"rank=, targets=qv|attention|all and base= one of {', '.join(BASES)}"
        raise SpecError("column lora", found=fields["lora"], expected=expected)
    if kind in ("sft", "full"):
        return kind, None
    return "adapter" if kind == "adapter" else "lora", Lora(
        rank=whole_number(rank, "lora rank"),
        base=cast(Any, BASES[base]),
        targets=cast(Any, targets),
        dora=kind == "dora",
    )


def _memory_kind(job: TrainingJob | None, words: str) -> str:
    """What the reporter's tool counted, as memory_rows.counted_by takes it."""
    for word in ("reserved", "allocated"):
        if word in words:
            return word
    if job is None:
        return ""
    return {"torchtune": "allocated", "fsdp": "reserved", "torchtitan": "reserved"}.get(
        job.stack, "worst rank"
    )
