"""Fit the constants of step time on published steps, once on all and once without each source.

    python benchmarks/fit_step_time.py            # prints the constants, writes nothing
    python benchmarks/fit_step_time.py --write    # and writes cluster/constants.json

The prior and spread of every constant stand in that file and are not touched. Every source counts
as SOURCE_WEIGHT measurements with an error of SOURCE_NOISE, however many rows it has: its rows
share a machine and a software, so they are far from independent. Weighted least squares of the
logarithm with a soft-L1 loss; nothing is tuned on the source that is left out. The constant
"tables" is fitted after all others, which it leaves alone, where the measured tables are installed.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from whorl.core.errors import MissingExtra
from whorl.stages.plan.cluster.amounts import amounts
from whorl.stages.plan.cluster.row_defaults import completed
from whorl.stages.plan.cluster.rows import PublishedRow, read_rows
from whorl.stages.plan.cluster.seconds import (
    Table,
    constants,
    jacobian,
    prior,
    seconds,
    table,
)

CLUSTER = Path(__file__).parents[1] / "src/whorl/stages/plan/cluster"
ROWS = CLUSTER / "published/train_perf.csv"
SOURCE_WEIGHT, SOURCE_NOISE, SOFT = 0.5, 0.15, 0.2
SMALL_SOURCE = 8  # rows under which a source counts for less
FEW_EXPERTS_WIDTH = 2.5  # by hand, where other sources have fewer rows of experts than that
NOISE = 0.08  # of log time, what no constant explains
COVERAGE = 0.90
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Data:
    rows: list[PublishedRow]
    amounts: Table
    log_step: Array  # [rows]
    source: NDArray[np.str_]
    weight: Array  # of each row; a source's rows add up to at most 1


def load(path: Path = ROWS, *, tables: bool = False) -> Data:
    rows = [completed(row) for row in read_rows(path)]
    rows = [row for row in rows if row.job is not None and row.measured]
    source = np.array([row.source for row in rows])
    counted = table([amounts(row.job, tables) for row in rows if row.job is not None])
    rate = np.array([row.measured for row in rows])
    return Data(
        rows, counted, np.log(counted["step_tokens_per_device"] / rate), source, _weights(rows)
    )


def _weights(rows: list[PublishedRow]) -> Array:
    """Sources equally, and within a source its machines and precisions equally."""
    groups = Counter((row.source, row.group) for row in rows)
    of_source = Counter(source for source, _ in groups)
    size = Counter(row.source for row in rows)
    return np.array(
        [
            min(1, size[row.source] / SMALL_SOURCE)
            / of_source[row.source]
            / groups[row.source, row.group]
            for row in rows
        ]
    )


def fit(
    data: Data, chosen: NDArray[np.bool_], start: Array | None = None, free: Any = slice(None)
) -> Array:
    """Logarithms of the constants, from the chosen rows; those that are not free stay at start."""
    p, rows = prior(), data.amounts.rows(chosen)
    theta = np.array(p.means if start is None else start)
    scale = np.sqrt(data.weight[chosen] * SOURCE_WEIGHT) * SOFT / SOURCE_NOISE

    def residuals(values: Array) -> Array:
        theta[free] = values
        error = np.log(seconds(theta, rows)[0]) - data.log_step[chosen]
        soft = np.sign(error) * np.sqrt(2 * (np.sqrt(1 + (error / SOFT) ** 2) - 1))
        return np.concatenate([soft * scale, (theta - p.means) / p.sigmas])

    theta[free] = least_squares(residuals, theta[free], max_nfev=40).x
    return theta


def standardised(data: Data, theta: Array, chosen: NDArray[np.bool_]) -> Array:
    """|error| over its standard deviation, of the chosen rows."""
    base, slopes = jacobian(theta, data.amounts.rows(chosen))
    spread = np.sqrt((slopes**2) @ (prior().sigmas ** 2) + NOISE**2)
    return np.asarray(np.abs(base - data.log_step[chosen]) / spread)


def width(score: Array, weight: Array) -> float:
    """Standard deviations that hold COVERAGE of the rows by weight."""
    order = np.argsort(score)
    share = np.cumsum(weight[order]) / weight.sum()
    return float(score[order][np.searchsorted(share, COVERAGE)])


def fit_tables(data: Data | None, theta: Array, source: str | None) -> Array:
    """theta with "tables" fitted on rows of other sources; as it was if none are installed."""
    index = prior().names.index("tables")
    if data is None:
        theta[index] = constants(source).array()[index]
        return theta
    chosen = (data.amounts["product_s"] > 0) & (data.source != source)
    return fit(data, chosen, theta, [index])


def fit_all(data: Data, looked_up: Data | None) -> dict[str, Any]:
    names = sorted(set(data.source))
    thetas = {name: fit(data, data.source != name) for name in names}
    score = np.zeros(len(data.rows))
    for name in names:
        own = data.source == name
        score[own] = standardised(data, thetas[name], own)
    moe = data.amounts["moe"] > 0

    def entry(theta: Array, source: str | None = None) -> dict[str, Any]:
        others = data.source != source
        theta = fit_tables(looked_up, theta, source)
        experts, dense = others & moe, others & ~moe
        of_experts = FEW_EXPERTS_WIDTH
        if experts.sum() >= SMALL_SOURCE:
            of_experts = round(width(score[experts], data.weight[experts]), 3)
        values = {
            name: float(f"{value:.5g}")
            for name, value in zip(prior().names, np.exp(theta), strict=True)
        }
        return {
            "values": values,
            "dense_width": round(width(score[dense], data.weight[dense]), 3),
            "expert_width": of_experts,
        }

    return {
        "all": entry(fit(data, np.ones(len(data.rows), bool))),
        "without": {name: entry(thetas[name], name) for name in names},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--write", action="store_true", help="write cluster/constants.json")
    write = parser.parse_args().write
    try:
        looked_up = load(tables=True)
    except MissingExtra as error:
        print(f"{error}; the constant of the tables stays as it is")
        looked_up = None
    found = fit_all(load(), looked_up)
    path = CLUSTER / "constants.json"
    document = json.loads(path.read_text("utf-8"))
    for item in document["constants"]:
        value = found["all"]["values"][item["name"]]
        print(f"{item['name']:24} prior {item['prior']:10.4g} fitted {value:10.4g} {item['unit']}")
    if write:
        document |= {
            "about": "priors and spreads by hand, values by benchmarks/fit_step_time.py",
            "noise": NOISE,
            **found,
        }
        path.write_text(json.dumps(document, indent=1) + "\n", "utf-8")
        print(f"wrote {path.name}")


if __name__ == "__main__":
    main()
