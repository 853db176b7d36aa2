"""The whole job from one step: days, device-hours, money, energy, failures and checkpoints."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

from whorl.core.errors import PlanError, SpecError
from whorl.stages.plan.cluster.devices import Device
from whorl.stages.plan.whole_job.checkpoints import (
    TimeShares,
    check_positive,
    daly_interval_s,
    time_shares,
    young_interval_s,
)
from whorl.stages.plan.whole_job.failures import FailureRate

__all__ = ["JobView", "Range", "WholeJob", "steps_of", "view_job"]

HOUR_S, DAY_S = 3600.0, 86_400.0
LEAST_USEFUL = 0.01  # a job that gets less done is refused
LEAST_FAILURES_PER_HOUR = 1e-9  # of the whole job; stands for none

# Restart: an assumption; Kokolis et al. 2024 take 5 to 20 minutes, MegaScale reports under 15.
RESTART_S = 600.0
# Copy of the state to the host's memory that an asynchronous checkpoint waits for: an assumption,
# below the 24 to 50 GB/s that PCIe Gen4 and Gen5 reach.
HOST_COPY_BYTES_PER_S = 10e9
# Share of the time that storage may be busy with asynchronous checkpoints: an assumption.
WRITING_SHARE = 0.1
# Power of a node against its rating: 0.76 in heavy training, 0.82 at the most (8 x H100;
# Newkirk et al. 2025, arXiv 2506.14551; Latif et al. 2025, arXiv 2412.08602); 0.6 an assumption.
POWER_FRACTION = (0.76, 0.6, 0.82)
# Data centre overhead: 1.1 at large providers, 1.56 on average (Uptime Institute survey 2024).
PUE = (1.2, 1.1, 1.56)


@dataclass(frozen=True)
class Range:
    value: float
    low: float
    high: float

    def __post_init__(self) -> None:
        if not self.low <= self.value <= self.high:
            raise SpecError(
                "a range out of order", found=asdict(self), expected="low <= value <= high"
            )


@dataclass(frozen=True)
class WholeJob:
    """What the view needs. Raises SpecError on nonsense."""

    step_s: Range
    steps: int
    devices: int
    device: Device
    checkpoint_bytes: float  # weights and optimiser state, all ranks together
    storage_bytes_per_s: float  # of the whole job, writing and reading
    usd_per_device_hour: float | None = None  # None: the catalogue's

    def __post_init__(self) -> None:
        for name in ("steps", "devices", "checkpoint_bytes", "storage_bytes_per_s"):
            check_positive(**{name: getattr(self, name)})
        for end in (self.step_s.low, self.step_s.high):
            check_positive(step_s=end)
        if not self.step_s.low <= self.step_s.value <= self.step_s.high:
            raise SpecError("step_s", found=self.step_s, expected="low, value and high in order")
        if (price := self.usd_per_device_hour) is not None and not 0 <= price < math.inf:
            raise SpecError("usd_per_device_hour", found=price, expected="at least 0")


@dataclass(frozen=True)
class JobView:
    """Low and high go together: the fast step with few failures, the slow step with many."""

    ideal_days: Range  # without failures and checkpoints
    days: Range
    device_hours: Range
    usd: Range  # at usd_per_device_hour; the spread of prices is not in it; 0 where it is null
    energy_kwh: Range
    failures: Range
    mtbf_hours: Range  # of the whole job; low: with many failures
    goodput: Range  # useful share of the wall time; low: with many failures
    shares: TimeShares
    checkpoint_write_s: float
    checkpoint_stall_s: float
    checkpoint_interval_s: float
    checkpoint_interval_steps: int
    young_interval_s: float
    daly_interval_s: float
    checkpoints: int
    restart_s: float  # loading included
    usd_per_device_hour: float | None  # None: not known
    assumptions: tuple[str, ...]
    sources: tuple[str, ...]


@dataclass(frozen=True)
class _Case:
    wall_s: float
    mtbf_s: float
    shares: TimeShares


def steps_of(tokens: float, tokens_per_step: float) -> int:
    """Steps that see at least `tokens`."""
    if not (0 < tokens < math.inf and 0 < tokens_per_step < math.inf):
        raise SpecError("tokens", found=(tokens, tokens_per_step), expected="more than 0")
    return math.ceil(tokens / tokens_per_step)


def view_job(job: WholeJob, rate: FailureRate) -> JobView:
    """Everything about the job. Raises PlanError if failures leave it no time to train.

    Checkpoints are asynchronous and Daly's optimum apart, in whole steps, but never closer than
    keeps storage free (they stall so little that the optimum alone would write all the time).
    """
    write_s = job.checkpoint_bytes / job.storage_bytes_per_s
    stall_s = job.checkpoint_bytes / (job.devices * HOST_COPY_BYTES_PER_S)
    restart_s = RESTART_S + write_s
    optimum_s = daly_interval_s(stall_s, _mtbf_s(job, rate.per_device_hour))
    wanted_s = max(optimum_s, write_s / WRITING_SHARE)
    interval_steps = min(max(1, math.ceil(wanted_s / job.step_s.value)), job.steps)
    interval_s = max(interval_steps * job.step_s.value, write_s)

    def case(step_s: float, per_device_hour: float) -> _Case:
        mtbf_s = _mtbf_s(job, per_device_hour)
        shares = time_shares(mtbf_s, interval_s, stall_s, restart_s, write_s)
        if shares.useful < LEAST_USEFUL:
            raise PlanError(
                "failures leave the job no time to train",
                found=f"a failure every {mtbf_s:.0f} s, {write_s:.0f} s to write a checkpoint, "
                f"{restart_s:.0f} s to restart",
                do="use fewer devices, faster storage or a shorter restart",
            )
        return _Case(step_s * job.steps / shares.useful, mtbf_s, shares)

    middle = case(job.step_s.value, rate.per_device_hour)
    best, worst = case(job.step_s.low, rate.low), case(job.step_s.high, rate.high)
    hours = Range(*(c.wall_s * job.devices / HOUR_S for c in (middle, best, worst)))
    price = job.device.price(job.usd_per_device_hour)
    return JobView(
        ideal_days=Range(*(step * job.steps / DAY_S for step in asdict(job.step_s).values())),
        days=Range(*(c.wall_s / DAY_S for c in (middle, best, worst))),
        device_hours=hours,
        usd=Range(*((price or 0.0) * of for of in asdict(hours).values())),
        energy_kwh=_energy_kwh(job.device, hours),
        failures=Range(*(c.wall_s / c.mtbf_s for c in (middle, best, worst))),
        mtbf_hours=Range(*(c.mtbf_s / HOUR_S for c in (middle, worst, best))),
        goodput=Range(*(c.shares.useful for c in (middle, worst, best))),
        shares=middle.shares,
        checkpoint_write_s=write_s,
        checkpoint_stall_s=stall_s,
        checkpoint_interval_s=interval_s,
        checkpoint_interval_steps=interval_steps,
        young_interval_s=young_interval_s(stall_s, middle.mtbf_s),
        daly_interval_s=optimum_s,
        checkpoints=math.ceil(job.steps / interval_steps),
        restart_s=restart_s,
        usd_per_device_hour=price,
        assumptions=_assumptions(job, rate, price, restart_s),
        sources=rate.sources,
    )


def _mtbf_s(job: WholeJob, per_device_hour: float) -> float:
    """Mean time between failures of the whole job: any device stops it."""
    return HOUR_S / max(per_device_hour * job.devices, LEAST_FAILURES_PER_HOUR)


def _energy_kwh(device: Device, hours: Range) -> Range:
    """Device-hours times the node's share of power, as it draws it, times the building's."""
    watts = device.power_w + device.host_power_w
    kilowatts = (watts * power * pue / 1e3 for power, pue in zip(POWER_FRACTION, PUE, strict=True))
    energies = (h * kw for h, kw in zip(asdict(hours).values(), kilowatts, strict=True))
    return Range(*energies)


def _assumptions(
    job: WholeJob, rate: FailureRate, price: float | None, restart_s: float
) -> tuple[str, ...]:
    device = job.device
    (power, power_low, power_high), (pue, pue_low, pue_high) = POWER_FRACTION, PUE
    low, high = device.usd_range
    band = f"; on-demand prices of {low:g} to {high:g} are seen" if high else ""
    watts = device.power_w + device.host_power_w
    lines = [
        f"{price:g} USD per device and hour{band}"
        if price is not None
        else "its price is not known, so no money is reckoned: --usd-per-device-hour gives it",
        f"{rate.per_device_hour:.2e} failures per device and hour "
        f"({rate.low:.1e} to {rate.high:.1e} on a cluster not yet seen), at random times",
        f"{restart_s:.0f} s from a failure to training, {RESTART_S:.0f} s of them before "
        "the checkpoint is read; spare devices stand ready",
        f"a node draws {power:g} of its rating ({power_low:g} to {power_high:g}), "
        f"{watts:.0f} W per device; PUE {pue:g} ({pue_low:g} to {pue_high:g})"
        if watts
        else "what it draws is not known, so no energy is reckoned",
    ]
    if device.kind == "tpu":
        lines.append("no counts for TPUs are published: the rate of GPUs is used")
    return tuple(lines)
