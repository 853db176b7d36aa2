"""Training speed: whorl's step beside transformers' model with fused AdamW, on this machine.

    python benchmarks/train.py --shapes 4x96 4x128 6x384 12x768 --json

Each side trains the same shape on the same made-up rows in a process of its own; they take turns,
and each figure is a median over all steps. whorl runs as it would plan here: its default optimiser,
and the lanes and dtypes that calibration found fastest. The peer runs in float32 with all cores
and, where products in bfloat16 are faster here, under autocast too; the faster of the two counts.
"beside" is the mean step beside one busy process. Run it on a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from whorl.arch.architecture import Architecture
from whorl.arch.counts import count_flops
from whorl.core.memory import peak_resident_bytes
from whorl.launch.machine import machine_facts
from whorl.spec.resolved import TrainConfig

SEQ_LEN = 256
# name -> (layers, width, head_dim, vocabulary, rows of a step)
SHAPES = {
    "4x96": (4, 96, 32, 1024, 8),
    "4x128": (4, 128, 64, 2048, 8),
    "6x384": (6, 384, 64, 8192, 16),
    "12x768": (12, 768, 64, 8192, 16),
}
PEAK_SIZE = 2048


def architecture_of(name: str) -> Architecture:
    layers, width, head_dim, vocab_size, _ = SHAPES[name]
    heads = width // head_dim
    return Architecture(
        layers=layers,
        width=width,
        heads=heads,
        kv_heads=heads,
        head_dim=head_dim,
        ffn_width=3 * width,
        vocab_size=vocab_size,
        max_seq_len=SEQ_LEN,
    )


# ------------------------------------------------------------------ one side, in its own process


def whorl_step(name: str, settings: dict[str, Any]) -> Callable[[], object]:
    """One more step of whorl's trainer; settings: of TrainConfig."""
    from whorl.launch.rehearsal import rehearsed_step
    from whorl.stages.train.process import training_process

    rows = SHAPES[name][-1]
    config = TrainConfig(
        seq_len=SEQ_LEN,
        batch_tokens=rows * SEQ_LEN,
        micro_batch_rows=max(1, rows // settings.get("lanes", 1)),
        steps=1000,
        learning_rate=0.001,
        embedding_learning_rate=0.001,
        **settings,
    )
    training_process(config).__enter__()
    return rehearsed_step(architecture_of(name), config)


def peer_step(name: str, settings: dict[str, Any]) -> Callable[[], object]:
    """One more step of transformers' Qwen3 with torch's fused AdamW and clipping."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.set_num_threads(settings["threads"])
    a, rows = architecture_of(name), SHAPES[name][-1]
    config = Qwen3Config(
        vocab_size=a.vocab_size,
        hidden_size=a.width,
        intermediate_size=a.ffn_width,
        num_hidden_layers=a.layers,
        num_attention_heads=a.heads,
        num_key_value_heads=a.kv_heads,
        head_dim=a.head_dim,
        tie_word_embeddings=True,
        use_cache=False,
    )
    model = Qwen3ForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    ids = torch.randint(a.vocab_size, (rows, SEQ_LEN), generator=torch.Generator().manual_seed(0))

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=settings["autocast"]):
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def work(side: str, name: str, settings: dict[str, Any]) -> None:
    """Answer each line of standard input (seconds) with the times of as many steps as fit."""
    step = (whorl_step if side == "whorl" else peer_step)(name, settings)
    step()
    for line in sys.stdin:
        seconds, times = float(line), []
        begin = time.perf_counter()
        while not times or time.perf_counter() - begin < seconds:
            start = time.perf_counter()
            step()
            times.append(time.perf_counter() - start)
        print(json.dumps({"times": times, "peak_bytes": peak_resident_bytes()}), flush=True)


class Side:
    """A worker process, and the times of all its steps."""

    def __init__(self, side: str, name: str, settings: dict[str, Any]) -> None:
        self.label = side if side == "whorl" else f"transformers {settings['dtype']}"
        passed = {key: value for key, value in settings.items() if key != "dtype"}
        command = [sys.executable, __file__, "--worker", side, name, json.dumps(passed)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.times: list[float] = []
        self.beside: list[float] = []  # of steps beside a busy process
        self.peak_bytes = 0

    def run(self, seconds: float, beside: bool = False) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(f"{seconds}\n")
        self.process.stdin.flush()
        found = json.loads(self.process.stdout.readline())
        (self.beside if beside else self.times).extend(found["times"])
        self.peak_bytes = found["peak_bytes"]

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


# ------------------------------------------------------------------ all of them


def matmul_peak() -> float:
    """FLOP/s of large float32 products on all cores, the fastest of ten."""
    import torch

    x = torch.randn(PEAK_SIZE, PEAK_SIZE)
    seconds = []
    for _ in range(10):
        start = time.perf_counter()
        x @ x
        seconds.append(time.perf_counter() - start)
    return 2.0 * PEAK_SIZE**3 / min(seconds)


@contextmanager
def busy_process() -> Iterator[None]:
    """A process that computes without end, stopped afterwards."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def has_fast_bf16() -> bool:
    """Whether products in bfloat16 take less time here than in float32."""
    import torch

    def seconds(dtype: torch.dtype) -> float:
        x = torch.randn(384, 384).to(dtype)
        x @ x
        start = time.perf_counter()
        x @ x
        return time.perf_counter() - start

    return seconds(torch.bfloat16) < seconds(torch.float32)


def compare(name: str, ours: dict[str, Any], rounds: int, seconds: float, peak: float) -> Any:
    facts = machine_facts()
    sides = [Side("whorl", name, ours)]
    for dtype in ("float32", "bfloat16") if has_fast_bf16() else ("float32",):
        settings = {"threads": facts.cores, "autocast": dtype == "bfloat16", "dtype": dtype}
        sides.append(Side("transformers", name, settings))
    for _ in range(rounds):
        for side in sides:
            side.run(seconds)
    with busy_process():
        for side in sides:
            side.run(seconds, beside=True)
    tokens = SHAPES[name][-1] * SEQ_LEN
    flops = count_flops(architecture_of(name), SEQ_LEN).training
    rows = []
    for side in sides:
        side.close()
        step_s = statistics.median(side.times)
        rows.append(
            {
                "side": side.label,
                "tokens_per_s": round(tokens / step_s, 1),
                "share_of_matmul_peak": round(flops * tokens / step_s / peak, 3),
                "peak_mib": round(side.peak_bytes / 2**20, 1),
                "beside_busy": round(statistics.fmean(side.beside) / step_s, 2),
            }
        )
    mine, peer = rows[0], max(rows[1:], key=lambda row: row["tokens_per_s"])
    ratio = round(mine["tokens_per_s"] / peer["tokens_per_s"], 3)
    return {"shape": name, "peer": "transformers", "ratio": ratio, "tokens": tokens, "sides": rows}


def settings_here(home: Path) -> dict[str, Any]:
    """What the plan takes on this machine."""
    from whorl.launch.calibrate import this_machine

    return this_machine(home).calibration.settings


def show(found: dict[str, Any]) -> None:
    table = Table(title=f"training, {found['cpu']}, whorl with {found['settings']}")
    for column in ("shape", "side", "tokens/s", "of matmul peak", "peak memory", "beside", "ratio"):
        table.add_column(column)
    for row in found["rows"]:
        for number, side in enumerate(row["sides"]):
            table.add_row(
                row["shape"] if not number else "",
                side["side"],
                f"{side['tokens_per_s']:,.0f}",
                f"{side['share_of_matmul_peak']:.0%}",
                f"{side['peak_mib']:,.0f} MiB",
                f"{side['beside_busy']:.1f}x slower",
                f"{row['ratio']:.2f}x" if not number else "",
            )
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--rounds", type=int, default=5, help="turns each side takes")
    parser.add_argument("--seconds", type=float, default=3.0, help="of one turn")
    parser.add_argument("--home", type=Path, default=Path("runs"), help="where calibration is kept")
    parser.add_argument("--set", nargs="*", default=[], help="settings instead of the plan's")
    parser.add_argument("--json", action="store_true", help="one document on standard output")
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        work(given.worker[0], given.worker[1], json.loads(given.worker[2]))
        return
    settings = settings_here(given.home) if not given.set else {}
    for entry in given.set:
        key, _, value = entry.partition("=")
        settings[key] = int(value) if value.isdigit() else value
    peak = matmul_peak()
    rows = [compare(name, settings, given.rounds, given.seconds, peak) for name in given.shapes]
    found = {
        "cpu": machine_facts().cpu,
        "settings": settings,
        "matmul_peak_gflops": round(peak / 1e9, 1),
        "rows": rows,
    }
    if given.json:
        print(json.dumps(found))
    else:
        show(found)


if __name__ == "__main__":
    main()
