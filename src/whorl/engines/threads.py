"""How many threads an engine computes with: a core each, of the fast ones, within the quota.

A second thread of the same core and the slow cores of a hybrid processor make every step wait for
them; threads beyond a container's quota are halted in the middle of a step.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

__all__ = ["Processor", "engine_threads", "performance_threads", "read_processors"]

SYSFS, CGROUP = Path("/sys/devices/system/cpu"), Path("/sys/fs/cgroup")
SLOW = 0.8  # of the fastest core's speed: below, a core is one of those that save power


@dataclass(frozen=True)
class Processor:
    """A processor of the operating system: a thread of a core."""

    number: int
    core: tuple[int, int]  # package, core in it
    speed: float  # in whatever unit all of them have; 0: not known


def performance_threads(processors: Iterable[Processor], quota: float | None = None) -> int:
    """Cores that are not slow ones, and no more than whole processors of the quota; at least 1.

    quota: processors' worth of time that this process may use; None: no limit.
    """
    speeds: dict[tuple[int, int], float] = {}
    for each in processors:
        speeds[each.core] = max(each.speed, speeds.get(each.core, 0.0))
    fastest = max(speeds.values(), default=0.0)
    count = sum(speed >= SLOW * fastest for speed in speeds.values())
    return max(1, count if quota is None else min(count, int(quota)))


def engine_threads() -> int:
    """The same of this process on this machine."""
    return performance_threads(read_processors(), _quota())


def read_processors(sysfs: Path = SYSFS) -> list[Processor]:
    """Those this process may run on; where the system does not tell of cores, each is one."""
    try:
        numbers = sorted(os.sched_getaffinity(0))
    except AttributeError:  # not on this system
        numbers = list(range(psutil.cpu_count(logical=False) or os.cpu_count() or 1))
    return [_read(sysfs / f"cpu{number}", number) for number in numbers]


def _read(folder: Path, number: int) -> Processor:
    package = _number(folder / "topology/physical_package_id")
    core = _number(folder / "topology/core_id")
    capacity = _number(folder / "cpu_capacity")  # of Arm; of others the highest clock
    speed = _number(folder / "cpufreq/cpuinfo_max_freq") if capacity is None else capacity
    known = package is not None and core is not None
    place = (package or 0, core or 0) if known else (-1, number)
    return Processor(number, place, float(speed or 0))


def _quota(cgroup: Path = CGROUP) -> float | None:
    quota, _, period = _line(cgroup / "cpu.max").partition(" ")
    if quota.isdigit() and period.isdigit() and int(period) > 0:
        return int(quota) / int(period)
    return None


def _number(path: Path) -> int | None:
    text = _line(path)
    return int(text) if text.lstrip("-").isdigit() else None


def _line(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
