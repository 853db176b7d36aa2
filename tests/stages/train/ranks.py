"""A tiny training, and one rank of it: python -m tests.stages.train.ranks JSON, by torchrun."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist

from tests.stages.train.work import config, tiny_shape
from whorl.core.context import StageContext
from whorl.core.errors import Interrupted
from whorl.core.records import Record, RecordStore
from whorl.stages.train.parallel.fsdp import FullyShardedData
from whorl.stages.train.ports import Parallel
from whorl.stages.train.run import run


class StopsAt:
    """Progress that signals its own process after so many steps of a training from the start."""

    def __init__(self, step: int) -> None:
        self.left = step

    def start(self, label: str, total: float | None, unit: str = "") -> None:
        self.left = 0 if "from step" in label else self.left

    def advance(self, amount: float = 1.0, note: str = "") -> None:
        self.left -= 1
        if self.left == 0:
            signal.raise_signal(signal.SIGTERM)

    def finish(self, note: str = "") -> None:
        pass


def train(given: Mapping[str, Any], parallel: Parallel) -> bool:
    """Whether it was stopped."""
    store = RecordStore(Path(given["home"]), "tiny")
    context = StageContext(store, progress=StopsAt(given["stop_at"] if parallel.is_main else 0))
    prepared = Record.load(Path(given["prepared"]))
    try:
        run(context, tiny_shape(), config(**given["settings"]), prepared, {}, parallel)
    except Interrupted:
        return True
    return False


def main() -> None:
    given = json.loads(sys.argv[1])
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    if train(given, FullyShardedData()):
        print("stopped")
    dist.barrier()  # none ends while another still talks to it
    dist.destroy_process_group()
    sys.stdout.flush()
    os._exit(0)  # gloo's threads are not always gone when the interpreter is taken down


if __name__ == "__main__":
    main()
