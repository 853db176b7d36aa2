"""The command in a process of its own, as a terminal starts it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["start_whorl"]


def start_whorl(
    *arguments: str, cwd: Path, variables: Mapping[str, str] | None = None, **options: Any
) -> subprocess.Popen[bytes]:
    """Both outputs are pipes unless options say otherwise; the home is cwd/runs."""
    environment = {**os.environ, "WHORL_HOME": str(cwd / "runs"), **(variables or {})}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    command = [sys.executable, "-m", "whorl", *arguments]
    return subprocess.Popen(command, cwd=cwd, env=environment, **{**pipes, **options})
