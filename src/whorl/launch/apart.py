"""A module's `main` in a process of its own, which a deadline ends whatever it is doing.

It leads a session: what it starts ends with it, and where the system shares the processor among
sessions first (Linux's autogroup) twenty busy processes of another session leave it half.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from whorl.core.children import end_with_parent

__all__ = ["Ran", "given", "run_apart"]


@dataclass(frozen=True)
class Ran:
    """What such a process said. code: as subprocess has it; None: the deadline ended it."""

    out: str
    errors: str
    code: int | None

    @property
    def last_words(self) -> str:
        """Why it ended."""
        lines = [line.strip() for line in self.errors.splitlines() if line.strip()]
        if self.code is not None and self.code < 0:
            return lines[-1] if lines else f"its process ended by signal {-self.code}"
        return lines[-1] if lines else f"its process ended with {self.code}"


def run_apart(module: str, work: Mapping[str, Any], limit_s: float, **environment: str) -> Ran:
    """`python -m module`, which finds the work by `given`; what it printed until limit_s."""
    process = subprocess.Popen(
        [sys.executable, "-m", module],
        env=os.environ | environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    said = json.dumps({**work, "parent": os.getpid()})
    try:
        out, errors = process.communicate(said, timeout=limit_s)
    except BaseException as error:
        os.killpg(process.pid, signal.SIGKILL)
        out, errors = process.communicate()
        if not isinstance(error, subprocess.TimeoutExpired):
            raise
        return Ran(out, errors, None)
    return Ran(out, errors, process.returncode)


def given() -> dict[str, Any]:
    """In such a process: its work. From now on it ends with the one that began it."""
    work: dict[str, Any] = json.load(sys.stdin)
    end_with_parent(work.pop("parent"))
    return work
