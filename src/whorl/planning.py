"""A plan from model, devices and batch, in whorl's words or another tool's. Wiring."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whorl.arch.hf_config import model_shape
from whorl.arch.shape import ModelShape
from whorl.core.errors import PlanError, SpecError
from whorl.planning_serving import device_named, is_here, served, serving_alone
from whorl.stages.plan.ask.files import as_flags, read_file, read_words
from whorl.stages.plan.ask.flags import OF_TRAINING
from whorl.stages.plan.ask.layouts import layout_label, parse_budget
from whorl.stages.plan.ask.question import (
    question,
    recipe_flags,
    recipe_warnings,
    with_batch,
)
from whorl.stages.plan.ask.said import OtherWords
from whorl.stages.plan.cluster.devices import GIB
from whorl.stages.plan.cluster.emit import launch_file
from whorl.stages.plan.cluster.emit_megatron import megatron_command
from whorl.stages.plan.cluster.emit_torchtitan import torchtitan_command
from whorl.stages.plan.cluster.job import Layout, TrainingJob
from whorl.stages.plan.cluster.learning import not_planned
from whorl.stages.plan.cluster.memory import needed_for, rank_memory
from whorl.stages.plan.cluster.search import RankedLayout, SearchResult
from whorl.stages.plan.cluster.step import Model, step_times, untested
from whorl.stages.plan.cluster.tables import tables_note
from whorl.stages.plan.cluster_choice import buy, choose_layout
from whorl.stages.plan.output import figures, schema
from whorl.stages.plan.software import software
from whorl.stages.plan.why import memory_report

if TYPE_CHECKING:
    from whorl.spec.recipe import Recipe

__all__ = ["Answer", "answer", "plan_cluster", "read_shape"]

RUNNERS_UP = 5
Flags = Mapping[str, Any]  # "--count" -> what was given, None if nothing was
Answer = schema.ClusterPlan | schema.ServingAnswer | schema.MemoryReport


def answer(
    flags: Flags,
    words: Mapping[str, object] | None = None,
    recipe: Recipe | None = None,
    name: str = "",
    tell: Callable[[str], None] = lambda line: None,
) -> Answer:
    """What `whorl plan` answers to flags, to a file of another tool (--from), to its words, and
    to a recipe; what is given as a flag goes before a word, and that before a file or recipe.

    Raises SpecError for what makes no sense, PlanError with changes that help when nothing fits;
    then `tell` is given the warnings that a plan would have.
    """
    given = {flag: value for flag, value in flags.items() if value is not None}
    path, said = given.pop("--from", None), None
    if path is not None:
        said = read_file(Path(path))
    if words:
        said = read_words(words, said)
    warnings = [] if said is None else list(said.warnings)
    told = None
    if recipe is not None:
        told = recipe_flags(recipe, {**({} if said is None else said.flags), **given})
        warnings += recipe_warnings(recipe)
    asked = dict(told or given) if said is None else as_flags(said, given, told)
    model = asked.pop("--model", None)
    if model is None and said is not None and said.shape is not None:
        shape: ModelShape | None = said.shape
        asked.pop("--vocab", None)
    else:
        shape = read_shape(model, recipe, "--budget" in asked)
    name = str(model or name or (shape.name if shape is not None else ""))
    _on_this_machine(asked)
    if "--serve" in asked and not OF_TRAINING & set(asked):
        return serving_alone(name, shape, asked)
    if "--tune" in asked and "--count" not in asked:
        asked["--count"] = "1"
    try:
        asked, told_of = with_batch(asked, _steps(said, recipe, given))
        warnings += told_of
        found = _of_training(name, shape, asked, said)
    except (PlanError, SpecError):
        for line in warnings:
            tell(f"warning: {line}")
        raise
    return found.model_copy(update={"warnings": [*warnings, *found.warnings]})


def _steps(said: OtherWords | None, recipe: Recipe | None, given: Flags) -> int | None:
    """Steps that other words or a recipe say, where no flag says how long to train."""
    if {"--tokens", "--budget"} & set(given):
        return None
    told = None if recipe is None or recipe.train.steps == "auto" else recipe.train.steps
    return told if said is None else said.steps or told


def _of_training(
    name: str, shape: ModelShape | None, asked: dict[str, Any], said: OtherWords | None
) -> schema.ClusterPlan | schema.MemoryReport:
    """The plan, or what --why-oom asks for."""
    if not asked.pop("--why-oom", False):
        return plan_cluster(name, shape, asked, said)
    if shape is None or "--serve" in asked:
        raise SpecError("--why-oom is about training a model", do="give --model, no --serve")
    put = _with_words(question(name, shape, asked), said)
    return memory_report(shape, put, device_named(asked["--device"]))


def _on_this_machine(asked: dict[str, Any]) -> None:
    """--device here: the machine itself; one device, and whorl on it, unless it only serves."""
    if not is_here(asked.get("--device")):
        return
    asked["--device"] = device_named(asked["--device"])
    if "--serve" not in asked or OF_TRAINING & set(asked):
        asked.setdefault("--count", "1")


def _with_words(asked: schema.Question, said: OtherWords | None) -> schema.Question:
    """The question with the tool whose words were used, and what they became."""
    if said is None:
        return asked
    became = [*said.lines(), *(line for line in asked.became if line not in said.lines())]
    return asked.model_copy(update={"words": said.tool, "became": became})


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


def plan_cluster(
    name: str, shape: ModelShape | None, flags: Flags, said: OtherWords | None = None
) -> schema.ClusterPlan:
    """The best layout, or the one given, and everything that follows from it.

    Without a shape the budget chooses the size. Raises SpecError for flags that make no sense,
    PlanError with the cheapest changes when nothing fits the memory.
    """
    flags = {flag: value for flag, value in flags.items() if value is not None}
    asked = _with_words(question(name, shape, flags), said)
    budget = parse_budget(asked.budget) if asked.budget else None
    target = device_named(flags["--device"])
    if budget is None and shape is not None:
        tokens = float(asked.tokens or (0 if asked.tune else figures.law_tokens(shape)))
        choice = replace(choose_layout(shape, asked, target), tokens=tokens)
    elif budget is None:
        raise SpecError("no model is given", do="give --model, or --budget to choose a size")
    else:
        choice = buy(shape, asked, budget, target)
    asked, space, job, found = choice.asked, choice.space, choice.job, choice.found
    others = _different(job.layout, found.ranked)
    timed = step_times([job, *(item.job for item in others)], choice.model, intervals=True)
    whys = [_why(choice.given, found), *(item.why for item in others)]
    planned = [
        figures.planned_layout(job, step, why)
        for job, step, why in zip([job, *(o.job for o in others)], timed, whys, strict=True)
    ]
    price = asked.usd_per_device_hour
    view = figures.whole_job(job, timed[0], choice.tokens, price) if choice.tokens else None
    spent = None
    if budget is not None and view is not None:
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
        front=[_point(item) for item in found.pareto],
        considered=found.examined,
        fitting=found.evaluated,
        budget=spent,
        job=view,
        loss=None if asked.tune else figures.loss_figures(job, choice.tokens, asked, spent),
        serving=served(job.shape, asked.model, target, price, asked.serve)[0]
        if asked.serve
        else None,
        commands=emitted,
        warnings=[
            *_doubts(planned[0], job, asked.precision),
            *([tables_note(job)] if asked.tables else ()),
            *warnings,
        ],
    )


def _point(found: RankedLayout) -> schema.FrontPoint:
    label, step_s = layout_label(found.layout), found.step.step_s
    return schema.FrontPoint(label=label, step_s=step_s, peak_bytes=found.peak_bytes)


def _is_plain(job: TrainingJob) -> bool:
    """Next tokens, with all weights trained."""
    return job.lora is None and job.learning.kind == "tokens"


def _emitted(job: TrainingJob) -> tuple[dict[str, str], list[str]]:
    """(file name -> what runs the layout, what its software cannot do)."""
    made = {"whorl": launch_file(job)}
    if job.stack not in ("whorl", "fsdp", "torchtitan", "megatron") or not _is_plain(job):
        note = f"no command of {software(job.stack).title} is written, launch.json alone"
        return {item.name: item.text for item in made.values()}, [note]
    made |= {"fsdp": torchtitan_command(job), "megatron": megatron_command(job)}
    name = "fsdp" if job.stack == "torchtitan" else job.stack
    return {item.name: item.text for item in made.values()}, list(made[name].warnings)


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
    doubts, device, longest = untested(job), job.device, job.shape.max_seq_len
    doubts += not_planned(job.learning)
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
        needed, high, limit = (
            f"{size / GIB:.1f} GiB"
            for size in (needed_for(job), planned.memory.high_bytes, device.memory_bytes)
        )
        doubts.append(f"may not fit: needs {needed} of {limit}, by the 90% interval up to {high}")
    return doubts


def _different(chosen: Layout, ranked: Sequence[RankedLayout]) -> list[RankedLayout]:
    """The best layout of each other mesh: those that differ in micro-batch alone teach little."""

    def mesh(layout: Layout) -> tuple[Any, ...]:
        return layout.tp, layout.pp, layout.cp, layout.ep, layout.shard

    found: dict[tuple[Any, ...], RankedLayout] = {}
    for item in ranked:
        if mesh(item.layout) != mesh(chosen):
            found.setdefault(mesh(item.layout), item)
    return list(found.values())[:RUNNERS_UP]


def _why(given: TrainingJob | None, found: SearchResult) -> str:
    if given is None:
        return "the fastest that fits; of those that tie, the simplest"
    if found.best.layout == given.layout:
        return "as given; the search finds none that is faster by more than 1%"
    return f"as given; the search would take {layout_label(found.best.layout)}"
