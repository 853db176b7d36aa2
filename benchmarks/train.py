"""Training speed: whorl's step beside transformers' model with fused AdamW, on this machine.

    python benchmarks/train.py --shapes 4x96 4x128 6x384 12x768 --json

Each side trains the same shape on the same made-up rows in a process of its own; they take turns.
A step is so many micro-batches of at most 4,096 tokens and one update; both are timed, medians over
all turns, and tokens/s is those of a step over its micro-batches' and its update's seconds. A step
has the tokens that plan takes for 20 tokens a parameter, unless --step-tokens says otherwise.

whorl runs as it would plan a long training here: its default optimiser, and the lanes, dtypes and
compiled blocks that calibration found fastest (compiling is not timed). The peer runs in float32
with all cores and, where products in bfloat16 are faster here, under autocast too; the faster of
the two counts. "beside" is how much slower micro-batches are, on average, beside one busy process.
Run it on a quiet machine.
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

import plan_accuracy
import yaml
from rich.console import Console
from rich.table import Table

from whorl.arch.shape import ModelShape
from whorl.arch.shape_counts import count_shape, flops_per_token
from whorl.core.memory import peak_resident_bytes
from whorl.launch.machine import machine_facts
from whorl.spec.resolved import TrainConfig
from whorl.stages.plan import rules

SEQ_LEN = 256
# name -> (layers, width, head_dim, vocabulary)
SHAPES = {
    "4x96": (4, 96, 32, 1024),
    "4x128": (4, 128, 64, 2048),
    "6x384": (6, 384, 64, 8192),
    "12x768": (12, 768, 64, 8192),
}
PEAK_SIZE = 2048
TOKENS_PER_PARAMETER = 20


def shape_of(name: str) -> ModelShape:
    layers, width, head_dim, vocab_size = SHAPES[name]
    return plan_accuracy.shape_of((layers, width, head_dim, 3 * width, vocab_size, SEQ_LEN))


def step_tokens_of(name: str) -> int:
    """What plan takes for 20 tokens a parameter."""
    parameters = count_shape(shape_of(name)).total
    return rules.batch_tokens(TOKENS_PER_PARAMETER * parameters, SEQ_LEN)


# ------------------------------------------------------------------ one side, in its own process

KEPT: list[Any] = []  # contexts that last as long as the process
Work = tuple[Callable[[], object], Callable[[], object]]  # a micro-batch's gradients, an update


def whorl_work(name: str, rows: int, settings: dict[str, Any]) -> Work:
    """Of whorl's trainer; settings: of TrainConfig."""
    from whorl.launch.rehearsal import rehearsed
    from whorl.stages.train.process import training_process

    lanes = min(settings.get("lanes", 1), rows)
    config = TrainConfig(
        seq_len=SEQ_LEN,
        batch_tokens=rows * SEQ_LEN,
        micro_batch_rows=-(-rows // lanes),
        steps=1000,
        learning_rate=0.001,
        embedding_learning_rate=0.001,
        **settings,
    )
    KEPT.append(process := training_process(config))
    process.__enter__()
    trainer, batch = rehearsed(shape_of(name), config)

    def update() -> None:
        trainer.clip()
        trainer.lanes.run(trainer.optimizer.work(1.0, trainer.lanes.count))

    return lambda: trainer.gradients(batch, batch.trained_tokens), update


def peer_work(name: str, rows: int, settings: dict[str, Any]) -> Work:
    """Of transformers' Qwen3 with torch's fused AdamW and clipping."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.set_num_threads(settings["threads"])
    a = shape_of(name)
    config = Qwen3Config(
        vocab_size=a.vocab_size,
        hidden_size=a.width,
        intermediate_size=a.ffn_width,
        num_hidden_layers=a.layers,
        num_attention_heads=a.attention.heads,
        num_key_value_heads=a.attention.kv_heads,
        head_dim=a.attention.head_dim,
        tie_word_embeddings=True,
        use_cache=False,
    )
    model = Qwen3ForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    ids = torch.randint(a.vocab_size, (rows, SEQ_LEN), generator=torch.Generator().manual_seed(0))

    def gradients() -> float:
        with torch.autocast("cpu", torch.bfloat16, enabled=settings["autocast"]):
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        return float(loss.detach())

    def update() -> None:
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return gradients, update


def work(side: str, name: str, rows: int, settings: dict[str, Any]) -> None:
    """Answer each line of standard input (seconds) with the times of as many turns as fit."""
    gradients, update = (whorl_work if side == "whorl" else peer_work)(name, rows, settings)
    gradients()
    update()
    for line in sys.stdin:
        times: list[tuple[float, float]] = []
        begin = time.perf_counter()
        while not times or time.perf_counter() - begin < float(line):
            start = time.perf_counter()
            gradients()
            middle = time.perf_counter()
            update()
            times.append((middle - start, time.perf_counter() - middle))
        print(json.dumps({"times": times, "peak_bytes": peak_resident_bytes()}), flush=True)
    while KEPT:
        KEPT.pop().__exit__(None, None, None)


class Side:
    """A worker process, and the times of all its steps."""

    def __init__(self, side: str, name: str, rows: int, settings: dict[str, Any]) -> None:
        self.label = side if side == "whorl" else f"transformers {settings['dtype']}"
        passed = {key: value for key, value in settings.items() if key != "dtype"}
        command = [sys.executable, __file__, "--worker", side, name, str(rows), json.dumps(passed)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.times: list[tuple[float, float]] = []  # seconds of a micro-batch and of an update
        self.beside: list[tuple[float, float]] = []  # beside a busy process
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
        x, times = torch.randn(384, 384).to(dtype), []
        for _ in range(5):
            start = time.perf_counter()
            x @ x
            times.append(time.perf_counter() - start)
        return min(times)

    return seconds(torch.bfloat16) < seconds(torch.float32)


def compare(name: str, ours: dict[str, Any], given: argparse.Namespace, peak: float) -> Any:
    """One shape: both sides in turns, then once each beside a busy process."""
    facts = machine_facts()
    step_tokens = given.step_tokens or step_tokens_of(name)
    rows = min(step_tokens, rules.MAX_MICRO_BATCH_TOKENS) // SEQ_LEN
    sides = [Side("whorl", name, rows, ours)]
    for dtype in ("float32", "bfloat16") if has_fast_bf16() else ("float32",):
        settings = {"threads": facts.cores, "autocast": dtype == "bfloat16", "dtype": dtype}
        sides.append(Side("transformers", name, rows, settings))
    for _ in range(given.rounds):
        for side in sides:
            side.run(given.seconds)
    with busy_process():
        for side in sides:
            side.run(given.seconds, beside=True)
    found = [figures(side, name, rows, step_tokens, peak) for side in sides]
    mine, peer = found[0], max(found[1:], key=lambda row: float(row["tokens_per_s"]))
    ratio = round(mine["tokens_per_s"] / peer["tokens_per_s"], 3)
    shown = {"shape": name, "peer": "transformers", "ratio": ratio, "step_tokens": step_tokens}
    return shown | {"sides": found}


def figures(side: Side, name: str, rows: int, step_tokens: int, peak: float) -> dict[str, Any]:
    side.close()
    micro_s, update_s = (statistics.median(column) for column in zip(*side.times, strict=True))
    tokens_per_s = step_tokens / (step_tokens / (rows * SEQ_LEN) * micro_s + update_s)
    flops = flops_per_token(shape_of(name), SEQ_LEN).training
    return {
        "side": side.label,
        "tokens_per_s": round(tokens_per_s, 1),
        "micro_batch_s": round(micro_s, 5),
        "update_s": round(update_s, 5),
        "share_of_matmul_peak": round(flops * tokens_per_s / peak, 3),
        "peak_mib": round(side.peak_bytes / 2**20, 1),
        "beside_busy": round(statistics.fmean(item for item, _ in side.beside) / micro_s, 2),
    }


def settings_here(home: Path) -> dict[str, Any]:
    """What the plan takes on this machine, in a training that is worth compiling for."""
    from whorl.launch.calibrate import this_machine
    from whorl.launch.compiling import with_compiled

    return with_compiled(home, this_machine(home)).calibration.settings


def show(found: dict[str, Any]) -> None:
    table = Table(title=f"training, {found['cpu']}, whorl with {found['settings']}")
    for column in (
        "shape",
        "side",
        "tokens/s",
        "update",
        "of matmul peak",
        "peak memory",
        "beside",
        "ratio",
    ):
        table.add_column(column)
    for row in found["rows"]:
        for number, side in enumerate(row["sides"]):
            table.add_row(
                f"{row['shape']}, {row['step_tokens']:,} a step" if not number else "",
                side["side"],
                f"{side['tokens_per_s']:,.0f}",
                f"{1000 * side['update_s']:,.0f} ms",
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
    parser.add_argument("--step-tokens", type=int, help="tokens of a step, all shapes")
    parser.add_argument("--home", type=Path, default=Path("runs"), help="where calibration is kept")
    parser.add_argument("--set", nargs="*", default=[], help="settings that replace the plan's")
    parser.add_argument("--json", action="store_true", help="one document on standard output")
    parser.add_argument("--worker", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        side, name, rows, settings = given.worker
        work(side, name, int(rows), json.loads(settings))
        return
    settings = settings_here(given.home)
    for entry in given.set:
        key, _, value = entry.partition("=")
        settings[key] = yaml.safe_load(value)
    peak = matmul_peak()
    rows = [compare(name, settings, given, peak) for name in given.shapes]
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
