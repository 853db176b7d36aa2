"""The loss of an output head where the number of trained tokens changes from step to step.

    python benchmarks/head_rows.py

Every micro-batch of a training on chats or packed documents trains another number of tokens. Rows
of products are filled up to a multiple (whorl.model.padding); beside it the same without. Each side
runs in a process of its own, in turns: milliseconds of a forward and backward pass, and how much
the process has grown.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from typing import Any

from rich.console import Console
from rich.table import Table

WIDTH, VOCAB, TOKENS, MOST_UNTRAINED = 96, 2048, 1024, 400
SIDES = {"filled up": None, "as they come": 1}
DTYPES = ("bfloat16", "float32")


def work(dtype: str, multiple: int | None, steps: int) -> dict[str, float]:
    """One side, in this process."""
    import psutil
    import torch

    from whorl.model import padding
    from whorl.model.head import head_loss

    if multiple is not None:
        padding.ROWS_MULTIPLE = multiple
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(VOCAB, WIDTH, generator=generator).requires_grad_()
    hidden = torch.randn(TOKENS, WIDTH, generator=generator).to(getattr(torch, dtype))
    hidden.requires_grad_()
    seconds, process, before = [], psutil.Process(), 0
    for step in range(steps):
        targets = torch.randint(0, VOCAB, (TOKENS,), generator=generator)
        targets[: int(torch.randint(1, MOST_UNTRAINED, (1,), generator=generator))] = -1
        begin_s = time.process_time()
        head_loss(hidden, weight, targets).backward()
        seconds.append(time.process_time() - begin_s)
        hidden.grad = weight.grad = None
        before = before if step else process.memory_info().rss
    grown = process.memory_info().rss - before
    return {"ms": 1000 * statistics.median(seconds), "grown_mib": grown / 2**20}


def measured(dtype: str, side: str, steps: int) -> dict[str, float]:
    given = json.dumps([dtype, SIDES[side], steps])
    command = [sys.executable, __file__, "--work", given]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=400, help="of each turn")
    parser.add_argument("--rounds", type=int, default=2, help="turns each side takes")
    parser.add_argument("--json", action="store_true", help="one document on standard output")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        print(json.dumps(work(*json.loads(given.work))))
        return
    rows: list[dict[str, Any]] = []
    for dtype in DTYPES:
        turns = [{s: measured(dtype, s, given.steps) for s in SIDES} for _ in range(given.rounds)]
        for side in SIDES:
            figures = {k: statistics.median(t[side][k] for t in turns) for k in ("ms", "grown_mib")}
            rows.append({"dtype": dtype, "rows": side, **figures})
    if given.json:
        print(json.dumps({"rows": rows}))
        return
    table = Table("products in", "rows", "ms a step", "MiB grown")
    for row in rows:
        table.add_row(row["dtype"], row["rows"], f"{row['ms']:.1f}", f"{row['grown_mib']:.0f}")
    Console().print(table)


if __name__ == "__main__":
    main()
