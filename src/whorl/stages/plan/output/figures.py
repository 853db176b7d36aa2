"""From what the planner's parts return to the figures of the document."""

from __future__ import annotations

import math
from typing import Literal

from whorl.arch.shape import ModelShape
from whorl.arch.shape_counts import (
    count_shape,
    flops_per_token,
    kv_bytes_per_token,
    training_bytes,
)
from whorl.stages.plan.ask.layouts import layout_label
from whorl.stages.plan.cluster.job import TrainingJob
from whorl.stages.plan.cluster.memory import rank_memory
from whorl.stages.plan.cluster.step import StepTime
from whorl.stages.plan.laws.allocate import lifetime_optimum, optimum, step_law
from whorl.stages.plan.laws.effective import effective_tokens, with_repetition
from whorl.stages.plan.laws.law import FLOPS_PER_PARAM_TOKEN, Law, crossing
from whorl.stages.plan.laws.named import find_law
from whorl.stages.plan.output import schema
from whorl.stages.plan.plan import Prediction
from whorl.stages.plan.spending import JobBudget
from whorl.stages.plan.whole_job.failures import expected_rate
from whorl.stages.plan.whole_job.view import JobView, Range, WholeJob, steps_of, view_job

__all__ = [
    "budget_figures",
    "law_of",
    "law_tokens",
    "loss_figures",
    "model_figures",
    "planned_layout",
    "step_batch",
    "whole_job",
]

WEIGHT_BYTES = 2  # bf16
# Storage all nodes write to: Llama 3's sustains 2 TB/s for 16,384 GPUs (2407.21783, 3.3.1).
STORAGE_BYTES_PER_S_PER_DEVICE = 2e12 / 16384
BUDGETS_AROUND = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)


def model_figures(shape: ModelShape, seq_len: int) -> schema.ModelFigures:
    counts, flops = count_shape(shape), flops_per_token(shape, seq_len)
    return schema.ModelFigures(
        shape=shape,
        parameters=counts.total,
        active_parameters=counts.active,
        forward_flops_per_token=flops.forward,
        training_flops_per_token=flops.training,
        weight_bytes=WEIGHT_BYTES * counts.total,
        kv_bytes_per_token=kv_bytes_per_token(shape),
    )


def planned_layout(job: TrainingJob, step: StepTime, why: str) -> schema.PlannedLayout:
    """One layout with its time and the memory of its fullest rank."""
    return schema.PlannedLayout(
        label=layout_label(job.layout),
        layout=job.layout,
        dp=job.layout.dp,
        step=step,
        memory=rank_memory(job),
        why=why,
    )


def whole_job(job: TrainingJob, step: StepTime, tokens: float, usd: float | None) -> JobView:
    """The whole run: days, money, failures. Raises PlanError if failures leave it no time."""
    optimizer: Literal["adamw", "muon", "sgd"] = "adamw"
    if job.optimizer == "muon" or job.optimizer == "sgd":
        optimizer = job.optimizer
    checkpoint = float(training_bytes(job.shape, optimizer, gradient_bytes=0).total)
    if job.lora is not None:  # the adapters and their moments; the base is where it came from
        parts = rank_memory(job).parts
        checkpoint = (parts["gradients"] + parts["optimizer"]) * job.layout.tp * job.layout.pp
    return view_job(
        WholeJob(
            step_s=Range(step.step_s, step.low_s, step.high_s),
            steps=steps_of(tokens, job.tokens_per_step),
            devices=job.layout.devices,
            device=job.device,
            checkpoint_bytes=checkpoint,
            storage_bytes_per_s=STORAGE_BYTES_PER_S_PER_DEVICE * job.layout.devices,
            usd_per_device_hour=usd,
        ),
        expected_rate(job.device.kind),
    )


def law_tokens(shape: ModelShape) -> float:
    """Tokens with which this size is the best use of its FLOPs."""
    law, params = find_law(), count_shape(shape).active
    return law.optimal(crossing(lambda flops: law.optimal(flops)[0] < params, 1e6, 1e32))[1]


def law_of(tokens: float, unique_tokens: float | None) -> Law:
    """The default law; of repeated data where there are more tokens than unique ones."""
    repeats = unique_tokens is not None and tokens > unique_tokens
    return with_repetition(find_law(), unique_tokens or 0.0) if repeats else find_law()


