"""Step time against 1,466 published measurements, by constants that never saw the row's source."""

from __future__ import annotations

import csv
from collections import defaultdict
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from whorl.arch.shape_counts import flops_per_token
from whorl.stages.plan.cluster.memory_rows import completed
from whorl.stages.plan.cluster.rows import Metric, PublishedRow, parse_row, read_rows
from whorl.stages.plan.cluster.seconds import constants, sources
from whorl.stages.plan.cluster.step import MeasuredStep, calibrate, predict_rows, row_steps
from whorl.stages.plan.lab.rows import time_rows

FILE = Path(str(files("whorl.stages.plan.cluster") / "published/train_perf.csv"))
GIVEN_ROWS = 4  # of a machine and stack, each given in turn


@pytest.fixture(scope="module")
def rows() -> list[PublishedRow]:
    found = [completed(row) for row in read_rows(FILE)]
    assert len(found) == 1466
    assert all(row.job and row.measured for row in found)
    return found


def _median_by_source(rows: list[PublishedRow], errors: np.ndarray) -> dict[str, float]:
    groups = defaultdict(list)
    for row, error in zip(rows, errors, strict=True):
        groups[row.source].append(error)
    return {source: float(np.median(found)) for source, found in groups.items()}


def test_every_source_was_left_out_once(rows: list[PublishedRow]) -> None:
    assert set(sources()) == {row.source for row in time_rows()}


def test_uncalibrated_error_is_half_the_floor(rows: list[PublishedRow]) -> None:
    """The floor: the median FLOP/s that rows of the device, precision and kind achieved."""
    measured = np.array([row.measured for row in rows], dtype=float)
    predicted = np.array([item[0] for item in predict_rows(rows) if item], dtype=float)
    kinds, flops = [], []
    for row in rows:
        assert row.job
        kinds.append((row.job.device.name, row.job.precision, row.job.shape.experts is not None))
        flops.append(flops_per_token(row.job.shape, row.job.seq_len).training)
    achieved = measured * np.array(flops)
    medians = {
        kind: np.median(
            [rate for rate, other in zip(achieved, kinds, strict=True) if other == kind]
        )
        for kind in set(kinds)
    }
    floor = np.array([medians[kind] for kind in kinds]) / achieved - 1
    error = _median_by_source(rows, np.abs(predicted / measured - 1))
    assert np.mean(list(error.values())) <= np.median(np.abs(floor)) / 2
    assert np.mean(list(error.values())) <= 0.10


def test_intervals_hold_what_they_say(rows: list[PublishedRow]) -> None:
    inside = []
    for row, item in zip(rows, predict_rows(rows), strict=True):
        assert item and row.measured
        inside.append(item[1] <= row.measured <= item[2])
    by_source = defaultdict(list)
    for row, held in zip(rows, inside, strict=True):
        by_source[row.source].append(held)
    assert 0.85 <= np.mean(inside) <= 0.97  # half of the rows are one source's
    assert 0.85 <= np.mean([np.mean(held) for held in by_source.values()]) <= 0.95


def test_one_measured_row_calibrates_its_machine(rows: list[PublishedRow]) -> None:
    groups = defaultdict(list)
    for row in rows:
        groups[row.group].append(row)
    errors = defaultdict(list)
    random = np.random.default_rng(1)
    for members in groups.values():
        if len(members) < 2:
            continue
        number = min(GIVEN_ROWS, len(members))
        for index in random.choice(len(members), number, replace=False):
            given = members[index]
            others = [row for row in members if row is not given]
            step, _ = row_steps(calibrate([_step(given)], without=given.source), others)
            actual = np.array([_step(row).step_s for row in others])
            errors[given.source].extend(np.abs(actual / step - 1))
    assert np.mean([np.median(found) for found in errors.values()]) <= 0.085


def _step(row: PublishedRow) -> MeasuredStep:
    assert row.job and row.measured
    return MeasuredStep(row.job, row.job.tokens_per_step / row.job.layout.devices / row.measured)


@pytest.mark.parametrize(
    ("name", "column", "metric"),
    [
        ("train_perf.csv", "tokens_per_s_per_gpu_norm", "tokens_per_s_per_device"),
        ("train_memory.csv", "peak_mem_gib", "peak_gib"),
    ],
)
def test_measured_columns_do_not_reach_the_job(name: str, column: str, metric: Metric) -> None:
    with FILE.with_name(name).open(encoding="utf-8", newline="") as lines:
        for fields in csv.DictReader(lines):
            row, forged = (parse_row(f, metric) for f in (fields, {**fields, column: "777"}))
            assert forged.measured == 777
            assert replace(forged, measured=row.measured) == row


def test_a_known_source_has_constants_that_never_saw_it() -> None:
    for source in sources():
        assert constants(source).values != constants().values, source
    assert constants("no-such/source") == constants()


def test_what_a_row_does_not_state_widens_its_interval(rows: list[PublishedRow]) -> None:
    stated = next(row for row in rows if not row.inferred)
    unstated = replace(stated, inferred=frozenset({"recompute"}))
    sharp, wide = predict_rows([stated, unstated])
    assert sharp and wide
    assert wide[2] > sharp[2] and wide[1] < sharp[1]
    assert wide[0] == sharp[0]


def test_thousand_rows_take_seconds(rows: list[PublishedRow]) -> None:
    from time import process_time

    start = process_time()
    predict_rows(rows[:1000])
    assert process_time() - start < 20
