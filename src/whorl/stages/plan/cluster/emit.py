"""What runs a chosen job: whorl's launch file, and command lines for torchtitan and Megatron-LM.

Whatever a software cannot express is said in the file's first lines and in `warnings`.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from math import gcd

from whorl.stages.plan.cluster.devices import Device
from whorl.stages.plan.cluster.job import TrainingJob

__all__ = ["Emitted", "batch_warnings", "launch_file", "options", "shell_script", "torchrun"]

LAUNCH_VERSION = 1
WIDEST_HOST = 16  # processes of one host; racks of more devices (NVL72) have hosts of four
RACK_HOST = 4


@dataclass(frozen=True)
class Emitted:
    name: str  # of the file
    text: str
    warnings: tuple[str, ...] = ()  # what could not be expressed


def torchrun(device: Device, devices: int) -> list[str]:
    """torchrun and its own arguments: nodes times processes per node is `devices`."""
    host = device.node_devices if device.node_devices <= WIDEST_HOST else RACK_HOST
    per_host = gcd(devices, host)
    return [
        "torchrun",
        f"--nnodes={devices // per_host}",
        f"--nproc-per-node={per_host}",
        "--rdzv-backend=c10d",
        "--rdzv-endpoint=$MASTER_ADDR:29500",
    ]


def launch_file(job: TrainingJob) -> Emitted:
    """launch.json: version, model, device, batch, precision, layout and torchrun's arguments.

    `layout` has the fields of Layout and dp; batches are in sequences of seq_len tokens.
    """
    layout = job.layout
    content = {
        "version": LAUNCH_VERSION,
        "model": job.shape.name,
        "device": job.device.name,
        "seq_len": job.seq_len,
        "global_batch": job.global_batch,
        "micro_batches": job.micro_batches,
        "tokens_per_step": job.tokens_per_step,
        "precision": job.precision,
        "optimizer": job.optimizer,
        "layout": {"dp": layout.dp, **asdict(layout)},
        "torchrun": torchrun(job.device, layout.devices),
    }
    return Emitted("launch.json", json.dumps(content, indent=2) + "\n", batch_warnings(job))


def batch_warnings(job: TrainingJob) -> tuple[str, ...]:
    """A batch that the ranks cannot share evenly is not what a software would run."""
    passes = job.layout.dp * job.layout.micro_batch
    if job.global_batch % passes == 0:
        return ()
    return (
        f"a global batch of {job.global_batch} is not a multiple of dp {job.layout.dp} x "
        f"micro-batch {job.layout.micro_batch}",
    )


def shell_script(
    name: str, notes: list[str], warnings: list[str], words: list[str], environment: str = ""
) -> Emitted:
    """A script of one command, an option a line; notes and warnings lead as comments."""
    lines = [
        "#!/bin/sh",
        *(f"# {note}" for note in notes),
        *(f"# WARNING: {warning}" for warning in warnings),
    ]
    if environment:
        lines.append(f"export {environment}")
    grouped: list[str] = []
    for word in words:
        value = grouped and grouped[-1].startswith("-") and " " not in grouped[-1]
        if value and not word.startswith("-") and ":" not in word:
            grouped[-1] += f" {_quoted(word)}"
        else:
            grouped.append(_quoted(word))
    return Emitted(name, "\n".join(lines) + "\n" + " \\\n  ".join(grouped) + "\n", tuple(warnings))


def options(section: str = "", **values: object) -> list[str]:
    """--name value of each that is not None, or --section.name value."""
    values = {key: value for key, value in values.items() if value is not None}
    names = {key: f"{section}.{key}" if section else key.replace("_", "-") for key in values}
    return [word for key, value in values.items() for word in (f"--{names[key]}", str(value))]


def _quoted(word: str) -> str:
    """Plain words as they are; others in double quotes, so that a $NAME is still replaced."""
    plain = all(letter.isalnum() or letter in "-_=./:,+" for letter in word)
    return word if plain and word else f'"{word}"'
