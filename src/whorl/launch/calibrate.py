"""Measure this machine in a few seconds, and keep the figures beside the records.

A fresh process measures, so that what the caller has loaded changes nothing:
`python -m whorl.launch.calibrate` prints the figures as JSON. They are kept as sealed JSON in
<home>/machine/calibration-<identity>.json until that file is deleted.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from pydantic import ValidationError

from whorl.core.digests import read_sealed, write_sealed
from whorl.core.errors import MissingExtra, PlanError, RecordError, ResourceError
from whorl.launch.machine import machine_facts
from whorl.spec.resolved import TrainConfig
from whorl.stages.plan.hardware import (
    Calibration,
    Machine,
    MachineFacts,
    Precision,
    ReferenceStep,
)
from whorl.stages.plan.step_time import reference_load

if TYPE_CHECKING:
    from whorl.launch.probes import Stopwatch

__all__ = ["best_of", "calibration_path", "measure", "this_machine"]

TIMEOUT_S = 300
STEP_S = 0.35  # spent on each reference step

QUIET = 0.12  # noise below which one round is enough
BUSY_WINDOW_S, BUSY_PERCENT = 0.5, 25.0  # of all cores, before anything is measured
BUSY_NOISE = 0.3  # least noise of what was measured on a busy machine

# Field of a calibration -> (figure of each item, 1: larger is better, -1: smaller)
FIGURES = {
    "matmuls": ("flops_per_s", 1),
    "orthogonalise": ("flops_per_s", 1),
    "attentions": ("pairs_per_s", 1),
    "traffic": ("bytes_per_s", 1),
    "exponentials_per_s": ("", 1),
    "operation_s": ("", -1),
    "base_memory_bytes": ("", -1),
    "steps": ("step_s", -1),
}

# Whole steps that set the level: (layers, width, head_dim, ffn, vocabulary, seq_len, rows, masked)
REFERENCE_STEPS = (
    (2, 64, 32, 192, 1024, 128, 8, False),
    (2, 128, 64, 384, 2048, 256, 4, False),
    (2, 128, 64, 384, 2048, 256, 4, True),
    (3, 192, 64, 512, 2048, 256, 8, False),
    (2, 256, 64, 768, 2048, 256, 8, False),
)


def calibration_path(home: Path, facts: MachineFacts) -> Path:
    return home / "machine" / f"calibration-{facts.identity}.json"


def this_machine(home: Path, *, fresh: bool = False) -> Machine:
    """Facts and figures of this machine, measured now unless they are kept already.

    Raises PlanError when measuring fails, MissingExtra without torch, RecordError when the kept
    figures are damaged.
    """
    facts = machine_facts()
    path = calibration_path(home, facts)
    if path.exists() and not fresh:
        return Machine(facts=facts, calibration=_read(path))
    calibration = _measure_apart(facts)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResourceError(f"cannot make {path.parent}", found=error.strerror) from error
    write_sealed(path, calibration.model_dump(mode="json"))
    return Machine(facts=facts, calibration=calibration)


def _read(path: Path) -> Calibration:
    try:
        return Calibration.model_validate(read_sealed(path))
    except ValidationError as error:
        raise RecordError(
            f"{path} is not a calibration of this version", do="delete it: it is measured again"
        ) from error


def _measure_apart(facts: MachineFacts) -> Calibration:
    """`measure` in a process of its own; on a busy machine in two, and the best of both.

    Beside other work, threads that wait for each other by spinning take turns with it and every
    operation costs milliseconds: then they wait asleep, which is a little slower on a quiet one.
    """
    busy = psutil.cpu_percent(BUSY_WINDOW_S) > BUSY_PERCENT
    rounds = [_run_measure(facts, asleep=busy)]
    if busy or rounds[0].noise > QUIET:
        rounds.append(_run_measure(facts, asleep=busy))
    best = best_of(rounds)
    took_s = sum(item.took_s for item in rounds)
    noise = max(best.noise, BUSY_NOISE) if busy else best.noise
    return best.model_copy(update={"took_s": took_s, "noise": noise})


def _run_measure(facts: MachineFacts, asleep: bool) -> Calibration:
    command = [sys.executable, "-m", "whorl.launch.calibrate", facts.model_dump_json()]
    environment = {**os.environ, "OMP_NUM_THREADS": str(facts.cores)}
    if asleep:
        environment["OMP_WAIT_POLICY"] = "passive"
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S
        )
    except subprocess.TimeoutExpired as error:
        raise PlanError(
            "measuring the machine took too long",
            found=f"more than {TIMEOUT_S} s",
            do="try again when less runs beside it",
        ) from error
    if "No module named 'torch'" in done.stderr:
        raise MissingExtra.of("torch", "train", "measuring the machine")
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise PlanError("measuring the machine failed", found=last)
    return Calibration.model_validate_json(done.stdout)


def measure(facts: MachineFacts, step_s: float = STEP_S, probe_s: float = 0.03) -> Calibration:
    """All figures, in this process. Needs torch."""
    import torch

    from whorl.stages.train.process import training_process

    begin = time.perf_counter()
    with training_process(_train_config(rows=1, seq_len=1, threads=facts.cores)):
        torch.manual_seed(0)
        _first_step(facts)
        figures = _figures(facts, step_s, probe_s)
    return figures.model_copy(update={"took_s": time.perf_counter() - begin})


def best_of(rounds: Sequence[Calibration]) -> Calibration:
    """The fastest of each figure. Noise: how far the second best lies behind, in the median."""
    if len(rounds) == 1:
        return rounds[0]
    first = rounds[0]
    update: dict[str, Any] = {}
    behind: list[float] = []
    for name, (figure, better) in FIGURES.items():
        ranked = [
            sorted(items, key=lambda item: better * _figure(item, figure), reverse=True)
            for items in zip(*(_as_tuple(getattr(c, name)) for c in rounds), strict=True)
        ]
        best = tuple(items[0] for items in ranked)
        update[name] = best if isinstance(getattr(first, name), tuple) else best[0]
        pairs = [(_figure(items[0], figure), _figure(items[1], figure)) for items in ranked]
        behind += [max(a, b) / min(a, b) - 1 for a, b in pairs]
    update["noise"] = statistics.median(behind)
    return first.model_copy(update=update)


def _as_tuple(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def _figure(item: Any, name: str) -> float:
    return float(getattr(item, name) if name else item)


def _figures(facts: MachineFacts, step_s: float, probe_s: float) -> Calibration:
    import torch

    from whorl.launch import probes
    from whorl.stages.train.optimizers import orthogonalise

    watch = probes.Stopwatch(seconds_each=probe_s)
    precisions: Sequence[Precision] = ("fp32", "bf16") if facts.bf16 else ("fp32",)
    base_memory_bytes = psutil.Process().memory_info().rss
    pools = {precision: probes.Pool(probes.DTYPES[precision]) for precision in precisions}
    matmuls = [r for p in precisions for r in probes.matmul_rates(watch, pools[p], p)]
    attentions = [r for p in precisions for r in probes.attention_rates(watch, pools[p], p)]
    pool = pools["fp32"]
    return Calibration(
        identity=facts.identity,
        measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
        torch=torch.__version__,
        threads=facts.cores,
        matmuls=tuple(matmuls),
        orthogonalise=tuple(probes.orthogonalise_rates(watch, orthogonalise)),
        attentions=tuple(attentions),
        traffic=tuple(probes.traffic_rates(watch, pool)),
        exponentials_per_s=probes.exponentials_per_s(watch, pool),
        operation_s=probes.operation_s(watch),
        base_memory_bytes=base_memory_bytes,
        steps=tuple(_reference_steps(facts, step_s, watch)),
        noise=watch.noise,
        took_s=0.0,
    )


def _train_config(rows: int, seq_len: int, threads: int) -> TrainConfig:
    return TrainConfig(
        seq_len=seq_len,
        batch_tokens=rows * seq_len,
        micro_batch_rows=rows,
        steps=1000,
        learning_rate=0.01,
        embedding_learning_rate=0.01,
        threads=threads,
    )


def _first_step(facts: MachineFacts) -> None:
    """A step of next to nothing: loads what any step needs into memory."""
    from whorl.launch.rehearsal import rehearsed_step

    tiny = ReferenceStep(
        layers=1,
        width=32,
        head_dim=32,
        ffn_width=64,
        vocab_size=256,
        seq_len=32,
        rows=1,
        precision="fp32",
        masked=False,
        step_s=0.0,
    )
    rehearsed_step(reference_load(tiny).architecture, _train_config(1, 32, facts.cores))()


def _reference_steps(
    facts: MachineFacts, step_s: float, watch: Stopwatch
) -> Iterator[ReferenceStep]:
    from whorl.launch.rehearsal import rehearsed_step

    for layers, width, head_dim, ffn_width, vocab_size, seq_len, rows, masked in REFERENCE_STEPS:
        step = ReferenceStep(
            layers=layers,
            width=width,
            head_dim=head_dim,
            ffn_width=ffn_width,
            vocab_size=vocab_size,
            seq_len=seq_len,
            rows=rows,
            precision="fp32",
            masked=masked,
            step_s=0.0,
        )
        config = _train_config(rows, seq_len, facts.cores)
        run = rehearsed_step(reference_load(step).architecture, config, rows if masked else 0)
        yield step.model_copy(update={"step_s": watch.fastest(run, step_s)})


def main() -> None:
    """Measure for the facts given as JSON; print the figures."""
    facts = MachineFacts.model_validate(json.loads(sys.argv[1]))
    sys.stdout.write(measure(facts).model_dump_json())


if __name__ == "__main__":
    main()
