"""Errors of the planner on published rows, for planner_accuracy.py.

Every row is predicted by constants fitted without its source; sources count equally. Beside it the
floor, which knows of a job only its device, precision and kind: the median FLOP/s that rows of
these achieved.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from whorl.arch.shape_counts import flops_per_token
from whorl.stages.plan.cluster.memory import fits
from whorl.stages.plan.cluster.memory_rows import completed, predict_row_memory
from whorl.stages.plan.cluster.rows import PublishedRow, read_rows
from whorl.stages.plan.cluster.step import MeasuredStep, calibrate, predict_rows, row_steps

ROOT = Path(__file__).parents[1]
PUBLISHED = ROOT / "src/whorl/stages/plan/cluster/published"
CALIBRATING_ROWS = 24  # of a group, each given in turn
SIZES = ((1e9, "below 1B"), (10e9, "1B to 10B"), (100e9, "10B to 100B"), (math.inf, "above 100B"))
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Result:
    """One row: predicted and measured, in tokens/s per device or GiB."""

    row: PublishedRow
    predicted: float
    low: float
    high: float
    measured: float
    floor: float | None = None

    @property
    def error(self) -> float:
        return self.predicted / self.measured - 1

    @property
    def inside(self) -> bool:
        return self.low <= self.measured <= self.high


def time_results() -> list[Result]:
    rows = [completed(row) for row in read_rows(PUBLISHED / "train_perf.csv")]
    rows = [row for row in rows if row.job and row.measured]
    floors = floor_rates(rows)
    found = []
    for row, item, floor in zip(rows, predict_rows(rows), floors, strict=True):
        assert item and row.measured
        found.append(Result(row, *item, row.measured, floor))
    return found


def floor_rates(rows: Sequence[PublishedRow], *, own_source: bool = False) -> list[float]:
    """tokens/s per device from the median achieved FLOP/s of device, precision, dense or experts.

    own_source=False: of other sources' rows; where there are none, their median share of the peak.
    """
    flops = np.array([_flops(row) for row in rows])
    achieved = flops * np.array([row.measured for row in rows], dtype=float)
    peak = np.array([row.job.device.peak(row.job.precision) for row in rows if row.job])
    kinds = np.array([_kind(row) for row in rows])
    sources = np.array([row.source for row in rows])
    rates = []
    for index in range(len(rows)):
        others = np.ones(len(rows), bool) if own_source else sources != sources[index]
        alike = others & (kinds == kinds[index])
        rate = np.median((achieved / peak)[others]) * peak[index]
        rates.append(float(np.median(achieved[alike]) if alike.any() else rate) / flops[index])
    return rates


def _kind(row: PublishedRow) -> str:
    assert row.job
    return f"{row.job.device.name} {row.job.precision} {row.job.shape.experts is not None}"


def _flops(row: PublishedRow) -> float:
    assert row.job
    return flops_per_token(row.job.shape, row.job.seq_len).training


def calibrated_errors(rows: Iterable[PublishedRow], *, tables: bool = False) -> dict[str, Array]:
    """Source -> absolute errors of all other rows of a machine and stack, given one of them."""
    groups = defaultdict(list)
    for row in rows:
        groups[row.group].append(row)
    random = np.random.default_rng(0)
    errors: dict[str, list[Array]] = defaultdict(list)
    for members in groups.values():
        given = members
        if len(members) > CALIBRATING_ROWS:
            picked = random.choice(len(members), CALIBRATING_ROWS, replace=False)
            given = [members[index] for index in picked]
        for one in given if len(members) > 1 else ():
            others = [row for row in members if row is not one]
            model = calibrate([_measured(one)], without=one.source, tables=tables)
            step, _ = row_steps(model, others)
            actual = np.array([_measured(row).step_s for row in others])
            errors[one.source].append(np.abs(actual / step - 1))
    return {source: np.concatenate(found) for source, found in errors.items()}


def _measured(row: PublishedRow) -> MeasuredStep:
    assert row.job and row.measured
    return MeasuredStep(row.job, row.job.tokens_per_step / row.job.layout.devices / row.measured)


def memory_results() -> list[Result]:
    found = []
    for row in read_rows(PUBLISHED / "train_memory.csv"):
        if row.job and row.measured and not row.oom:
            predicted, low, high, _ = predict_row_memory(row)
            found.append(Result(row, predicted, low, high, row.measured))
    return found


def memory_verdicts() -> dict[str, tuple[int, int]]:
    """What must fit or be refused -> (rows that do as they must, rows)."""
    rows = [row for row in read_rows(PUBLISHED / "train_memory.csv") if row.job]
    measured = [row for row in rows if row.measured and not row.oom]
    oom = [row for row in rows if row.oom]

    def count(
        chosen: Sequence[PublishedRow], right: Callable[[PublishedRow], bool]
    ) -> tuple[int, int]:
        return sum(right(row) for row in chosen), len(chosen)

    return {
        "measured rows that fit their device": count(measured, _fits),
        "measured rows refused at 0.8 of their own peak": count(measured, _refused_below),
        "runs that failed for lack of memory, refused": count(oom, lambda row: not _fits(row)),
    }


def _fits(row: PublishedRow) -> bool:
    return predict_row_memory(row)[3] is None


def _refused_below(row: PublishedRow) -> bool:
    assert row.job and row.measured
    return not fits(row.job, memory_bytes=0.8 * row.measured * 2**30)


def identical_spread(results: Sequence[Result]) -> tuple[int, float]:
    """(rows that share all inputs with another, median spread of such rows: high over low - 1)."""
    groups = defaultdict(list)
    for item in results:
        groups[item.row.source, repr(item.row.job)].append(item.measured)
    shared = [values for values in groups.values() if len(values) > 1]
    spread = [max(values) / min(values) - 1 for values in shared]
    return sum(map(len, shared)), float(np.median(spread)) if spread else math.nan


def table(results: Sequence[Result], key: Callable[[Result], str], title: str) -> list[str]:
    """Markdown: one line per value of key, every row counting the same."""
    groups = defaultdict(list)
    for item in results:
        groups[key(item)].append(item)
    floor = results[0].floor is not None
    lines = [
        f"| {title} | rows | median | p90 | bias | inside 90% |" + (" floor |" if floor else ""),
        "| --- | ---: | ---: | ---: | ---: | ---: |" + (" ---: |" if floor else ""),
    ]
    for name in sorted(groups):
        lines.append(f"| {name} | {_cells(groups[name])} |")
    return [*lines, ""]


def _cells(items: Sequence[Result]) -> str:
    error = np.array([item.error for item in items])
    inside = np.mean([item.inside for item in items])
    cells = [str(len(items)), _percent(np.median(np.abs(error)))]
    cells += [_percent(np.quantile(np.abs(error), 0.9)), f"{100 * np.median(error):+.1f}%"]
    cells.append(_percent(inside, 0))
    if items[0].floor is not None:
        cells.append(_percent(np.median([_floor_error(item) for item in items])))
    return " | ".join(cells)


def _floor_error(item: Result) -> float:
    assert item.floor is not None
    return abs(item.floor / item.measured - 1)


def _percent(value: float | np.floating, digits: int = 1) -> str:
    return f"{100 * float(value):.{digits}f}%"


def by_source(results: Sequence[Result], value: Callable[[Sequence[Result]], float]) -> float:
    """Mean over sources of a figure of each."""
    groups = defaultdict(list)
    for item in results:
        groups[item.row.source].append(item)
    return float(np.mean([value(items) for items in groups.values()]))


def median_error(items: Sequence[Result]) -> float:
    return float(np.median([abs(item.error) for item in items]))


def p90_error(items: Sequence[Result]) -> float:
    return float(np.quantile([abs(item.error) for item in items], 0.9))


def coverage(items: Sequence[Result]) -> float:
    return float(np.mean([item.inside for item in items]))


def pooled_floor_error(results: Sequence[Result]) -> float:
    """Median over all rows of the floor that has seen the row's own source."""
    rows = [item.row for item in results]
    rates = floor_rates(rows, own_source=True)
    errors = [rate / item.measured - 1 for rate, item in zip(rates, results, strict=True)]
    return float(np.median(np.abs(errors)))


def weighted_median_error(results: Sequence[Result]) -> float:
    """Over all rows, each source's rows counting together as one."""
    sources = [item.row.source for item in results]
    weight = np.array([1 / sources.count(source) for source in sources])
    error = np.abs([item.error for item in results])
    order = np.argsort(error)
    return float(error[order][np.searchsorted(np.cumsum(weight[order]) / weight.sum(), 0.5)])


def floor_error(items: Sequence[Result]) -> float:
    return float(np.median([_floor_error(item) for item in items]))


def size_of(item: Result) -> str:
    assert item.row.job
    total = flops_per_token(item.row.job.shape, 1).forward / 2
    return next(f"{index} {name}" for index, (limit, name) in enumerate(SIZES) if total < limit)
