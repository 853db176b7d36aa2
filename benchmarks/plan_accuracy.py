"""Predicted against actual: step time and peak memory of models that the calibration never saw.

    python benchmarks/plan_accuracy.py --home runs --seconds 3

Measures each shape's training step on made-up tokens, in a fresh process each, on a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

from whorl.arch.dense import dense_shape
from whorl.arch.shape import ModelShape
from whorl.core.memory import peak_resident_bytes
from whorl.launch.calibrate import this_machine
from whorl.spec.resolved import TrainConfig
from whorl.stages.plan.memory import peak_memory
from whorl.stages.plan.step_time import Load, fit_level, predicted_step_s

# (layers, width, head_dim, ffn, vocabulary, seq_len, rows, micro-batches, mixed rows, lanes):
# rows and mixed rows of one micro-batch, micro-batches of the step, all lanes
SHAPES = (
    (2, 96, 48, 288, 1024, 256, 2, 2, 0, 2),
    (4, 128, 64, 384, 2048, 256, 4, 2, 0, 2),
    (4, 128, 64, 384, 2048, 256, 4, 2, 2, 2),
    (6, 192, 64, 576, 4096, 256, 4, 2, 0, 2),
    (4, 128, 64, 384, 2048, 256, 4, 4, 0, 2),
    (4, 256, 64, 768, 2048, 512, 4, 2, 1, 2),
    (8, 384, 64, 1152, 4096, 256, 8, 1, 0, 1),
)


def shape_of(shape: tuple[int, ...]) -> ModelShape:
    layers, width, head_dim, ffn_width, vocab_size, seq_len, *_ = shape
    heads = width // head_dim
    return dense_shape(
        layers=layers,
        width=width,
        heads=heads,
        kv_heads=heads,
        head_dim=head_dim,
        ffn_width=ffn_width,
        vocab_size=vocab_size,
        max_seq_len=seq_len,
    )


def measure(shape: tuple[int, ...], threads: int, seconds: float) -> dict[str, float]:
    """Fastest and mean seconds of a step and the peak resident bytes of this process."""
    from whorl.launch.rehearsal import rehearsed_step
    from whorl.stages.train.process import training_process

    *_, seq_len, rows, micro_batches, mixed_rows, lanes = shape
    config = TrainConfig(
        seq_len=seq_len,
        batch_tokens=rows * seq_len * micro_batches,
        micro_batch_rows=rows,
        steps=1000,
        learning_rate=0.01,
        embedding_learning_rate=0.01,
        threads=threads,
        lanes=lanes,
    )
    with training_process(config):
        step = rehearsed_step(shape_of(shape), config, mixed_rows)
        step()
        times: list[float] = []
        begin = time.perf_counter()
        while len(times) < 5 or time.perf_counter() - begin < seconds:
            start = time.perf_counter()
            step()
            times.append(time.perf_counter() - start)
    peak_bytes = peak_resident_bytes()
    return {"fastest_s": min(times), "mean_s": statistics.fmean(times), "peak_bytes": peak_bytes}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, default=Path("runs"))
    parser.add_argument("--seconds", type=float, default=3.0, help="of steps per shape")
    parser.add_argument("--fresh", action="store_true", help="measure the machine again first")
    parser.add_argument("--shape", help="JSON, as in SHAPES: only measure this one, here")
    arguments = parser.parse_args()
    machine = this_machine(arguments.home, fresh=arguments.fresh)
    if arguments.shape:
        shape = tuple(json.loads(arguments.shape))
        print(json.dumps(measure(shape, machine.facts.cores, arguments.seconds)))
        return
    calibration = machine.calibration
    level = fit_level(calibration)
    print(f"{machine.facts.identity}: calibrated in {calibration.took_s:.1f} s, {level}")
    errors = []
    for shape in SHAPES:
        *_, seq_len, rows, micro_batches, mixed_rows, lanes = shape
        load = Load(
            shape_of(shape),
            seq_len,
            rows,
            micro_batches,
            lanes=lanes,
            mixed_share=mixed_rows / rows,
        )
        command = [sys.executable, __file__, "--home", str(arguments.home)]
        command += ["--seconds", str(arguments.seconds), "--shape", json.dumps(shape)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        actual = json.loads(done.stdout)
        step_s = predicted_step_s(load, calibration, level)
        memory = peak_memory(load, calibration.base_memory_bytes).total
        errors.append(abs(step_s / actual["mean_s"] - 1))
        print(
            f"{shape}: step {1e3 * step_s:.1f} ms predicted, {1e3 * actual['mean_s']:.1f} mean, "
            f"{1e3 * actual['fastest_s']:.1f} fastest ({step_s / actual['mean_s'] - 1:+.1%}); "
            f"peak {memory / 2**20:.0f} MiB predicted, {actual['peak_bytes'] / 2**20:.0f} actual "
            f"({memory / actual['peak_bytes'] - 1:+.1%})",
            flush=True,
        )
    print(f"mean absolute error of the step time {statistics.fmean(errors):.1%}")


if __name__ == "__main__":
    main()
