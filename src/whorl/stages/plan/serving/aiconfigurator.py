"""NVIDIA's aiconfigurator, when it is installed: its command is run and its table is read.

Version 0.12.0 (Apache-2.0) searches its own measured kernel tables and takes about ten seconds.
"""

from __future__ import annotations

import csv
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from whorl.core.errors import PlanError
from whorl.stages.plan.cluster.devices import Device
from whorl.stages.plan.facts import fact
from whorl.stages.plan.serving.target import ServingTarget

__all__ = ["SYSTEMS", "best_configuration", "covers"]

COMMAND = "aiconfigurator"
SYSTEMS: Mapping[str, str] = fact("systems")
TIMEOUT_S = 300
NEEDED = ("concurrency", "num_total_gpus", "ttft", "tpot", "backend", "gemm", "parallel", "version")


def covers(device: Device) -> bool:
    """The command is on PATH and its tables have this device."""
    return device.name in SYSTEMS and shutil.which(COMMAND) is not None


def best_configuration(
    model_path: str, device: Device, target: ServingTarget
) -> dict[str, str] | None:
    """First row of its best single-pool configurations; None where its tables lack the model.

    Raises PlanError if the command does not end or writes a table without the columns we read.
    """
    with tempfile.TemporaryDirectory(prefix="whorl-aiconfigurator-") as folder:
        command = [COMMAND, "cli", "default", "--no-color", "--top-n", "1", "--strict-sla"]
        command += ["--model-path", model_path, "--system", SYSTEMS[device.name]]
        command += ["--backend", "auto", "--serving-mode", "agg", "--save-dir", folder]
        command += ["--total-gpus", str(device.node_devices)]
        command += ["--isl", str(target.input_tokens), "--osl", str(target.output_tokens)]
        command += ["--ttft", f"{1e3 * target.first_token_p95_s:.3f}"]
        command += ["--tpot", f"{1e3 / target.tokens_per_s_per_user:.3f}"]
        try:
            subprocess.run(command, capture_output=True, timeout=TIMEOUT_S, check=False)
        except subprocess.TimeoutExpired as error:
            raise PlanError(
                f"{COMMAND} did not end", found=f"{TIMEOUT_S} s", do="plan without it"
            ) from error
        rows = [_first(path) for path in sorted(Path(folder).rglob("best_config_topn.csv"))]
    good = [row for row in rows if row]
    for row in good:
        missing = [name for name in NEEDED if name not in row]
        if missing:
            raise PlanError(
                f"{COMMAND} wrote a table without columns we read",
                found=f"no {', '.join(missing)}",
                do="install aiconfigurator 0.12, or plan without it",
            )
    return max(good, key=lambda row: float(row.get("tokens/s/gpu", 0)), default=None)


def _first(path: Path) -> dict[str, str]:
    with path.open(encoding="utf-8", newline="") as lines:
        return next(iter(csv.DictReader(lines)), {})
