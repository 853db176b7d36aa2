"""Calibration: measured once and kept; what torch does for it, and the deadline of its process.

Axes: B rows, H heads, T tokens of a row, S tokens attended to.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import torch

from tests.stages.plan.conftest import machine
from whorl.arch.dense import dense_shape
from whorl.core.digests import write_sealed
from whorl.core.errors import MissingExtra, PlanError, RecordError
from whorl.launch import calibrate
from whorl.launch.calibrate import calibration_path, this_machine
from whorl.launch.figures import rates_of, step_config
from whorl.launch.machine import machine_facts
from whorl.launch.probes import MeteredLanes, Pool, TorchBench, timed_step
from whorl.launch.rehearsal import made_up_batch, rehearsed_step
from whorl.spec.resolved import TrainConfig
from whorl.stages.plan.hardware import Calibration, MachineFacts

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
    ("busies", "used_percent", "kept"),
    [
        ((0.8, 0.05), 3.0, 0.05),  # busy then, quiet now
        ((0.8, 0.05), 60.0, 0.8),  # still busy: a plan does not wait for it
        ((0.8, 0.9, 0.95), 3.0, 0.8),  # no better
        ((0.2, 0.05), 3.0, 0.2),
    ],
)
def test_what_was_measured_on_a_busy_machine_is_measured_again_on_a_quiet_one(
    busies: Sequence[float],
    used_percent: float,
    kept: float,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    left = list(busies)

    def fake(facts: MachineFacts) -> Calibration:
        return machine().calibration.model_copy(update={"busy": left.pop(0)})

    monkeypatch.setattr(calibrate, "_measure_apart", fake)
    monkeypatch.setattr(calibrate.psutil, "cpu_percent", lambda interval: used_percent)
    assert this_machine(tmp_path).calibration.busy == busies[0]
    assert this_machine(tmp_path).calibration.busy == kept
    assert this_machine(tmp_path).calibration.busy == kept


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
    write_sealed(path, {"version": 2, "matmuls": []})
    assert this_machine(tmp_path).calibration.version == 3
    assert len(measured) == 2


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
    broken.write_text(f'#!/bin/sh\nexec {sys.executable} -c "$(cat {tmp_path}/script)"\n')
    (tmp_path / "script").write_text(script)
    broken.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(broken))
    with pytest.raises(error):
        calibrate._measure_apart(machine_facts())


TOLD = """["choice of 8 rows: 2 x 1 fp32", 0.9, 0.05]
["product in fp32", 0.001, 0.001]
["Muon's iteration in fp32", 0.004, 0.004]
["product in bf16", 0.0"""


@pytest.mark.parametrize("told", [TOLD, ""])
def test_a_call_that_does_not_return_ends_with_the_limit(
    told: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its process is ended, and what it had told until then is what counts."""
    python, script = tmp_path / "python", tmp_path / "script.py"
    words = f"import sys, time\nsys.stdout.write({told!r})\nsys.stdout.flush()\ntime.sleep(600)\n"
    script.write_text(words)
    python.write_text(f"#!/bin/sh\nexec {sys.executable} {script}\n")
    python.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(python))
    monkeypatch.setattr(calibrate, "LIMIT_S", calibrate.END_S + 1.5)
    monkeypatch.setattr(calibrate.psutil, "cpu_percent", lambda interval: 95.0)
    two = machine().facts
    begin_s = time.monotonic()
    found = calibrate._measure_apart(two)
    assert time.monotonic() - begin_s < 4.0
    assert found.measured == (3 if told else 0) and found.wanted > 30 and found.busy == 0.95
    assert found.settings["precision"] == "fp32"
    assert "measured 1 of 2 ways: the machine was busy" in found.choices[1].reason or not told
    assert all(rate.flops_per_s > 0 for rate in (*found.matmuls, *found.orthogonalise))
    if told:  # that step is the only whole one: it sets the level, by the processor's time
        (step,) = found.steps
        assert (step.step_s, step.rows, step.lanes) == (0.05, 4, 2)


def test_operands_come_one_after_the_other() -> None:
    pool = Pool(torch.float32)
    first, second = pool.take(8, 4), pool.take(8, 4)
    assert first.shape == (8, 4) and first.data_ptr() != second.data_ptr()
    size = len(pool.memory)
    assert pool.take(size).data_ptr() == first.data_ptr()  # around again


def test_probes_give_rates_of_the_right_size() -> None:
    """Anything that computes makes 10 MFLOP/s and moves 1 MB/s; nothing makes 100 TFLOP/s."""
    bench, taken = TorchBench(), {"threads": 1, "lanes": 1, "muon_dtype": "fp32"}
    least = {"matmul": 1e7, "orthogonalise": 1e7, "traffic": 1e6, "operations": 1e3}
    seen = set()
    for rate in rates_of(bf16=False, muon_dtype="fp32")[:7]:  # one of each group
        once = bench.rate(rate, taken)
        once()
        found = once()
        assert found.cpu_s is not None and found.cpu_s <= 1.5 * found.wall_s
        assert least.get(rate.kind, 1e4) < rate.amount / found.cpu_s < 1e14
        assert rate.told(7.0) in (7.0, 1 / 7.0) or 7.0 in rate.told(7.0).model_dump().values()
        seen.add(rate.group)
    assert len(seen) == 7
    for once in (bench.product("bf16"), bench.muon("fp32")):
        assert once().wall_s > 0


def test_a_lane_that_waits_for_a_core_costs_the_step_nothing() -> None:
    """Lanes that sleep stand for those that others keep from their cores; work is counted once."""

    def work(spins_s: float, sleeps_s: float) -> Callable[[], None]:
        def run() -> None:
            end_s = time.thread_time() + spins_s
            while time.thread_time() < end_s:
                pass
            time.sleep(sleeps_s)

        return run

    lanes = MeteredLanes(2, 2)
    lanes.run([work(0.05, 0.2), work(0.01, 0.3)])
    assert 0.05 <= lanes.busy_s < 0.15
    lanes.run_one(work(0.02, 0.1))
    assert 0.07 <= lanes.busy_s < 0.2
    before_s = lanes.busy_s
    lanes.run([work(0.01, 0.0)])  # by the caller's own thread, whose clock counts it
    assert lanes.busy_s == before_s
    lanes.close()


@pytest.mark.parametrize("lanes", [1, 2])
def test_a_timed_step_is_a_step_of_training(lanes: int) -> None:
    """The same losses as of the trainer it stands for, and the time of all its lanes."""
    settings = {"threads": lanes, "lanes": lanes}
    once = timed_step(TINY, step_config(2, 32, settings))
    tries = [once() for _ in range(3)]
    for found in tries:
        assert found.cpu_s is not None and 0 < found.cpu_s < 3 * found.wall_s
    spinning = timed_step(TINY, step_config(2, 32, {"threads": 2, "lanes": 1}))()
    assert spinning.cpu_s is None and spinning.wall_s > 0


def test_a_rehearsed_step_trains() -> None:
    step = rehearsed_step(TINY, config(rows=4))
    losses = [float(step().loss) for _ in range(8)]  # type: ignore[attr-defined]
    assert losses[-1] < losses[0]


def test_made_up_rows_split_into_micro_batches() -> None:
    batch = made_up_batch(TINY, config(rows=5, micro_batch_rows=2), mixed_rows=1)
    assert [len(micro.row_numbers) for micro in batch.micro_batches] == [2, 2, 1]
    assert batch.trained_tokens == 5 * 32
    assert batch.micro_batches[0].segments.lengths == ((32,), (16, 16))
