"""Processes that whorl starts: they end with it, however it ends, and Ctrl-C is its to answer."""

from __future__ import annotations

import atexit
import importlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from typing import Any, Protocol

import psutil

__all__ = [
    "SWITCH_S",
    "Child",
    "begin",
    "end_children",
    "end_with_parent",
    "spawning",
    "start_child",
    "start_early",
    "taken_early",
]

# How often threads change places in a process that speaks with another: Python's own 5 ms between
# who reads lines and who computes, or answers, are the start of an answer (docs/log.md).
SWITCH_S = 0.0002

LOOK_EVERY_S = 0.5
WAIT_S = 0.5  # for killed processes to be gone
# By function: begun before anyone knew what to ask them, which one process does at most once.
EARLY: dict[str, subprocess.Popen[str]] = {}


class Child(Protocol):
    """What is used of a `Popen` that reads and writes lines; such a process may be elsewhere."""

    stdin: Any
    stdout: Any

    @property
    def pid(self) -> int: ...

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code. Raises subprocess.TimeoutExpired."""
        ...

    def kill(self) -> None: ...


def end_with_parent(parent_pid: int) -> None:
    """From now on this process, and its group if it leads one, ends when its parent has ended."""

    def watch() -> None:
        while os.getppid() == parent_pid:
            time.sleep(LOOK_EVERY_S)
        if os.getpgrp() == os.getpid():
            os.killpg(os.getpid(), signal.SIGKILL)
        os._exit(1)

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()


def start_child(function: str, stderr: int | None = None) -> subprocess.Popen[str]:
    """A Python of its own that calls "module:function", which reads and writes lines.

    It finds what this one finds (`sys.path`), does not hear Ctrl-C, and ends with this process,
    also where this one is killed. stderr: as of Popen; None: this one's.
    """
    command = "import sys; from whorl.core.children import begin; begin(*sys.argv[1:])"
    with spawning():
        return subprocess.Popen(
            [sys.executable, "-c", command, str(os.getpid()), function],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            start_new_session=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(path or "." for path in sys.path)},
            text=True,
            encoding="utf-8",
        )


def start_early(function: str) -> None:
    """Begin a child for one that `taken_early` is asked for later: it loads modules meanwhile.

    Where nobody asks, it is killed when this process ends by itself, and else ends as all others.
    """
    EARLY[function] = start_child(function)
    atexit.register(_end_early)


def _end_early() -> None:
    """Whoever reads what this process says waits for the end of every child that could say more."""
    for child in list(EARLY.values()):
        child.kill()


def taken_early(function: str) -> subprocess.Popen[str] | None:
    """The child that was begun early, once; None: there is none, or it has ended."""
    child = EARLY.pop(function, None)
    if child is not None and child.poll() is not None:
        with child:  # its pipes are closed
            return None
    return child


def begin(parent_pid: str, function: str) -> None:
    """The child's side of `start_child`."""
    end_with_parent(int(parent_pid))
    module, _, name = function.partition(":")
    getattr(importlib.import_module(module), name)()


@contextmanager
def spawning() -> Iterator[None]:
    """Processes started within do not hear Ctrl-C before they can say what it means to them.

    The terminal sends it to all; one that is still importing would die of it, with a traceback.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # or its start would lift the mask
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_children() -> None:
    """Kills the processes that this one started, and theirs."""
    try:
        children = psutil.Process().children(recursive=True)
    except psutil.Error:
        return
    for child in children:
        try:
            child.kill()
        except psutil.Error:
            continue
    psutil.wait_procs(children, timeout=WAIT_S)
