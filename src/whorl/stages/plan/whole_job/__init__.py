"""A whole training job: days, money, energy, failures, checkpoints and what share is useful."""

from whorl.stages.plan.whole_job.checkpoints import (
    TimeShares,
    daly_interval_s,
    time_shares,
    young_interval_s,
)
from whorl.stages.plan.whole_job.failures import FailureFact, FailureRate, failure_facts
from whorl.stages.plan.whole_job.view import JobView, Range, WholeJob, steps_of, view_job

__all__ = [
    "FailureFact",
    "FailureRate",
    "JobView",
    "Range",
    "TimeShares",
    "WholeJob",
    "daly_interval_s",
    "failure_facts",
    "steps_of",
    "time_shares",
    "view_job",
    "young_interval_s",
]
