"""OpenVINO's runtime, and how it is kept from breaking Ctrl-C.

On a CPU with AMX, OpenVINO (2026.4) gives the thread that loads its CPU plugin a stack for signals,
and takes it back in whichever thread lets the plugin go, leaving the address of memory that may be
gone: then the next Ctrl-C ends the process with SIGSEGV. Every Core and every pipeline of GenAI
loads a plugin of its own. Signals are answered by the main thread, so they are opened in others.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from whorl.core.later import later
from whorl.engines.quiet import load_openvino

__all__ = ["in_own_thread", "openvino_core"]

P = ParamSpec("P")
T = TypeVar("T")


def in_own_thread(function: Callable[P, T]) -> Callable[P, T]:
    """The function, which loads OpenVINO's plugin, run by a fresh thread while the caller waits."""

    @functools.wraps(function)
    def call(*arguments: P.args, **options: P.kwargs) -> T:
        return later(function, *arguments, **options).result()

    return call


@functools.cache
@in_own_thread
def openvino_core() -> Any:
    """The `openvino.Core` of this process, its CPU plugin loaded."""
    core = load_openvino().Core()
    core.get_property("CPU", "FULL_DEVICE_NAME")  # loads the plugin
    return core
