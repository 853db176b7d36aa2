"""Reports of practitioners and rows of other planners, by constants blind to their source."""

from __future__ import annotations

import re
import statistics
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from whorl.planning import answer
from whorl.stages.plan.cluster.memory import rank_memory
from whorl.stages.plan.cluster.memory_rows import predict_row_memory, predict_row_oom, verdict
from whorl.stages.plan.cluster.rows import PublishedRow, read_rows
from whorl.stages.plan.cluster.seconds import constants
from whorl.stages.plan.cluster.step import predict_rows, untested
from whorl.stages.plan.lab.reports import read_reports
from whorl.stages.plan.lab.rows import FOLDER, memory_rows, report_rows, time_rows

Rows = Callable[[], list[PublishedRow]]
Scored = Callable[[list[PublishedRow]], tuple[np.ndarray, np.ndarray]]


def timed(rows: list[PublishedRow]) -> tuple[np.ndarray, np.ndarray]:
    """(errors of rates, whether the interval holds what was measured)."""
    error, inside = [], []
    for row, item in zip(rows, predict_rows(rows), strict=True):
        assert item and row.measured
        predicted, low, high = item
        error.append(predicted / row.measured - 1)
        inside.append(low <= row.measured <= high)
    return np.array(error), np.array(inside)


def peaks(rows: list[PublishedRow]) -> tuple[np.ndarray, np.ndarray]:
    error, inside = [], []
    for row in rows:
        predicted, low, high, _ = predict_row_memory(row)
        assert row.measured
        error.append(predicted / row.measured - 1)
        inside.append(low <= row.measured <= high)
    return np.array(error), np.array(inside)


def test_step_times_of_reports() -> None:
    rows = [row for row in report_rows("tokens_per_s_per_device") if row.measured]
    error, inside = timed(rows)
    assert len(rows) >= 36
    assert np.median(np.abs(error)) <= 0.16
    assert 0.75 <= inside.mean() <= 0.97


def test_peaks_of_reports() -> None:
    error, inside = peaks([row for row in report_rows("peak_gib") if row.measured])
    assert len(error) >= 40
    assert np.median(np.abs(error)) <= 0.11
    assert 0.7 <= inside.mean() <= 0.97


@pytest.mark.parametrize(("every", "inside_of"), [(time_rows, timed), (memory_rows, peaks)])
def test_intervals_hold_what_they_say_of_sources_left_out(every: Rows, inside_of: Scored) -> None:
    """Of tables, other planners and reports; sources equally, those of few rows less."""
    rows = [row for row in every() if row.measured and not row.oom]
    size = Counter(row.source for row in rows)
    weight = [min(1, size[row.source] / 8) / size[row.source] for row in rows]
    assert 0.85 <= np.average(inside_of(rows)[1], weights=weight) <= 0.97


def test_runs_out_of_memory_are_not_said_to_fit_and_those_that_ran_are_not_refused() -> None:
    every = [item.row for item in read_reports(FOLDER / "reports.csv") if not item.served]
    runs = {(row.id, row.oom): row for row in every if row.job is not None}
    failed = [row for row in runs.values() if row.oom]
    ran = [row for row in runs.values() if not row.oom]
    assert len(failed) >= 13 and len(ran) >= 44
    said = Counter(verdict(row) for row in failed)
    assert said["fits"] == 0 and said["does not fit"] >= 0.8 * len(failed)
    said = Counter(verdict(row) for row in ran)
    assert said["does not fit"] <= len(ran) / 20 and said["fits"] >= 0.6 * len(ran)
    for low, high in (predict_row_oom(row)[0][1:] for row in failed):
        assert low <= high


def test_small_matrices_of_experts_waste_what_torch_cannot_share() -> None:
    """128 experts of 2048 x 768 in 4 bits: two of their 0.75 MiB stand in each 2 MiB."""
    job = next(row for row in report_rows("oom") if row.id == "P03").job
    assert job is not None and job.shape.experts is not None
    tensors = 48 * 128 * 3  # layers, experts, matrices
    of_two = 2 * 2**20 - 2 * (2048 * 768 * 9 // 16)  # packed halves and scales of both
    found = rank_memory(job).parts["allocator"] - rank_memory(job, "allocated").parts.get(
        "allocator", 0.0
    )
    assert found == pytest.approx(tensors / 2 * of_two, rel=0.1)
    grouped = replace(job, stack="torchtitan")
    assert rank_memory(grouped).parts["allocator"] < found / 4


def test_peaks_that_another_planner_measured() -> None:
    """SimuMax's own machine of eight A100 PCIe: 30 rows of dense models and of experts."""
    rows = [row for row in read_rows(FOLDER / "planners_rows_memory.csv") if row.job]
    error, _ = peaks([row for row in rows if row.source == "MooreThreads/SimuMax"])
    assert len(error) == 30 and statistics.median(np.abs(error)) <= 0.03


@pytest.mark.parametrize("source", ["AMD-AGI/Primus", "MooreThreads/SimuMax"])
def test_devices_that_only_a_source_has_are_unknown_without_it(source: str) -> None:
    rows = [row for row in read_rows(FOLDER / "planners_rows.csv") if row.source == source]
    devices = {row.job.device.name for row in rows if row.job}
    assert devices <= constants().seen
    assert not devices & constants(source).seen


def test_the_reader_is_told_of_what_no_run_is_known() -> None:
    row = next(row for row in report_rows("tokens_per_s_per_device") if row.job)
    assert row.job is not None and untested(row.job) == []
    from whorl.stages.plan.cluster.devices import device

    assert "gaudi3" in untested(replace(row.job, device=device("gaudi3")))[0]


def test_a_plan_near_the_edge_says_that_it_may_not_fit() -> None:
    """A public report of it: the run took 80 of its 80 GB (ms-swift's quick start, DeepSpeed)."""
    asked = {
        "--model": "qwen2.5-14b",
        **{"--device": "a800-80", "--count": "8", "--seq": "8192", "--stack": "megatron"},
        "--global-batch-tokens": "128k",
    }
    near = answer({**asked, "--layout": "mbs=1,recompute=full,shard=zero2"})
    (line,) = (line for line in near.warnings if line.startswith("may not fit"))
    assert re.fullmatch(
        r"may not fit: needs 7\d\.\d GiB of 79\.2 GiB, by the 90% interval up to \d+\.\d GiB", line
    )
    far = answer({**asked, "--layout": "tp=8,mbs=1,recompute=full,shard=zero1"})
    assert not [line for line in far.warnings if "may not fit" in line]
