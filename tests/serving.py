"""`whorl serve` as a process of its own, as a person starts and stops it."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

__all__ = ["serving"]


@contextmanager
def serving(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> Iterator[str]:
    """The address of the page that it prints; afterwards SIGTERM must end it with status 0."""
    process = subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, text=True, env=dict(environment)
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("page: ")
        yield line.removeprefix("page: ")
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
