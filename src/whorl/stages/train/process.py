"""What training sets in its process: threads, memory, determinism; and what it notes of them."""

from __future__ import annotations

import gc
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from whorl.core.errors import SpecError
from whorl.core.memory import c_library, give_back, peak_resident_bytes, restart_peak
from whorl.spec.resolved import TrainConfig

__all__ = ["environment", "peak_memory_bytes", "training_process"]

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # of glibc's mallopt
CACHE = "TORCHINDUCTOR_CACHE_DIR"  # torch's variable
KEEP_BELOW_BYTES, NEVER_TRIM = 2**30, 2**31 - 1


@contextmanager
def training_process(
    config: TrainConfig, compiled_folder: Path | None = None
) -> Iterator[torch.device]:
    """Threads and determinism as configured, put back at the end; gives the device.

    compiled_folder: where compiled code is kept for other runs, unless the environment says.
    Raises SpecError if the device is not there.
    """
    if config.device == "cuda" and not torch.cuda.is_available():
        raise SpecError(
            "train.device is cuda",
            found="no CUDA device, or a torch without CUDA",
            do="set train.device=cpu, or install a CUDA build of torch",
        )
    threads = torch.get_num_threads()
    determinism = torch.get_deterministic_debug_mode()
    filled = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what CUDA's determinism needs
    cache = os.environ.get(CACHE)
    if compiled_folder is not None and cache is None:
        os.environ[CACHE] = str(compiled_folder)
    _keep_memory()
    restart_peak()
    try:
        torch.set_num_threads(config.threads)
        torch.set_flush_denormal(True)
        torch.set_deterministic_debug_mode("error")  # use_deterministic… would load a compiler
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        yield torch.device(config.device)
    finally:
        if cache is None:
            os.environ.pop(CACHE, None)
        torch.set_num_threads(threads)
        torch.set_flush_denormal(False)
        torch.set_deterministic_debug_mode(determinism)
        torch.utils.deterministic.fill_uninitialized_memory = filled  # type: ignore[attr-defined]


def _keep_memory() -> None:
    """Forget what fields remember of sources and give back what earlier stages freed. Then let
    glibc keep freed tensors, from now on: no page faults in every step (the loss runs 2 to 4 times
    faster on a CPU). Without glibc it is only forgotten."""
    gc.collect()
    give_back()
    if (library := c_library()) is not None:
        library.mallopt(M_ARENA_MAX, 1)  # or each lane keeps what it once freed
        library.mallopt(M_MMAP_THRESHOLD, KEEP_BELOW_BYTES)
        library.mallopt(M_TRIM_THRESHOLD, NEVER_TRIM)


def peak_memory_bytes(device: torch.device) -> dict[str, int]:
    """Peak resident bytes since training began, and of the device's allocator if it has one."""
    peak = {"process": peak_resident_bytes()}
    if device.type == "cuda":
        peak["device"] = torch.cuda.max_memory_allocated(device)
    return peak


def environment(device: torch.device) -> dict[str, Any]:
    """Versions and hardware that rounding may depend on."""
    on_cuda = device.type == "cuda"
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(device) if on_cuda else "cpu",
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "cpu_count": os.cpu_count(),
    }
