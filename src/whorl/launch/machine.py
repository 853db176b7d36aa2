"""Facts of this machine, read without torch: cores and memory this process may use."""

from __future__ import annotations

import os
from pathlib import Path

import psutil

from whorl.core.processor import CPUINFO, TORCH_LIMIT, processor
from whorl.stages.plan.hardware import MachineFacts

__all__ = ["machine_facts"]

CGROUP = Path("/sys/fs/cgroup")
NO_BF16 = ("default", "avx2")


def machine_facts(cgroup: Path = CGROUP, cpuinfo: Path = CPUINFO) -> MachineFacts:
    """Cores by affinity and container quota, memory by container limit, whichever is less."""
    model, flags = processor(cpuinfo)
    if limit := os.environ.get(TORCH_LIMIT, "").lower():
        model = f"{model}, limited to {limit}"
        flags = frozenset() if limit in NO_BF16 else flags
    cores = _cores(cgroup)
    return MachineFacts(
        cpu=model,
        cores=cores,
        physical_cores=min(cores, psutil.cpu_count(logical=False) or cores),
        memory_bytes=_memory_bytes(cgroup),
        bf16=bool(flags & {"avx512_bf16", "amx_bf16", "bf16"}),
    )


def _cores(cgroup: Path) -> int:
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on this system
        cores = os.cpu_count() or 1
    quota, _, period = _first_line(cgroup / "cpu.max").partition(" ")
    if quota.isdigit() and period.isdigit() and int(period) > 0:
        cores = min(cores, max(1, int(quota) // int(period)))
    return cores


def _memory_bytes(cgroup: Path) -> int:
    memory_bytes = int(psutil.virtual_memory().total)
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        limit = _first_line(cgroup / name)
        if limit.isdigit() and int(limit) > 0:
            memory_bytes = min(memory_bytes, int(limit))
    return memory_bytes


def _first_line(path: Path) -> str:
    try:
        return path.read_text().partition("\n")[0].strip()
    except OSError:
        return ""
