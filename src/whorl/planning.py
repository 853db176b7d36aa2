"""A cluster plan from model, devices and batch, and predictions of published rows. Wiring."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast, get_args

from whorl.arch.hf_config import model_shape
from whorl.arch.shape import ModelShape
from whorl.arch.shape_counts import shape_of
from whorl.core.errors import PlanError, SpecError
from whorl.core.units import parse_count, parse_duration_s
from whorl.spec.load import load_recipe
from whorl.stages.plan.candidate import architecture_of
from whorl.stages.plan.cluster.devices import Device, device
from whorl.stages.plan.cluster.emit import launch_file
from whorl.stages.plan.cluster.emit_megatron import megatron_command
from whorl.stages.plan.cluster.emit_torchtitan import torchtitan_command
from whorl.stages.plan.cluster.job import Layout, Optimizer, Precision, Stack, TrainingJob
from whorl.stages.plan.cluster.memory import fits, rank_memory
from whorl.stages.plan.cluster.memory_rows import predict_row_memory
from whorl.stages.plan.cluster.rows import read_rows
from whorl.stages.plan.cluster.search import (
    RankedLayout,
    SearchResult,
    SearchSpace,
    search_layouts,
)
from whorl.stages.plan.cluster.step import (
    MeasuredStep,
    Model,
    calibrate,
    predict_rows,
    step_times,
)
from whorl.stages.plan.output import figures, schema
from whorl.stages.plan.output.published import RowFigures, published_report
from whorl.stages.plan.output.question import (
    layout_label,
    parse_batch,
    parse_layout,
    parse_measured,
    parse_pairs,
)
from whorl.stages.plan.serving import ServingPlan, ServingTarget, plan_serving

__all__ = ["plan_cluster", "predict_published", "read_shape"]

STACKS = ("megatron", "fsdp", "whorl")
NEEDED = ("--device", "--count", "--seq", "--global-batch-tokens")
RUNNERS_UP, KEPT = 5, 200
GIB = 2**30
SERVE_KEYS = ("users", "input", "output", "ttft", "tokens_per_s", "quantisation", "device")
Flags = Mapping[str, Any]  # "--count" -> what was given, None if nothing was


def read_shape(model: str | None, recipe: Path | None, overrides: Sequence[str]) -> ModelShape:
    """The model that --model, or a recipe that states its sizes, means. Raises SpecError."""
    if model is not None or recipe is None:
        return model_shape(model or "")
    loaded = load_recipe(recipe, overrides).recipe
    sizes = {
        "model.layers": loaded.model.layers,
        "model.width": loaded.model.width,
        "prepare.vocab_size": loaded.prepare.vocab_size,
    }
    missing = [key for key, value in sizes.items() if value == "auto"]
    if missing:
        raise SpecError(
            f"{recipe} leaves sizes of the model open: {', '.join(missing)}",
            do=f"add --set {missing[0]}=…, or give --model",
        )
    seq_len = 1 if loaded.train.seq_len == "auto" else loaded.train.seq_len
    layers, width, vocab_size = (int(value) for value in sizes.values())
    return shape_of(architecture_of(loaded, layers, width, vocab_size, seq_len))


def _question(name: str, flags: Flags) -> schema.Question:
    """The flags, read. Raises SpecError for what is missing or makes no sense."""
    if missing := [flag for flag in NEEDED if flags.get(flag) is None]:
        raise SpecError(
            f"a cluster plan needs {', '.join(missing)}",
            do="such as --device h100-sxm --count 64 --seq 8192 --global-batch-tokens 4M",
        )
    for flag, allowed, default in (
        ("--precision", get_args(Precision), "bf16"),
        ("--optimizer", get_args(Optimizer), "adamw"),
        ("--stack", STACKS, "megatron"),
    ):
        if (flags.get(flag) or default) not in allowed:
            raise SpecError(flag, found=flags[flag], expected=", ".join(allowed))
    price = flags.get("--usd-per-device-hour")
    if price is not None and not 0 <= price < 1e6:
        raise SpecError("--usd-per-device-hour", found=price, expected="at least 0")
    seq_len = parse_count(flags["--seq"], "--seq")
    tokens = flags.get("--tokens")
    return schema.Question(
        model=name,
        device=device(flags["--device"]).name,
        count=parse_count(flags["--count"], "--count"),
        seq_len=seq_len,
        global_batch=parse_batch(flags["--global-batch-tokens"], seq_len),
        precision=flags.get("--precision") or "bf16",
        optimizer=flags.get("--optimizer") or "adamw",
        stack=flags.get("--stack") or "megatron",
        tokens=None if tokens is None else parse_count(tokens, "--tokens"),
        usd_per_device_hour=price,
        layout=flags.get("--layout") or "",
        measured=flags.get("--measured") or "",
        serve=flags.get("--serve") or "",
    )


def plan_cluster(name: str, shape: ModelShape, flags: Flags) -> schema.ClusterPlan:
    """The best layout, or the one given, and everything that follows from it.

    Raises SpecError for flags that make no sense, PlanError with the cheapest changes when nothing
    fits the memory.
    """
    asked = _question(name, flags)
    space = _space(shape, asked)
    model = _calibrated(space, asked.measured)
    given = _given(space, asked.layout)
    found = search_layouts(
        space,
        time_of=partial(step_times, model=model),
        keep=KEPT,
        also=() if given is None else (given.layout,),
    )
    if given is not None and not fits(given):
        raise _refusal(given, layout_label(found.best.layout))
    job = given or found.best.job
    others = _different(job.layout, found.ranked)
    timed = step_times([job, *(item.job for item in others)], model, intervals=True)
    whys = [_why(given, found), *(item.why for item in others)]
    planned = [
        figures.planned_layout(job, step, why)
        for job, step, why in zip([job, *(o.job for o in others)], timed, whys, strict=True)
    ]
    tokens, price = float(asked.tokens or figures.law_tokens(shape)), asked.usd_per_device_hour
    emitted = {"whorl": launch_file(job), "fsdp": torchtitan_command(job)}
    emitted["megatron"] = megatron_command(job)
    return schema.ClusterPlan(
        question=asked,
        model=figures.model_figures(shape, asked.seq_len),
        device=space.device if price is None else replace(space.device, usd_per_hour=price),
        chosen=planned[0],
        runners_up=planned[1:],
        front=[
            schema.FrontPoint(
                label=layout_label(item.layout),
                step_s=item.step.step_s,
                peak_bytes=item.peak_bytes,
            )
            for item in found.pareto
        ],
        considered=found.examined,
        fitting=found.evaluated,
        job=figures.whole_job(job, timed[0], tokens, price),
        loss=figures.loss_figures(job, tokens),
        serving=_serving(shape, asked) if asked.serve else None,
        commands={item.name: item.text for item in emitted.values()},
        warnings=[
            *_doubts(planned[0], space.device, asked.precision),
            *emitted[asked.stack].warnings,
        ],
    )


def _space(shape: ModelShape, asked: schema.Question) -> SearchSpace:
    return SearchSpace(
        shape=shape,
        device=device(asked.device),
        devices=asked.count,
        seq_len=asked.seq_len,
        global_batch=asked.global_batch,
        precision=cast(Precision, asked.precision),
        stack=cast(Stack, asked.stack),
        optimizer=cast(Optimizer, asked.optimizer),
    )


def _doubts(planned: schema.PlannedLayout, device: Device, precision: str) -> list[str]:
    """What a person should know before counting on the plan."""
    doubts = []
    kind = "fp8" if precision in ("fp8_block", "mxfp8") else precision
    if kind not in device.flops_per_s:
        doubts.append(f"{device.name} has no {kind}: its next wider type is reckoned with")
    if planned.memory.high_bytes > device.memory_bytes:
        doubts.append("the peak's 90% interval reaches beyond the memory: try it on a few devices")
    return doubts


def _different(chosen: Layout, ranked: Sequence[RankedLayout]) -> list[RankedLayout]:
    """The best layout of each other mesh: those that differ in micro-batch alone teach little."""
    meshes = {(chosen.tp, chosen.pp, chosen.cp, chosen.ep, chosen.shard)}
    found = []
    for item in ranked:
        layout = item.layout
        mesh = (layout.tp, layout.pp, layout.cp, layout.ep, layout.shard)
        if mesh not in meshes:
            meshes.add(mesh)
            found.append(item)
    return found[:RUNNERS_UP]


def _why(given: TrainingJob | None, found: SearchResult) -> str:
    if given is None:
        return "the fastest that fits; of those that tie, the simplest"
    if found.best.layout == given.layout:
        return "as given; the search finds none that is faster by more than 1%"
    return f"as given; the search would take {layout_label(found.best.layout)}"


def _given(space: SearchSpace, text: str) -> TrainingJob | None:
    """The job of --layout. Raises SpecError if it cannot be run."""
    if not text:
        return None
    job = space.job(parse_layout(text, space.devices))
    passes = job.layout.dp * job.layout.micro_batch
    if job.global_batch % passes:
        most = max(1, job.global_batch // passes) * passes
        raise SpecError(
            f"a global batch of {job.global_batch:,} sequences is not divisible by dp "
            f"{job.layout.dp} x micro-batch {job.layout.micro_batch}",
            do=f"use --global-batch-tokens {most * job.seq_len} or another layout",
        )
    return job


def _refusal(job: TrainingJob, best: str) -> PlanError:
    """What would make a given layout fit, the cheapest first."""
    changes: dict[str, dict[str, Any]] = {
        "recompute=selective": {"recompute": "selective", "recompute_parts": ()},
        "mbs=1": {"micro_batch": 1},
        "recompute=full": {"recompute": "full", "recompute_parts": ()},
        "shard=zero1": {"shard": "zero1"},
        "shard=zero3": {"shard": "zero3"},
        "offload_optimizer=1": {"offload_optimizer": True},
    }
    jobs = {name: replace(job, layout=replace(job.layout, **c)) for name, c in changes.items()}
    able = [name for name, changed in jobs.items() if changed != job and fits(changed)]
    return PlanError(
        f"--layout {layout_label(job.layout)} does not fit",
        found=f"{rank_memory(job).peak_bytes / GIB:.1f} GiB",
        expected=f"at most {job.device.memory_bytes / GIB:.1f} GiB of {job.device.name}",
        do="; or ".join([*able[:2], f"--layout {best}, which the search finds"]),
    )


def _calibrated(space: SearchSpace, text: str) -> Model | None:
    """The step model after --measured, of the same model, sequences and batch."""
    if not text:
        return None
    measured = parse_measured(text, space.devices)
    job = space.job(measured.layout)
    step_s = measured.step_s
    if step_s is None:
        rate = measured.tokens_per_s_per_device or 0.0
        step_s = job.tokens_per_step / measured.layout.devices / rate
    return calibrate([MeasuredStep(job, step_s)])


def _serving(shape: ModelShape, asked: schema.Question) -> ServingPlan:
    """The plan of --serve, on the same device unless it names one."""
    pairs = parse_pairs(asked.serve, "--serve", SERVE_KEYS)
    target = device(pairs.get("device", asked.device))

    def number(key: str, default: int) -> int:
        return parse_count(pairs.get(key, default), f"--serve: {key}")

    wanted = ServingTarget(
        users=number("users", 1),
        input_tokens=number("input", 1024),
        output_tokens=number("output", 256),
        first_token_p95_s=parse_duration_s(pairs.get("ttft", "2s"), "--serve: ttft"),
        tokens_per_s_per_user=number("tokens_per_s", 20),
        quantisations=tuple(pairs.get("quantisation", "bf16+fp8").split("+")),
    )
    same = target.name == asked.device
    price = asked.usd_per_device_hour if same else None
    return plan_serving(shape, target, wanted, price=price)


def predict_published(path: Path) -> dict[str, Any]:
    """The document of `whorl plan --published`. Raises DataError if the file is no table."""
    rows = read_rows(path)
    found: list[RowFigures | None] = [None] * len(rows)
    refused: list[str | None] = [None] * len(rows)
    for index, time in enumerate(predict_rows(rows)):
        if time.predicted is not None and time.low is not None and time.high is not None:
            found[index] = (time.predicted, time.low, time.high)
    for index, row in enumerate(rows):
        if row.metric == "peak_gib" and row.job is not None:
            *peak, refused[index] = predict_row_memory(row)
            found[index] = (peak[0], peak[1], peak[2])
    return published_report(rows, found, refused)
