"""Step time with the measured tables of products against without, on rows whose device has some.

    pip install pyarrow==26.0.1 aiconfigurator-core==0.12.0
    python benchmarks/tables_accuracy.py

Every row by constants fitted without its source; sources count equally.
"""

from __future__ import annotations

import numpy as np
from fit_step_time import Array, load
from planner_scores import calibrated_errors

from whorl.core.errors import MissingExtra
from whorl.stages.plan.cluster.rows import PublishedRow
from whorl.stages.plan.cluster.step import calibrate, row_steps


def errors(rows: list[PublishedRow], measured: Array, source: str, *, tables: bool) -> Array:
    """Absolute relative errors of one source's rates."""
    own = [index for index, row in enumerate(rows) if row.source == source]
    model = calibrate([], without=source, tables=tables)
    step, _ = row_steps(model, [rows[index] for index in own])
    return np.asarray(np.abs(measured[own] / step - 1))


def main() -> None:
    try:
        data = load(tables=True)
    except MissingExtra as error:
        print(error)
        return
    chosen = np.flatnonzero(data.amounts["product_s"] > 0)
    rows, measured = [data.rows[index] for index in chosen], np.exp(data.log_step[chosen])
    given = {tables: calibrated_errors(rows, tables=tables) for tables in (False, True)}
    names = ("median, curve", "median, tables", "p90, curve", "p90, tables")
    heads = [f"{len(rows)} rows", *names, *(f"given: {name}" for name in names)]
    print("| " + " | ".join(heads) + " |")
    print("| --- |" + " ---: |" * 8)
    lines = []
    for source in sorted({row.source for row in rows}):
        found = [errors(rows, measured, source, tables=tables) for tables in (False, True)]
        cells = [float(np.quantile(error, q)) for q in (0.5, 0.9) for error in found]
        cells += [
            float(np.quantile(given[tables][source], q)) if source in given[tables] else np.nan
            for q in (0.5, 0.9)
            for tables in (False, True)
        ]
        lines.append((source, cells))
    lines.append(("mean of sources", list(np.nanmean([cells for _, cells in lines], axis=0))))
    for source, cells in lines:
        shares = ("" if np.isnan(cell) else f"{100 * cell:.1f}%" for cell in cells)
        print(f"| {source} | " + " | ".join(shares) + " |")


if __name__ == "__main__":
    main()
