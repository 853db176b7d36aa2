"""A cluster plan with made-up figures that are easy to find again in a page or a table."""

from __future__ import annotations

from whorl.arch.shape import AttentionShape, ModelShape
from whorl.stages.plan.cluster.devices import Device, device
from whorl.stages.plan.cluster.job import Layout
from whorl.stages.plan.cluster.memory import RankMemory
from whorl.stages.plan.cluster.step import StepTime
from whorl.stages.plan.output.schema import (
    ClusterPlan,
    FrontPoint,
    LossFigures,
    LossPoint,
    ModelFigures,
    PlannedLayout,
    Question,
)
from whorl.stages.plan.whole_job.failures import expected_rate
from whorl.stages.plan.whole_job.view import JobView, Range, WholeJob, view_job

GIB = 2**30
H100: Device = device("h100-sxm")
SHAPE = ModelShape("tiny", 32, 4096, 14336, 128256, AttentionShape(32, 8, 128))


def planned(label: str, step_s: float, peak_gib: float, why: str, tp: int = 8) -> PlannedLayout:
    peak = peak_gib * GIB
    layout = Layout(256, tp=tp, pp=4)
    return PlannedLayout(
        label=label,
        layout=layout,
        dp=layout.dp,
        step=StepTime(
            step_s=step_s,
            low_s=0.9 * step_s,
            high_s=1.1 * step_s,
            parts_s={"compute": 0.6 * step_s, "network": 0.3 * step_s, "bubble": 0.1 * step_s},
            tokens_per_s_per_device=8192 / step_s,
            mfu=0.4,
            roofline_s=0.5 * step_s,
        ),
        memory=RankMemory(
            parts={"weights": 0.5 * peak, "activations": 0.5 * peak},
            phases={"forward": 0.8 * peak, "backward": peak},
            stage=0,
            peak_bytes=peak,
            low_bytes=0.95 * peak,
            high_bytes=1.05 * peak,
        ),
        why=why,
    )


def sample_job() -> JobView:
    step = Range(2.0, 1.8, 2.2)
    job = WholeJob(step, 238_418, 256, H100, 1.1e11, 32e9, usd_per_device_hour=2.5)
    return view_job(job, expected_rate("gpu"))


def sample_loss() -> LossFigures:
    losses = {1e21: 2.6, 1e22: 2.3, 1e23: 2.1, 1e24: 1.97}
    points = [
        LossPoint(
            flops=flops,
            parameters=1e9,
            tokens=1e10,
            loss=Range(value=loss, low=loss - 0.1, high=loss + 0.1),
        )
        for flops, loss in losses.items()
    ]
    return LossFigures(
        law="chinchilla",
        tokens=1e12,
        steps=238_418,
        loss=Range(value=2.05, low=2.0, high=2.1),
        tokens_per_parameter=125,
        best=points[-1],
        best_batch_tokens=Range(value=4e6, low=2e6, high=8e6),
        best_learning_rate=Range(value=3e-4, low=2e-4, high=5e-4),
        budgets=points,
    )


def sample_plan(**changes: object) -> ClusterPlan:
    fields: dict[str, object] = {
        "question": Question(
            model="tiny", device="h100-sxm", count=256, seq_len=8192, global_batch=512
        ),
        "model": ModelFigures(
            shape=SHAPE,
            parameters=8_030_261_248,
            active_parameters=8_030_261_248,
            forward_flops_per_token=1.6e10,
            training_flops_per_token=4.8e10,
            weight_bytes=1.6e10,
            kv_bytes_per_token=131072,
        ),
        "device": H100,
        "chosen": planned("tp=8,pp=4,mbs=1", 2.0, 60, "the fastest that fits"),
        "runners_up": [planned("tp=4,pp=4,mbs=1", 2.5, 40, "more bubble", tp=4)],
        "front": [
            FrontPoint(label="tp=8,pp=4,mbs=1", step_s=2.0, peak_bytes=60 * GIB),
            FrontPoint(label="tp=4,pp=4,mbs=1", step_s=2.5, peak_bytes=40 * GIB),
            FrontPoint(label="tp=8,pp=8,full", step_s=3.5, peak_bytes=22 * GIB),
        ],
        "considered": 120,
        "fitting": 77,
        "job": sample_job(),
        "loss": sample_loss(),
        "commands": {"megatron.sh": "torchrun …", "launch.json": "{}"},
    }
    return ClusterPlan.model_validate(fields | changes)
