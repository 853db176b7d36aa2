"""What a budget buys, by hand arithmetic."""

from __future__ import annotations

import pytest

from whorl.core.errors import PlanError, SpecError
from whorl.stages.plan.cluster.devices import device
from whorl.stages.plan.spending import JobBudget, round_batch, steps_bought
from whorl.stages.plan.whole_job.failures import FailureRate
from whorl.stages.plan.whole_job.view import JobView, Range, WholeJob, view_job

NEVER = FailureRate(0.0, 0.0, 0.0)


def job_of(steps: int) -> JobView:
    """Steps of 36 s on 100 devices: one device-hour each, next to nothing for checkpoints."""
    return view_job(
        WholeJob(
            step_s=Range(36, 30, 45),
            steps=steps,
            devices=100,
            device=device("h100-sxm"),
            checkpoint_bytes=1.0,
            storage_bytes_per_s=1e12,
            usd_per_device_hour=4.0,
        ),
        NEVER,
    )


@pytest.mark.parametrize(
    ("budget", "steps"),
    [
        (JobBudget("device_hours", 1000.5), 1000),
        (JobBudget("usd", 4002.0), 1000),  # 4 USD a step
        (JobBudget("time", 36_010.0), 1000),  # seconds of the whole job
        (JobBudget("flops", 7.5e15), 7),
        (JobBudget("usd", 4.01), 1),
    ],
)
def test_whole_steps_by_hand(budget: JobBudget, steps: int) -> None:
    assert steps_bought(budget, job_of, 1e15) == steps
    spent = budget.spent(job_of(steps), steps * 1e15)
    assert 0.8 * budget.amount < spent.value <= budget.amount
    if budget.kind != "flops":
        assert spent.high / spent.value == pytest.approx(45 / 36, rel=1e-3)


def test_what_buys_nothing_or_everything_is_refused() -> None:
    with pytest.raises(PlanError, match="not buy one optimiser step"):
        steps_bought(JobBudget("usd", 3.99), job_of, 1e15)
    with pytest.raises(SpecError, match="costs nothing"):
        steps_bought(JobBudget("flops", 1.0), job_of, 0.0)


@pytest.mark.parametrize(
    ("tokens", "seq_len", "devices", "sequences"),
    [
        (4e6, 8192, 64, 512),  # 488 wanted
        (1e5, 8192, 64, 16),  # 12.2 wanted: 16 is nearer in ratio than 8
        (4e6, 8192, 24, 384),  # 488 wanted: 24 x 16, not x 32
        (10, 8192, 64, 1),
    ],
)
def test_a_batch_that_devices_can_share(
    tokens: float, seq_len: int, devices: int, sequences: int
) -> None:
    assert round_batch(tokens, seq_len, devices) == sequences