def step_batch(shape: ModelShape, tokens: float) -> tuple[Prediction, Prediction]:
    """(peak learning rate, tokens of a batch) by the step law, of the model without its tables."""
    counts = count_shape(shape)
    return step_law(counts.active - counts.embedding - counts.head - counts.positions, tokens)


def budget_figures(
    budget: JobBudget, shape: ModelShape, tokens: float, view: JobView, law: Law | None, rounds: int
) -> schema.BudgetFigures:
    """What it buys. The intervals hold the speed's error and that of the law which chose the size.

    law: None if the size was given.
    """
    active = count_shape(shape).active
    flops = FLOPS_PER_PARAM_TOKEN * active * tokens
    spent = budget.spent(view, flops)
    speeds = spent.value / spent.high, spent.value / spent.low
    size, bought = None, _within(tokens, (speeds[0], speeds[1]))
    if law is not None:
        best, slow, fast = optimum(flops, law), *(law.optimal(flops * by) for by in speeds)
        size, bought = (
            _within(value, _ratios(found), (slow[at] / middle, fast[at] / middle))
            for at, (value, found) in enumerate(zip((active, tokens), best, strict=True))
            if (middle := found.value)
        )
    return schema.BudgetFigures(
        kind=budget.kind,
        amount=budget.amount,
        spent=spent,
        flops=flops,
        tokens=bought,
        parameters=size,
        rounds=rounds,
    )


def _ratios(found: Prediction) -> tuple[float, float]:
    """The ends of an interval over its middle."""
    figure = _figure(found)
    return figure.low / figure.value, figure.high / figure.value


def _within(value: float, *errors: tuple[float, float]) -> Range:
    """A figure that errs by independent factors, each with its 90% interval around one."""

    def end(at: int) -> float:
        return math.hypot(*(math.log(ends[at]) for ends in errors))

    return Range(value, value * math.exp(-end(0)), value * math.exp(end(1)))


def loss_figures(
    job: TrainingJob,
    tokens: float,
    asked: schema.Question,
    bought: schema.BudgetFigures | None = None,
) -> schema.LossFigures:
    """What the law expects of the model, and the best of the same FLOPs and of others around.

    With a budget the interval holds the error of the speed too.
    """
    law, counts = law_of(tokens, asked.unique_tokens), count_shape(job.shape)
    flops = FLOPS_PER_PARAM_TOKEN * counts.active * tokens
    rate, batch = step_batch(job.shape, tokens)
    found = law.predict(counts.active, tokens)
    loss = _figure(found)
    if bought is not None:
        spent = bought.spent
        slow, fast = (
            law.loss(counts.active, tokens * spent.value / end) / loss.value
            for end in (spent.high, spent.low)
        )
        loss = _within(loss.value, _ratios(found), (fast, slow))
    repeats = asked.unique_tokens is not None and tokens > asked.unique_tokens
    notes = [f"loss by the law {found.note}: good for comparing, not the loss on your data"]
    if job.shape.experts:
        notes.append("a mixture of experts counts by its active parameters: expect a lower loss")
    if bought is not None and bought.parameters is not None:
        notes.append("the size is the law's for the FLOPs bought, in the proportions of Llama 3")
    if asked.served_tokens:
        notes.append("a FLOP of serving is priced as one of training (Sardana et al. 2023)")
    if repeats:
        notes.append("repeated tokens count by Muennighoff et al. 2023, equation 5")
    return schema.LossFigures(
        law=law.name,
        tokens=tokens,
        steps=steps_of(tokens, job.tokens_per_step),
        loss=loss,
        tokens_per_parameter=tokens / counts.active,
        best=_best(law, flops),
        best_batch_tokens=_figure(batch),
        best_learning_rate=_figure(rate),
        budgets=[_best(law, factor * flops) for factor in BUDGETS_AROUND],
        unique_tokens=asked.unique_tokens if repeats else None,
        worth_tokens=effective_tokens(tokens, asked.unique_tokens or 0.0) if repeats else None,
        lifetime=lifetime_optimum(loss.value, asked.served_tokens, law)
        if asked.served_tokens
        else None,
        notes=notes,
    )


def _best(law: Law, flops: float) -> schema.LossPoint:
    params, tokens = law.optimal(flops)
    loss = _figure(law.predict(params, tokens))
    return schema.LossPoint(flops=flops, parameters=params, tokens=tokens, loss=loss)


def _figure(found: Prediction) -> Range:
    value = found.value or 0.0
    low, high = (value if end is None else end for end in (found.low, found.high))
    return Range(value, low, high)
