"""What a budget buys at a predicted speed: whole steps of training, a batch that the devices share.

FLOPs are 6 per active parameter and token, as the scaling laws count them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

from whorl.core.errors import PlanError, SpecError
from whorl.stages.plan.whole_job.view import JobView, Range

__all__ = ["KINDS", "BudgetKind", "JobBudget", "round_batch", "steps_bought"]

BudgetKind = Literal["usd", "time", "device_hours", "flops"]
KINDS: tuple[BudgetKind, ...] = get_args(BudgetKind)
MANY_STEPS = 10**6
DAY_S = 86_400.0


@dataclass(frozen=True)
class JobBudget:
    """amount: USD, seconds of the whole job, device-hours or FLOPs."""

    kind: BudgetKind
    amount: float

    def spent(self, job: JobView, flops: float) -> Range:
        """What a job takes of it, in its unit, failures and checkpoints included."""
        if self.kind == "flops":
            return Range(flops, flops, flops)
        if self.kind == "time":
            return Range(*(DAY_S * days for days in (job.days.value, job.days.low, job.days.high)))
        return job.usd if self.kind == "usd" else job.device_hours


def steps_bought(budget: JobBudget, job_of: Callable[[int], JobView], flops_of_step: float) -> int:
    """The most whole steps within the budget. job_of: the job of so many steps.

    Raises PlanError if it buys not one; SpecError if steps cost nothing.
    """

    def cost(steps: int) -> float:
        if budget.kind == "flops":
            return steps * flops_of_step
        return budget.spent(job_of(steps), 0.0).value

    one = cost(MANY_STEPS) / MANY_STEPS
    if not one > 0:
        raise SpecError(f"--budget {budget.kind}: a step costs nothing", do="give a price above 0")
    steps = math.floor(budget.amount / one)
    while steps > 0 and (paid := cost(steps)) > budget.amount:  # few steps cost a little more each
        steps = min(steps - 1, math.floor(steps * budget.amount / paid))
    if steps < 1:
        raise PlanError(
            "the budget does not buy one optimiser step",
            found=f"{budget.kind}={budget.amount:.4g}",
            expected=f"at least {one:.4g}",
            do="raise the budget, or take a smaller model or batch",
        )
    return steps


def round_batch(tokens: float, seq_len: int, devices: int) -> int:
    """Sequences of about so many tokens that data parallelism can share.

    The nearest, in ratio, of the devices' divisors and of the devices times a power of two.
    """
    wanted = max(1.0, tokens / seq_len)
    least = [n for n in range(1, devices + 1) if devices % n == 0]
    counts = [*least, *(devices * 2**k for k in range(1, 30))]
    return int(min(counts, key=lambda count: abs(math.log(count / wanted))))
