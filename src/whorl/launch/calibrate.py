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
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from pydantic import ValidationError

from whorl.core.children import end_with_parent
from whorl.core.digests import read_sealed, write_sealed
from whorl.core.disk import check_writable
from whorl.core.errors import MissingExtra, PlanError, RecordError
from whorl.launch.machine import machine_facts
from whorl.spec.resolved import TrainConfig
from whorl.stages.plan.hardware import (
    Calibration,
    Machine,
    MachineFacts,
    MeasuredChoice,
    Precision,
    ReferenceStep,
    settings_of,
)
from whorl.stages.plan.step_time import reference_load

if TYPE_CHECKING:
    from whorl.launch.probes import Stopwatch

__all__ = [
    "best_of",
    "calibration_path",
    "measure",
    "reference_step",
    "step_config",
    "this_machine",
]

LIMIT_S = 20.0  # of all measuring, whatever runs beside it
ROUND_S = 9.0  # after which every probe of a round runs once
TIMEOUT_S = 300  # if it hangs
VERSION = int(Calibration.model_fields["version"].default)
STEP_S = 0.25  # spent on each reference step

SECOND_S = 2.0  # a second round is worth beginning
QUIET = 0.12  # noise below which one round is enough
BUSY_WINDOW_S, BUSY_PERCENT = 0.5, 25.0  # of all cores, before anything is measured
BUSY_NOISE = 0.3  # least noise of a busy machine; measured again when it is quiet

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

# A step that candidates are compared by, and whole steps that set the level, rows of each lane:
# (layers, width, head_dim, ffn, vocabulary, seq_len, rows, masked)
CHOICE_STEP = (2, 128, 64, 384, 2048, 256, 8, False)
REFERENCE_STEPS = (
    (2, 64, 32, 192, 1024, 128, 8, False),
    (2, 128, 64, 384, 2048, 256, 4, False),
    (2, 128, 64, 384, 2048, 256, 4, True),
    (3, 192, 64, 512, 2048, 256, 4, False),
    (2, 256, 64, 768, 2048, 256, 4, False),
)


def calibration_path(home: Path, facts: MachineFacts) -> Path:
    return home / "machine" / f"calibration-{facts.identity}.json"


def this_machine(home: Path, *, fresh: bool = False) -> Machine:
    """Facts and figures of this machine, measured now unless they are kept already.

    What was measured while the machine was busy is measured again once it is quiet: a plan by
    times that are too long trains too little. Raises PlanError when measuring fails, MissingExtra
    without torch, RecordError when the kept figures are damaged, ResourceError, before measuring,
    when they could not be kept.
    """
    facts = machine_facts()
    path = calibration_path(home, facts)
    kept = _read(path) if path.exists() and not fresh else None
    if kept is not None and not (_was_disturbed(kept) and os.access(path.parent, os.W_OK)):
        return Machine(facts=facts, calibration=kept)
    check_writable(path.parent)
    calibration = _measure_apart(facts)
    if kept is not None and calibration.noise >= kept.noise:
        calibration = kept
    write_sealed(path, calibration.model_dump(mode="json"))
    return Machine(facts=facts, calibration=calibration)


def _read(path: Path) -> Calibration | None:
    """None: of an earlier version, to be measured again."""
    found = read_sealed(path)
    if isinstance(found, dict) and found.get("version") != VERSION:
        return None
    try:
        return Calibration.model_validate(found)
    except ValidationError as error:
        raise RecordError(
            f"{path} is not a calibration of this version", do="delete it: it is measured again"
        ) from error


