"""Calibration: measured once and kept; the stopwatch against a fake clock.

Axes: B rows, H heads, T tokens of a row, S tokens attended to.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch

from tests.stages.plan.conftest import machine
from whorl.arch.dense import dense_shape
from whorl.core.digests import write_sealed
from whorl.core.errors import MissingExtra, PlanError, RecordError
from whorl.launch import calibrate, probes
from whorl.launch.calibrate import best_of, calibration_path, this_machine
from whorl.launch.machine import machine_facts
from whorl.launch.probes import Pool, Stopwatch
from whorl.launch.rehearsal import made_up_batch, rehearsed_step
from whorl.spec.resolved import TrainConfig
from whorl.stages.plan.hardware import Calibration, MachineFacts, MeasuredChoice

TINY = dense_shape(
    layers=1,
    width=32,
    heads=1,
    kv_heads=1,
    head_dim=32,
    ffn_width=64,
    vocab_size=256,
    max_seq_len=32,
)


def config(rows: int = 2, micro_batch_rows: int = 2) -> TrainConfig:
    return TrainConfig(
        seq_len=32,
        batch_tokens=32 * rows,
        micro_batch_rows=micro_batch_rows,
        steps=10,
        learning_rate=0.01,
        embedding_learning_rate=0.01,
        threads=1,
    )


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[MachineFacts]]:
    """Measuring is faked; what it was called with is listed."""
    calls: list[MachineFacts] = []

    def fake(facts: MachineFacts) -> Calibration:
        calls.append(facts)
        return machine(speed=len(calls)).calibration

    monkeypatch.setattr(calibrate, "_measure_apart", fake)
    yield calls


def test_a_machine_is_measured_once(measured: list[MachineFacts], tmp_path: Path) -> None:
    first, second = this_machine(tmp_path), this_machine(tmp_path)
    assert len(measured) == 1 and first == second
    assert calibration_path(tmp_path, first.facts).is_file()
    again = this_machine(tmp_path, fresh=True)
    assert len(measured) == 2 and again.calibration != first.calibration
    assert this_machine(tmp_path) == again


@pytest.mark.parametrize(
    ("noises", "used_percent", "kept"),
    [
        ((0.3, 0.05), 3.0, 0.05),  # busy then, quiet now
        ((0.3, 0.05), 60.0, 0.3),  # still busy: a plan does not wait for it
        ((0.3, 0.4, 0.5), 3.0, 0.3),  # no better
        ((0.2, 0.05), 3.0, 0.2),
    ],
)
def test_what_was_measured_on_a_busy_machine_is_measured_again_on_a_quiet_one(
    noises: Sequence[float],
    used_percent: float,
    kept: float,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    left = list(noises)
    monkeypatch.setattr(
        calibrate, "_measure_apart", lambda facts: machine(noise=left.pop(0)).calibration
    )
    monkeypatch.setattr(calibrate.psutil, "cpu_percent", lambda interval: used_percent)
    assert this_machine(tmp_path).calibration.noise == noises[0]
    assert this_machine(tmp_path).calibration.noise == kept
    assert this_machine(tmp_path).calibration.noise == kept


def test_damaged_figures_are_refused(measured: list[MachineFacts], tmp_path: Path) -> None:
    path = calibration_path(tmp_path, this_machine(tmp_path).facts)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(RecordError):
        this_machine(tmp_path)
    assert this_machine(tmp_path, fresh=True).calibration.threads == 2


def test_figures_of_an_earlier_version_are_measured_again(
    measured: list[MachineFacts], tmp_path: Path
) -> None:
    path = calibration_path(tmp_path, this_machine(tmp_path).facts)
    write_sealed(path, {"version": 1, "matmuls": []})
    assert this_machine(tmp_path).calibration.version == 2
    assert len(measured) == 2


@pytest.mark.parametrize(
    ("noise", "took_s", "rounds"), [(0.02, 5.0, 1), (0.5, 5.0, 2), (0.5, 11.0, 2)]
)
def test_a_disturbed_round_is_repeated_if_there_is_time(
    noise: float, took_s: float, rounds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the choices of the first, and so that both end within the limit."""
    now, asked = [0.0], []

    def fake(
        facts: MachineFacts, patience_s: float, taken: Sequence[MeasuredChoice] = ()
    ) -> Calibration:
        asked.append((patience_s, tuple(taken)))
        now[0] += min(took_s, patience_s + 2.0)
        return machine(noise=noise).calibration

    monkeypatch.setattr(calibrate, "_run_measure", fake)
    monkeypatch.setattr(calibrate.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(calibrate.psutil, "cpu_percent", lambda interval: 3.0)
    found = calibrate._measure_apart(machine_facts())
    assert len(asked) == rounds and found.took_s <= calibrate.LIMIT_S
    assert [taken for _, taken in asked[1:]] == [found.choices] * (rounds - 1)


@pytest.mark.parametrize(
    ("script", "error"),
    [
        ("import sys; sys.exit('boom')", PlanError),
        ("raise ModuleNotFoundError(\"No module named 'torch'\")", MissingExtra),
    ],
)
def test_a_failed_measurement_says_so(
    script: str, error: type[Exception], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = tmp_path / "python"
    broken.write_text(f'#!/bin/sh\nexec {calibrate.sys.executable} -c "$(cat {tmp_path}/script)"\n')
    (tmp_path / "script").write_text(script)
    broken.chmod(0o755)
    monkeypatch.setattr(calibrate.sys, "executable", str(broken))
    with pytest.raises(error):
        calibrate._measure_apart(machine_facts())


def test_the_best_of_several_rounds_is_kept() -> None:
    """A round that was disturbed adds nothing but its noise."""
    quiet, busy = machine(), machine(speed=0.5, noise=0.6)
    best = best_of([busy.calibration, quiet.calibration])
    for name in ("matmuls", "attentions", "traffic", "steps", "operation_s"):
        assert getattr(best, name) == getattr(quiet.calibration, name)
    assert best.noise == pytest.approx(1.0)  # half as fast
    assert best_of([busy.calibration, *[quiet.calibration] * 2]).noise == 0
    assert best_of([busy.calibration]) == busy.calibration


def test_the_fastest_repeat_counts() -> None:
    """A clock that every run moves by its own seconds: noise only makes a repeat slower."""
    now, durations = [0.0], iter([9.0, 3.0, 1.0, 2.0, 1.5, 4.0, 1.2, 1.1, 1.3])

    def run() -> None:
        now[0] += next(durations)

    watch = Stopwatch(8.0, patience_s=1000.0, clock=lambda: now[0], begin=0.0)
    assert watch.fastest(run) == pytest.approx(1.0)  # the first is not counted
    assert watch.noise == pytest.approx(1.0)  # median 2, fastest 1


@pytest.mark.parametrize(("begin", "expected"), [(89.0, 2), (80.0, 1)])
def test_a_busy_machine_ends_the_patience(begin: float, expected: int) -> None:
    """Runs of 5 s with ten seconds of patience: repeats end with it; after it one run must do."""
    now, runs = [90.0], [0]

    def run() -> None:
        now[0] += 5.0
        runs[0] += 1

    watch = Stopwatch(seconds_each=0.1, patience_s=10.0, clock=lambda: now[0], begin=begin)
    assert watch.fastest(run) == pytest.approx(5.0)
    assert runs[0] == expected


def test_operands_come_one_after_the_other() -> None:
    pool = Pool(torch.float32)
    first, second = pool.take(8, 4), pool.take(8, 4)
    assert first.shape == (8, 4) and first.data_ptr() != second.data_ptr()
    size = len(pool.memory)
    assert pool.take(size).data_ptr() == first.data_ptr()  # around again


def test_probes_give_rates_of_the_right_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Anything that computes makes 10 MFLOP/s and moves 1 MB/s; nothing makes 100 TFLOP/s."""
    monkeypatch.setattr(probes, "MATMUL_SHAPES", ((64, 32, 48),))
    monkeypatch.setattr(probes, "ATTENTION_SHAPES", ((32, 16),))
    monkeypatch.setattr(probes, "TRAFFIC_BYTES", (2**16,))
    monkeypatch.setattr(probes, "ORTHOGONALISE_SHAPES", ((2, 16, 32),))
    watch, pool = Stopwatch(seconds_each=0.0), Pool(torch.float32)
    (matmul,) = probes.matmul_rates(watch, pool, "fp32")
    assert 1e7 < matmul.flops_per_s < 1e14
    assert [rate.masked for rate in probes.attention_rates(watch, pool, "fp32")] == [False, True]
    (traffic,) = probes.traffic_rates(watch, pool)
    assert 1e6 < traffic.bytes_per_s < 1e13
    (ortho,) = probes.orthogonalise_rates(watch, lambda matrices: matrices @ matrices.mT, "fp32")
    assert (ortho.tokens, ortho.rows, ortho.columns) == (2, 16, 32)
    assert 1e-9 < probes.operation_s(watch) < 1e-1
    assert 1e4 < probes.exponentials_per_s(watch, pool) < 1e12


def test_a_rehearsed_step_trains() -> None:
    step = rehearsed_step(TINY, config(rows=4))
    losses = [float(step().loss) for _ in range(8)]  # type: ignore[attr-defined]
    assert losses[-1] < losses[0]


def test_made_up_rows_split_into_micro_batches() -> None:
    batch = made_up_batch(TINY, config(rows=5, micro_batch_rows=2), mixed_rows=1)
    assert [len(micro.row_numbers) for micro in batch.micro_batches] == [2, 2, 1]
    assert batch.trained_tokens == 5 * 32
    assert batch.micro_batches[0].segments.lengths == ((32,), (16, 16))
