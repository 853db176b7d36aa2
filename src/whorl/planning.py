"""A cluster plan from model, devices and batch. Wiring."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from whorl.arch.hf_config import model_shape
from whorl.arch.known_models import hugging_face_id, is_known
from whorl.arch.shape import ModelShape
from whorl.core.errors import SpecError
from whorl.core.units import parse_count, parse_duration_s
from whorl.spec.quantities import Quantity
from whorl.spec.recipe import DEVICES, PRICE, TOKENS, VOCAB_SIZE
from whorl.spec.train_keys import SEQ_LEN
from whorl.stages.plan.cluster.devices import device
from whorl.stages.plan.cluster.emit import launch_file
from whorl.stages.plan.cluster.emit_megatron import megatron_command
from whorl.stages.plan.cluster.emit_torchtitan import torchtitan_command
from whorl.stages.plan.cluster.job import Layout, Optimizer, Precision, TrainingJob
from whorl.stages.plan.cluster.memory import rank_memory
from whorl.stages.plan.cluster.search import (
    RankedLayout,
    SearchResult,
)
from whorl.stages.plan.cluster.step import (
    Model,
    step_times,
)
from whorl.stages.plan.cluster.tables import tables_note
from whorl.stages.plan.cluster_choice import buy, choose_layout
from whorl.stages.plan.output import figures, schema
from whorl.stages.plan.ask.layouts import (
    layout_label,
    parse_batch,
    parse_budget,
    parse_pairs,
)
from whorl.stages.plan.serving import ServingPlan, ServingTarget, plan_serving

if TYPE_CHECKING:
    from whorl.spec.recipe import Recipe

__all__ = ["plan_cluster", "read_shape", "recipe_flags"]

STACKS = ("megatron", "fsdp", "whorl", "xla")
BATCH = "--global-batch-tokens"
NEEDED = ("--device", "--count", "--seq", BATCH)
RUNNERS_UP = 5
SERVE_KEYS = ("users", "input", "output", "ttft", "tokens_per_s", "quantisation", "device")
Flags = Mapping[str, Any]  # "--count" -> what was given, None if nothing was


def read_shape(
    model: str | None, recipe: Recipe | None = None, has_budget: bool = True
) -> ModelShape | None:
    """The model that --model, or a recipe with its sizes, means; None: the budget is to choose.
    A recipe's base is a name or a path as --model takes it.

    Raises SpecError for sizes that are half open, or open without a budget.
    """
    model = recipe.model.base if model is None and recipe is not None else model
    if model is not None or recipe is None:
        return None if model is None else model_shape(model)
    sizes = {"model.layers": recipe.model.layers, "model.width": recipe.model.width}
    if has_budget and all(value == "auto" for value in sizes.values()):
        return None
    sizes["prepare.vocab_size"] = recipe.prepare.vocab_size
    missing = [key for key, value in sizes.items() if value == "auto"]
    if missing:
        raise SpecError(
            f"recipe {recipe.name} leaves sizes of the model open: {', '.join(missing)}",
            do=f"add --set {missing[0]}=…, or give --model or a budget",
        )
    seq_len = 1 if recipe.train.seq_len == "auto" else recipe.train.seq_len
    layers, width, vocab_size = (int(value) for value in sizes.values())
    from whorl.stages.plan.candidate import shape_of  # slow to import, for recipes only

    return shape_of(recipe, layers, width, vocab_size, seq_len)


def recipe_flags(recipe: Recipe, given: Flags | None = None) -> dict[str, Any]:
    """What a recipe says of a cluster plan, as the flags that would say it; `given` goes before."""
    hardware, train, budget = recipe.hardware, recipe.train, recipe.budget
    spent = {
        "time": f"{budget.train_time}s" if budget.train_time else None,
        "device_hours": budget.device_hours,
        "usd": budget.usd,
        "flops": budget.flops,
    }
    tokens = budget.tokens
    if train.steps != "auto" and train.batch_tokens != "auto":
        tokens = train.steps * train.batch_tokens
    said = {
        "--device": hardware.device,
        "--count": None if hardware.is_here else hardware.count,
        "--usd-per-device-hour": hardware.usd_per_device_hour,
        "--seq": train.seq_len,
        "--global-batch-tokens": train.batch_tokens,
        "--precision": train.precision,
        "--optimizer": train.optimizer,
        "--vocab": recipe.prepare.vocab_size if recipe.model.layers == "auto" else None,
        "--tokens": tokens,
        "--budget": next((f"{kind}={value}" for kind, value in spent.items() if value), None),
    }
    given = given or {}
    if "--tokens" in given or "--budget" in given:
        said |= {"--tokens": None, "--budget": None}
    return {flag: value for flag, value in said.items() if value not in (None, "auto")} | {**given}


def _check_given(shape: ModelShape | None, flags: Flags) -> None:
    """What a cluster plan needs is given, and nothing that does not go together."""
    if empty := [flag for flag, value in flags.items() if value == ""]:
        raise SpecError(f"{', '.join(empty)}: nothing is given", do="give a value or leave it out")
    is_bought = "--budget" in flags
    missing = [flag for flag in NEEDED if flag not in flags]
    is_by_law = is_bought and missing == [BATCH] and "--measured" not in flags
    if missing and not is_by_law:
        raise SpecError(
            f"a cluster plan needs {', '.join(missing)}",
            do="such as --device h100-sxm --count 64 --seq 8192 --global-batch-tokens 4M; in a "
            "recipe hardware, train.seq_len and train.batch_tokens",
        )
    if is_bought and "--tokens" in flags:
        raise SpecError("--budget and --tokens both say how long to train", do="keep one of them")
    for flag in ("--layout", "--measured") if shape is None else ("--vocab",):
        if flag in flags:
            found = "the budget chooses the size" if shape is None else "a model is given"
            raise SpecError(f"{flag} does not go with this plan", found=found, do="leave it out")


def _question(name: str, shape: ModelShape | None, flags: Flags) -> schema.Question:
    """The flags, read. Raises SpecError for what is missing or makes no sense."""
    _check_given(shape, flags)
    target = device(flags["--device"])
    stack = flags.get("--stack") or {"tpu": "xla", "cpu": "whorl"}.get(target.kind, "megatron")
    precision, optimizer = flags.get("--precision") or "bf16", flags.get("--optimizer") or "adamw"
    for flag, found, allowed in (
        ("--precision", precision, get_args(Precision)),
        ("--optimizer", optimizer, get_args(Optimizer)),
        ("--stack", stack, STACKS),
    ):
        if found not in allowed:
            raise SpecError(flag, found=found, expected=", ".join(allowed))
    seq_len = SEQ_LEN.read(flags["--seq"], "--seq")

    def given(flag: str, kind: Quantity) -> Any:
        return kind.read(flags[flag], flag) if flag in flags else None

    return schema.Question(
        model=name,
        device=target.name,
        count=DEVICES.read(flags["--count"], "--count"),
        seq_len=seq_len,
        global_batch=parse_batch(flags[BATCH], seq_len) if BATCH in flags else 0,
        precision=precision,
        optimizer=optimizer,
        stack=stack,
        tokens=given("--tokens", TOKENS),
        budget=flags.get("--budget") or "",
        vocab_size=given("--vocab", VOCAB_SIZE),
        unique_tokens=given("--unique-tokens", TOKENS),
        served_tokens=given("--served-tokens", TOKENS),
        usd_per_device_hour=given("--usd-per-device-hour", PRICE),
        layout=flags.get("--layout") or "",
        measured=flags.get("--measured") or "",
        tables=bool(flags.get("--tables")),
        serve=flags.get("--serve") or "",
    )


def plan_cluster(name: str, shape: ModelShape | None, flags: Flags) -> schema.ClusterPlan:
    """The best layout, or the one given, and everything that follows from it.

    Without a shape the budget chooses the size. Raises SpecError for flags that make no sense,
    PlanError with the cheapest changes when nothing fits the memory.
    """
    flags = {flag: value for flag, value in flags.items() if value is not None}
    asked = _question(name, shape, flags)
    budget = parse_budget(asked.budget) if asked.budget else None
    if budget is None and shape is not None:
        tokens = float(asked.tokens or figures.law_tokens(shape))
        choice = replace(choose_layout(shape, asked), tokens=tokens)
    elif budget is None:
        raise SpecError("no model is given", do="give --model, or --budget to choose a size")
    else:
        choice = buy(shape, asked, budget)
    asked, space, job, found = choice.asked, choice.space, choice.job, choice.found
    others = _different(job.layout, found.ranked)
    timed = step_times([job, *(item.job for item in others)], choice.model, intervals=True)
    whys = [_why(choice.given, found), *(item.why for item in others)]
    planned = [
        figures.planned_layout(job, step, why)
        for job, step, why in zip([job, *(o.job for o in others)], timed, whys, strict=True)
    ]
    price = asked.usd_per_device_hour
    view = figures.whole_job(job, timed[0], choice.tokens, price)
    spent = None
    if budget is not None:
        law = None if shape is not None else figures.law_of(choice.tokens, asked.unique_tokens)
        spent = figures.budget_figures(budget, job.shape, choice.tokens, view, law, choice.rounds)
    emitted, warnings = _emitted(job)
    return schema.ClusterPlan(
        question=asked,
        model=figures.model_figures(job.shape, asked.seq_len),
        device=space.device if price is None else replace(space.device, usd_per_hour=price),
        chosen=planned[0],
        safe=_safe(planned[0], found, choice.model),
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
        budget=spent,
        job=view,
        loss=figures.loss_figures(job, choice.tokens, asked, spent),
        serving=_serving(job.shape, asked) if asked.serve else None,
        commands=emitted,
        warnings=[
            *_doubts(planned[0], job, asked.precision),
            *([tables_note(job)] if asked.tables else ()),
            *warnings,
        ],
    )


def _emitted(job: TrainingJob) -> tuple[dict[str, str], list[str]]:
    """(file name -> what runs the layout, what its software cannot do)."""
    made = {"whorl": launch_file(job)}
    if job.stack == "xla":
        note = "predicted as XLA compiles it; for it no command is written, the layout alone"
        return {item.name: item.text for item in made.values()}, [note]
    made |= {"fsdp": torchtitan_command(job), "megatron": megatron_command(job)}
    return {item.name: item.text for item in made.values()}, list(made[job.stack].warnings)


def _safe(
    chosen: schema.PlannedLayout, found: SearchResult, model: Model | None
) -> schema.PlannedLayout | None:
    """The fastest layout whose whole interval of memory fits, if that of the chosen does not."""
    limit = found.limit_bytes
    if chosen.memory.high_bytes <= limit:
        return None
    every = {item.layout: item for item in (*found.ranked, *found.pareto)}
    for item in sorted(every.values(), key=lambda item: item.seconds):
        if rank_memory(item.job).high_bytes <= limit:
            slower = item.seconds / chosen.step.step_s - 1
            why = f"the whole interval of its memory fits, {slower:+.1%} time"
            step = step_times([item.job], model, intervals=True)[0]
            return figures.planned_layout(item.job, step, why)
    return None


def _doubts(planned: schema.PlannedLayout, job: TrainingJob, precision: str) -> list[str]:
    """What a person should know before counting on the plan."""
    doubts, device, longest = [], job.device, job.shape.max_seq_len
    if 0 < longest < job.seq_len:
        doubts.append(
            f"{job.shape.name} was made for sequences of {longest:,} tokens: "
            f"for {job.seq_len:,} its positions must be extended"
        )
    if job.stack == "megatron" and device.kind != "gpu":
        doubts.append(f"Megatron-LM does not run on {device.name}: predicted as if it did")
    if job.layout.offload_activations:
        doubts.append("moving activations to the host and back is counted in memory, not in time")
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
    path = hugging_face_id(asked.model) if is_known(asked.model) else asked.model
    path = path if path and (is_known(asked.model) or Path(path).exists()) else None
    return plan_serving(shape, target, wanted, price=price, model_path=path)