def _measure_apart(facts: MachineFacts) -> Calibration:
    """`measure` in a process of its own; if it was disturbed in two, and the best of both.

    The second one is left out where it would not end within the limit.
    """
    begin_s = time.perf_counter()
    used = _used_percent()
    busy = used > BUSY_PERCENT
    rounds = [_run_measure(facts, ROUND_S)]
    took_s = time.perf_counter() - begin_s
    if (busy or rounds[0].noise > QUIET) and 1.5 * took_s + SECOND_S < LIMIT_S:
        patience_s = min(ROUND_S, LIMIT_S - 1.5 * took_s)
        rounds.append(_run_measure(facts, patience_s, rounds[0].choices))
    best = best_of(rounds)
    noise = max(best.noise, BUSY_NOISE) if busy else best.noise
    took_s = time.perf_counter() - begin_s
    return best.model_copy(update={"took_s": took_s, "noise": noise, "busy": used / 100})


def _was_disturbed(kept: Calibration) -> bool:
    """Measured on a busy machine, which is quiet now."""
    return kept.noise >= BUSY_NOISE and _used_percent() <= BUSY_PERCENT


def _used_percent() -> float:
    """What others use of all cores now."""
    return float(psutil.cpu_percent(BUSY_WINDOW_S))


def _run_measure(
    facts: MachineFacts, patience_s: float, taken: Sequence[MeasuredChoice] = ()
) -> Calibration:
    """taken: what an earlier round chose, so that both measure the same."""
    value = {
        "facts": facts.model_dump(mode="json"),
        "patience_s": patience_s,
        "taken": [choice.model_dump(mode="json") for choice in taken],
        "parent": os.getpid(),
    }
    given = json.dumps(value)
    command = [sys.executable, "-m", "whorl.launch.calibrate", given]
    environment = {**os.environ, "OMP_NUM_THREADS": str(facts.cores)}
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


def measure(
    facts: MachineFacts,
    step_s: float = STEP_S,
    probe_s: float = 0.03,
    patience_s: float = ROUND_S,
    taken: Sequence[MeasuredChoice] = (),
) -> Calibration:
    """All figures, in this process. Needs torch.

    patience_s: since the process began; afterwards every probe runs once, and the figures count as
    measured on a busy machine. taken: choices made before; none: they are made now.
    """
    import torch

    from whorl.launch.probes import Stopwatch
    from whorl.stages.train.process import training_process

    started_s = time.time() - psutil.Process().create_time()
    watch = Stopwatch(seconds_each=probe_s, patience_s=patience_s)
    watch.begin -= min(started_s, patience_s)  # loading torch counts
    with training_process(step_config(rows=1, seq_len=1, settings={"threads": facts.cores})):
        torch.manual_seed(0)
        _first_step(facts)
        figures = _figures(facts, step_s, watch, taken)
    took_s = time.perf_counter() - watch.begin
    noise = max(figures.noise, BUSY_NOISE) if took_s > patience_s else figures.noise
    return figures.model_copy(update={"took_s": took_s, "noise": noise})


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


