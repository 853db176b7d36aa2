"""What kind of processor this is, and what it rounds by: kernels are chosen by its instructions."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

__all__ = ["CPUINFO", "ONEDNN_LIMITS", "TORCH_LIMIT", "instructions", "processor"]

CPUINFO = Path("/proc/cpuinfo")
# Variables that hide instructions of the processor: from torch, and from a library below OpenVINO.
TORCH_LIMIT, ONEDNN_LIMITS = "ATEN_CPU_CAPABILITY", ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
OF_VECTORS = re.compile(r"sse|avx|fma|f16c|amx|asimd|bf16|i8mm|sve|sme|fphp")


def processor(cpuinfo: Path = CPUINFO) -> tuple[str, frozenset[str]]:
    """(model name, flags) of the first processor; what Python knows where /proc is missing."""
    found: dict[str, str] = {}
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        key, _, value = line.partition(":")
        found.setdefault(key.strip().lower(), value.strip())
    model = found.get("model name") or platform.processor() or platform.machine()
    return model, frozenset((found.get("flags") or found.get("features") or "").split())


def instructions(cpuinfo: Path = CPUINFO) -> list[str]:
    """Equal where the same products are rounded alike: the processor's model, its instructions for
    vectors and matrices, and the variables that hide some of them."""
    model, flags = processor(cpuinfo)
    hidden = [f"{name}={os.environ.get(name, '')}" for name in (TORCH_LIMIT, *ONEDNN_LIMITS)]
    return [model, *sorted(flag for flag in flags if OF_VECTORS.search(flag)), *hidden]
