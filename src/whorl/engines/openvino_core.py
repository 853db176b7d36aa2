"""OpenVINO's runtime: one for a process, kept until the process ends.

On a CPU with AMX, OpenVINO (2026.4) gives the thread that first loads its CPU plugin a stack for
signals, and frees that memory in whichever thread lets the plugin go. The first thread keeps the
address, so the next Ctrl-C ends the process with SIGSEGV. A plugin that is never let go frees
nothing.
"""

from __future__ import annotations

import functools
from typing import Any

__all__ = ["openvino_core"]


@functools.cache
def openvino_core() -> Any:
    """The `openvino.Core` of this process, its CPU plugin loaded."""
    import openvino

    core = openvino.Core()
    core.get_property("CPU", "FULL_DEVICE_NAME")  # loads the plugin, in the thread that asks first
    return core
