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
from whorl.stages.plan.cluster.job import TrainingJob
from whorl.stages.plan.cluster.memory import rank_memory
from whorl.stages.plan.cluster.step import StepTime
from whorl.stages.plan.laws.hyper import step_law
from whorl.stages.plan.laws.law import FLOPS_PER_PARAM_TOKEN, Law
from whorl.stages.plan.laws.named import find_law
from whorl.stages.plan.output import schema
from whorl.stages.plan.output.question import layout_label
from whorl.stages.plan.plan import Prediction
from whorl.stages.plan.whole_job import JobView, Range, WholeJob, steps_of, view_job

__all__ = ["law_tokens", "loss_figures", "model_figures", "planned_layout", "whole_job"]

WEIGHT_BYTES = 2  # bf16
# Storage all nodes write to: Llama 3's sustains 2 TB/s for 16,384 GPUs (2407.21783, 3.3.1).
STORAGE_BYTES_PER_S_PER_DEVICE = 2e12 / 16384
BUDGETS_AROUND = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
BISECTIONS = 60


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
    return view_job(
        WholeJob(
            step_s=Range(step.step_s, step.low_s, step.high_s),
            steps=steps_of(tokens, job.tokens_per_step),
            devices=job.layout.devices,
            device=job.device,
            checkpoint_bytes=training_bytes(job.shape, optimizer, gradient_bytes=0).total,
            storage_bytes_per_s=STORAGE_BYTES_PER_S_PER_DEVICE * job.layout.devices,
            usd_per_device_hour=usd,
        )
    )


def law_tokens(shape: ModelShape, law: Law | None = None) -> float:
    """Tokens with which this size is the best use of its FLOPs."""
    law, params = law or find_law(), count_shape(shape).active
    low, high = math.log(1e6), math.log(1e32)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        if law.optimal(math.exp(middle))[0] < params:
            low = middle
        else:
            high = middle
    return law.optimal(math.exp(high))[1]


def loss_figures(job: TrainingJob, tokens: float, law: Law | None = None) -> schema.LossFigures:
    """What the law expects of the model, and the best of the same FLOPs and of others around."""
    law, counts = law or find_law(), count_shape(job.shape)
    flops = FLOPS_PER_PARAM_TOKEN * counts.active * tokens
    blocks = counts.active - counts.embedding - counts.head - counts.positions
    rate, batch = step_law(blocks, tokens)
    found = law.predict(counts.active, tokens)
    notes = [f"loss by the law {found.note}: good for comparing, not the loss on your data"]
    if job.shape.experts:
        notes.append("a mixture of experts counts by its active parameters: expect a lower loss")
    return schema.LossFigures(
        law=law.name,
        tokens=tokens,
        steps=steps_of(tokens, job.tokens_per_step),
        loss=_figure(found),
        tokens_per_parameter=tokens / counts.active,
        best=_best(law, flops),
        best_batch_tokens=batch.value or 0.0,
        best_learning_rate=rate.value or 0.0,
        budgets=[_best(law, factor * flops) for factor in BUDGETS_AROUND],
        notes=notes,
    )


def _best(law: Law, flops: float) -> schema.LossPoint:
    params, tokens = law.optimal(flops)
    loss = _figure(law.predict(params, tokens))
    return schema.LossPoint(flops=flops, parameters=params, tokens=tokens, loss=loss)


def _figure(found: Prediction) -> schema.Figure:
    value = found.value or 0.0
    low, high = (value if end is None else end for end in (found.low, found.high))
    return schema.Figure(value=value, low=low, high=high)
