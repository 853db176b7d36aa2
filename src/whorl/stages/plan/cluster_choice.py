"""The layout of a cluster plan and, where a budget decides, the size, the batch and the tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from whorl.arch.llama_like import LLAMA_3_VOCAB, llama_like
from whorl.arch.shape import ModelShape
from whorl.arch.shape_counts import count_shape
from whorl.core.errors import PlanError, SpecError
from whorl.stages.plan.ask.answers import in_words
from whorl.stages.plan.ask.layouts import layout_label, parse_layout, parse_measured
from whorl.stages.plan.ask.objective import trained_shape
from whorl.stages.plan.ask.question import job_of
from whorl.stages.plan.cluster.devices import GIB, Device
from whorl.stages.plan.cluster.images import check_images, parse_images
from whorl.stages.plan.cluster.job import TrainingJob
from whorl.stages.plan.cluster.memory import fits, needed_for, rank_memory
from whorl.stages.plan.cluster.remedies import Say, priced, same_devices
from whorl.stages.plan.cluster.search import SearchResult, SearchSpace, search_layouts
from whorl.stages.plan.cluster.step import MeasuredStep, Model, calibrate, step_times
from whorl.stages.plan.laws.law import FLOPS_PER_PARAM_TOKEN
from whorl.stages.plan.laws.named import find_law
from whorl.stages.plan.output import figures, schema
from whorl.stages.plan.spending import JobBudget, round_batch, steps_bought

__all__ = ["ChosenLayout", "buy", "choose_layout", "what_is_asked"]

MOST_ROUNDS, FIRST_UTILISATION = 6, 0.3
KEPT = 200


@dataclass(frozen=True)
class ChosenLayout:
    """A layout of one model and batch, and the tokens to train on."""

    asked: schema.Question  # with its batch
    space: SearchSpace
    model: Model | None
    given: TrainingJob | None  # of --layout
    found: SearchResult
    tokens: float = 0.0
    rounds: int = 1

    @property
    def job(self) -> TrainingJob:
        return self.given or self.found.best.job


def what_is_asked(
    shape: ModelShape, asked: schema.Question, target: Device
) -> tuple[SearchSpace, Model | None, TrainingJob | None]:
    """The space of layouts, the step model after --measured, the job of --layout."""
    space = _space(shape, asked, target)
    model = _calibrated(space, asked.measured, asked.tables)
    given = None
    if asked.layout:
        given = _divided(space.job(parse_layout(asked.layout, space.devices)))
    return space, model, given


def choose_layout(shape: ModelShape, asked: schema.Question, target: Device) -> ChosenLayout:
    """The layout of a model and batch: searched, or the one given if it fits."""
    space, model, given = what_is_asked(shape, asked, target)
    say = in_words(asked.words, whole=given is None)
    try:
        found = search_layouts(
            space,
            time_of=partial(step_times, model=model),
            keep=KEPT,
            also=() if given is None else (given.layout,),
            say=say,
        )
    except PlanError as error:
        if given is None or fits(given):
            raise
        raise _refusal(given, _changes_that_fit(given, model, say) or [str(error.do)]) from None
    if given is not None and not fits(given):
        best = f"--layout {layout_label(found.best.layout)}, which the search finds"
        raise _refusal(given, [*_changes_that_fit(given, model, say), best])
    return ChosenLayout(asked, space, model, given, found)


def buy(
    shape: ModelShape | None, asked: schema.Question, budget: JobBudget, target: Device
) -> ChosenLayout:
    """Size, batch and tokens that a budget buys, searched until they agree with the speed.

    The size is the law's optimum for the FLOPs that the chosen layout's speed buys; the batch, if
    it was not given, the step law's.
    """
    is_open, vocab_size = shape is None, asked.vocab_size or LLAMA_3_VOCAB
    flops = _first_flops(budget, asked, target)
    if shape is None:
        shape = llama_like(find_law().optimal(flops)[0], vocab_size)
    tokens = flops / (FLOPS_PER_PARAM_TOKEN * count_shape(shape).active)
    tried: dict[tuple[ModelShape, int], ChosenLayout] = {}
    while True:
        batch = asked.global_batch
        if not batch:
            wanted = figures.step_batch(shape, tokens)[1].value or 0.0
            batch = round_batch(wanted, asked.seq_len, asked.count)
        if (shape, batch) in tried or len(tried) == MOST_ROUNDS:
            return list(tried.values())[-1]
        of_batch = asked.model_copy(update={"global_batch": batch})
        choice = choose_layout(shape, of_batch, target)
        tokens = _tokens_bought(choice, budget)
        tried[shape, batch] = replace(choice, tokens=tokens, rounds=len(tried) + 1)
        if is_open:
            law = figures.law_of(tokens, asked.unique_tokens)
            flops = FLOPS_PER_PARAM_TOKEN * count_shape(shape).active * tokens
            shape = llama_like(law.optimal(flops)[0], vocab_size)


def _first_flops(budget: JobBudget, asked: schema.Question, target: Device) -> float:
    """A first guess of the FLOPs that a budget buys."""
    price = target.price(asked.usd_per_device_hour) or 1.0
    an_hour = 3600 * FIRST_UTILISATION * target.peak(asked.precision)  # of a device
    of_one = {"usd": an_hour / price, "device_hours": an_hour, "time": an_hour / 3600 * asked.count}
    return budget.amount * of_one.get(budget.kind, 1.0)


def _tokens_bought(choice: ChosenLayout, budget: JobBudget) -> float:
    """Whole steps of the chosen layout at its predicted speed, as tokens."""
    job = choice.job
    step, price = step_times([job], choice.model)[0], choice.asked.usd_per_device_hour
    flops = FLOPS_PER_PARAM_TOKEN * count_shape(job.shape).active * job.tokens_per_step
    per_step = float(job.tokens_per_step)
    return per_step * steps_bought(
        budget, lambda steps: figures.whole_job(job, step, per_step * steps, price), flops
    )


def _space(shape: ModelShape, asked: schema.Question, target: Device) -> SearchSpace:
    if target.measured is not None and (asked.measured or asked.tables):
        told = f"--device {target.name}: its rates are those that were measured on it"
        raise SpecError(told, found="--measured or --tables", do="leave them out")
    if asked.images:
        check_images(shape, *parse_images(asked.images), asked.seq_len)
    job = job_of(asked, trained_shape(shape, asked.objective), target)
    return SearchSpace(job) if target.measured is None else SearchSpace(job, ("none",))


def _divided(job: TrainingJob) -> TrainingJob:
    """The job, if its ranks share the batch equally; else SpecError."""
    passes = job.layout.dp * job.layout.micro_batch
    if job.global_batch % passes:
        most = max(1, job.global_batch // passes) * passes
        raise SpecError(
            f"a global batch of {job.global_batch:,} sequences is not divisible by dp "
            f"{job.layout.dp} x micro-batch {job.layout.micro_batch}",
            do=f"use --global-batch-tokens {most * job.seq_len} or another layout",
        )
    return job


def _changes_that_fit(job: TrainingJob, model: Model | None, say: Say) -> list[str]:
    """Up to three ways to fit on the same devices, each with its GiB and its price in time."""
    ways = same_devices(job, needed_for, job.device.memory_bytes, model)
    return [priced(item, say) for item in ways]


def _refusal(job: TrainingJob, changes: Sequence[str]) -> PlanError:
    """What the memory is made of, and what would make it less."""
    found = rank_memory(job, "smi")
    largest = sorted(found.parts.items(), key=lambda item: -item[1])
    parts = ", ".join(f"{name} {size / GIB:.1f}" for name, size in largest if size >= GIB / 20)
    return PlanError(
        f"--layout {layout_label(job.layout)} does not fit",
        found=f"{needed_for(job) / GIB:.1f} GiB at least: {parts}",
        expected=f"at most {job.device.memory_bytes / GIB:.1f} GiB of {job.device.name}",
        do="; or ".join(changes) + "; --why-oom tells more",
    )


def _calibrated(space: SearchSpace, text: str, tables: bool) -> Model | None:
    """The step model after --measured, of the same model, sequences and about the same batch."""
    if not text:
        return calibrate([], tables=True) if tables else None
    measured = parse_measured(text, space.devices)
    job, step_s = space.job(measured.layout), measured.step_s
    if job.learning.kind == "grpo":
        told = "a step that was measured with what it writes says nothing of the rest"
        raise SpecError(f"--measured does not go with grpo: {told}", do="leave --measured out")
    if step_s is not None:
        _divided(job)
    else:  # a rate hardly depends on the batch: the nearest that the measured ranks share
        passes = job.layout.dp * job.layout.micro_batch
        job = replace(job, global_batch=passes * max(1, round(job.global_batch / passes)))
        rate = measured.tokens_per_s_per_device or 0.0
        step_s = job.tokens_per_step / measured.layout.devices / rate
    if step_s < (least := step_times([job])[0].roofline_s):
        raise SpecError(
            "--measured is faster than the peak of its devices",
            found=f"a step of {step_s:.4g} s, {job.tokens_per_step / step_s:,.0f} tokens/s in all",
            expected=f"at least {least:.4g} s",
            do="give tokens_per_s of one device, and the layout and count that were timed",
        )
    return calibrate([MeasuredStep(job, step_s)], tables=tables)
