"""The planner against published measurements; writes docs/planner-accuracy.md and its plots.

python benchmarks/planner_accuracy.py      # or: make planner-accuracy
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from accuracy_plots import plot_errors, plot_scatter
from planner_reports import left_out_lines, report_lines
from planner_scores import (
    Array,
    Result,
    by_source,
    calibrated_errors,
    coverage,
    floor_error,
    identical_spread,
    median_error,
    memory_results,
    memory_verdicts,
    p90_error,
    pooled_floor_error,
    size_of,
    table,
    time_results,
    weighted_median_error,
)

ROOT = Path(__file__).parents[1]
PAGE, IMAGES = ROOT / "docs/planner-accuracy.md", ROOT / "docs/images"

TEXT = (Path(__file__).parent / "planner_accuracy.md").read_text("utf-8")
INTRODUCTION, WHY = TEXT.split("<!-- tables -->\n")


def main() -> None:
    time, memory = time_results(), memory_results()
    calibrated = calibrated_errors([item.row for item in time])
    lines = [INTRODUCTION, *_summary(time, calibrated, memory), *_time(time, calibrated)]
    lines += [WHY, *_memory(memory), *report_lines(), *left_out_lines()]
    _plots(time, calibrated, memory)
    PAGE.write_text("\n".join(lines).rstrip() + "\n", "utf-8")
    print("\n".join(_summary(time, calibrated, memory)))
    print(f"wrote {PAGE.relative_to(ROOT)}")


def _summary(
    time: Sequence[Result], calibrated: dict[str, Array], memory: Sequence[Result]
) -> list[str]:
    def line(name: str, *shares: float) -> str:
        cells = [f"{100 * share:.1f}%" for share in shares]
        return f"| {name} | " + " | ".join(cells + [""] * (3 - len(cells))) + " |"

    def means(results: Sequence[Result]) -> list[float]:
        return [by_source(results, value) for value in (median_error, p90_error, coverage)]

    def given(quantile: float) -> float:
        return float(np.mean([np.quantile(error, quantile) for error in calibrated.values()]))

    return [
        "## In short",
        "",
        "Means over sources of each source's figure.",
        "",
        "| | median error | p90 | inside the 90% interval |",
        "| --- | ---: | ---: | ---: |",
        line("step time, nothing calibrated", *means(time)),
        line("step time, one row of the machine and stack given", given(0.5), given(0.9)),
        line("step time, the floor", by_source(time, floor_error)),
        line("peak memory", *means(memory)),
        "",
        "As one median over all rows, sources weighted equally, step time is off by "
        f"{100 * weighted_median_error(time):.1f}%.",
        "",
        "The floor knows a job's device, precision and kind (dense or experts) and predicts the",
        "median FLOP/s that other sources' rows of these achieved. A floor that may look at the",
        f"row's own source too is off by {100 * pooled_floor_error(time):.1f}% over all rows.",
        "",
    ]


def _time(time: Sequence[Result], calibrated: dict[str, Array]) -> list[str]:
    shared, spread = identical_spread(time)
    lines = ["## Step time", "", "![error by source](images/planner-error.png)", ""]
    lines += table(time, lambda item: item.row.source, "source")
    lines += ["One row of a machine and stack given, each in turn, the others predicted:", ""]
    lines += ["| source | predictions | median | p90 |", "| --- | ---: | ---: | ---: |"]
    lines += [
        f"| {source} | {len(error)} | {100 * np.median(error):.1f}% |"
        f" {100 * np.quantile(error, 0.9):.1f}% |"
        for source, error in sorted(calibrated.items())
    ]
    lines += ["", "![predicted and measured](images/planner-time.png)", ""]
    for title, key in (
        ("device", lambda item: item.row.job.device.name),
        ("precision", lambda item: item.row.job.precision),
        ("active parameters", size_of),
        ("kind", lambda item: "experts" if item.row.job.shape.experts else "dense"),
        ("task", lambda item: item.row.job.task),
    ):
        lines += table(time, key, title)
    lines += [
        f"**Noise floor.** {shared} rows share every input with another row of their source",
        "(repeats, releases); the median spread among such rows is",
        f"{100 * spread:.1f}%, highest over lowest.",
        "",
        "**Other planners** on the same rows stand in [planner-duel.md](planner-duel.md).",
        "",
    ]
    return lines


def _memory(memory: Sequence[Result]) -> list[str]:
    lines = ["## Peak memory", "", "![predicted and measured](images/planner-memory.png)", ""]
    lines += table(memory, lambda item: item.row.source, "source")
    lines += table(memory, lambda item: item.row.job.task if item.row.job else "", "task")
    lines += ["| must hold | rows that do | of |", "| --- | ---: | ---: |"]
    lines += [f"| {name} | {right} | {of} |" for name, (right, of) in memory_verdicts().items()]
    return [*lines, ""]


def _plots(time: Sequence[Result], calibrated: dict[str, Array], memory: Sequence[Result]) -> None:
    for name, results, unit in (("time", time, "tokens/s per device"), ("memory", memory, "GiB")):
        points = defaultdict(list)
        for item in results:
            points[item.row.source].append((item.measured, item.predicted))
        plot_scatter(IMAGES / f"planner-{name}.png", points, unit)
    errors: dict[str, dict[str, float]] = {}
    for source in {item.row.source for item in time}:
        own = [item for item in time if item.row.source == source]
        errors[source] = {"nothing calibrated": median_error(own), "floor": floor_error(own)}
        if source in calibrated:
            errors[source]["one row given"] = float(np.median(calibrated[source]))
    plot_errors(IMAGES / "planner-error.png", errors)


if __name__ == "__main__":
    main()