def _figures(
    facts: MachineFacts, step_s: float, watch: Stopwatch, given: Sequence[MeasuredChoice]
) -> Calibration:
    import torch

    from whorl.launch import candidates, probes
    from whorl.stages.train.optimizers.muon import orthogonalise

    base_memory_bytes = psutil.Process().memory_info().rss
    layers, width, *_, rows, _ = CHOICE_STEP
    name = f"{layers} layers of width {width}"
    step_of = partial(_choice_step, facts.cores * -(-rows // facts.cores))
    chosen = tuple(given) or tuple(candidates.choices(facts, watch, step_of, name))
    taken = settings_of(chosen)
    torch.set_num_threads(max(1, taken["threads"] // taken["lanes"]))  # as a lane computes
    precisions: tuple[Precision, ...] = ("fp32", "bf16") if facts.bf16 else ("fp32",)
    pools = {precision: probes.Pool(probes.DTYPES[precision]) for precision in precisions}
    matmuls = [r for p in precisions for r in probes.matmul_rates(watch, pools[p], p)]
    attentions = [r for p in precisions for r in probes.attention_rates(watch, pools[p], p)]
    muon = partial(orthogonalise, dtype=probes.DTYPES[taken["muon_dtype"]])
    return Calibration(
        identity=facts.identity,
        measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
        torch=torch.__version__,
        threads=taken["threads"],
        matmuls=tuple(matmuls),
        orthogonalise=tuple(probes.orthogonalise_rates(watch, muon, taken["muon_dtype"])),
        attentions=tuple(attentions),
        traffic=tuple(probes.traffic_rates(watch, pools["fp32"])),
        exponentials_per_s=probes.exponentials_per_s(watch, pools["fp32"]),
        operation_s=probes.operation_s(watch),
        base_memory_bytes=base_memory_bytes,
        choices=chosen,
        steps=tuple(_reference_steps(taken, step_s, watch)),
        noise=watch.noise,
        took_s=0.0,
    )


def step_config(rows: int, seq_len: int, settings: Mapping[str, Any]) -> TrainConfig:
    """A step in which each lane computes one micro-batch of `rows`."""
    return TrainConfig(
        seq_len=seq_len,
        batch_tokens=rows * seq_len * settings.get("lanes", 1),
        micro_batch_rows=rows,
        steps=1000,
        learning_rate=0.01,
        embedding_learning_rate=0.01,
        **settings,
    )


def reference_step(values: tuple[Any, ...], settings: Mapping[str, Any]) -> ReferenceStep:
    """A step of that shape, yet to be timed."""
    layers, width, head_dim, ffn_width, vocab_size, seq_len, rows, masked = values
    return ReferenceStep(
        layers=layers,
        width=width,
        head_dim=head_dim,
        ffn_width=ffn_width,
        vocab_size=vocab_size,
        seq_len=seq_len,
        rows=rows,
        precision=settings.get("precision", "fp32"),
        attention_dtype=settings.get("attention_dtype", "fp32"),
        lanes=settings.get("lanes", 1),
        compiled=settings.get("compiled", False),
        masked=masked,
        step_s=0.0,
    )


def _first_step(facts: MachineFacts) -> None:
    """A step of next to nothing: loads what any step needs into memory."""
    from whorl.launch.rehearsal import rehearsed_step

    settings = {"threads": facts.cores, "lanes": 1}
    tiny = reference_load(reference_step((1, 32, 32, 64, 256, 32, 1, False), settings))
    rehearsed_step(tiny.shape, step_config(1, 32, settings))()


def _choice_step(rows: int, settings: Mapping[str, Any]) -> Callable[[], object]:
    """A step of so many rows however many lanes share them; rows: a multiple of the cores."""
    from whorl.launch.rehearsal import rehearsed_step

    *_, seq_len, _, _ = CHOICE_STEP
    lanes = int(settings.get("lanes", 1))
    config = step_config(max(1, rows // lanes), seq_len, settings)
    return rehearsed_step(reference_load(reference_step(CHOICE_STEP, settings)).shape, config)


def _reference_steps(
    settings: Mapping[str, Any], step_s: float, watch: Stopwatch
) -> Iterator[ReferenceStep]:
    from whorl.launch.rehearsal import rehearsed_step

    for values in REFERENCE_STEPS:
        step = reference_step(values, settings)
        config = step_config(step.rows, step.seq_len, settings)
        mixed_rows = step.rows if step.masked else 0
        run = rehearsed_step(reference_load(step).shape, config, mixed_rows)
        yield step.model_copy(update={"step_s": watch.fastest(run, step_s)})


def main() -> None:
    """Measure for the facts given as JSON; print the figures."""
    given = json.loads(sys.argv[1])
    end_with_parent(given["parent"])
    facts = MachineFacts.model_validate(given["facts"])
    taken = [MeasuredChoice.model_validate(choice) for choice in given["taken"]]
    found = measure(facts, patience_s=given["patience_s"], taken=taken)
    sys.stdout.write(found.model_dump_json())


if __name__ == "__main__":
    main()
