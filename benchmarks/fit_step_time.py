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
from whorl.stages.plan.cluster.job import kinds_of
from whorl.stages.plan.cluster.memory_rows import completed
from whorl.stages.plan.cluster.rows import PublishedRow
from whorl.stages.plan.cluster.seconds import (
    Table,
    constants,
    jacobian,
    prior,
    seconds,
    table,
)
from whorl.stages.plan.cluster.step import unstated
from whorl.stages.plan.lab.rows import time_rows

CLUSTER = Path(__file__).parents[1] / "src/whorl/stages/plan/cluster"
SOURCE_WEIGHT, SOURCE_NOISE, SOFT = 0.5, 0.15, 0.2
SMALL_SOURCE = 8  # rows under which a source counts for less
FEW_EXPERTS_WIDTH = 2.5  # by hand, where other sources have fewer rows of experts than that
NOISE = 0.08  # of log time, what no constant explains
COVERAGE = 0.90
STEPS = 25  # of the solver, at most
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Data:
    rows: list[PublishedRow]
    amounts: Table
    log_step: Array  # [rows]
    source: NDArray[np.str_]
    weight: Array  # of each row; a source's rows add up to at most 1


def load(*, tables: bool = False) -> Data:
    rows = [completed(row) for row in time_rows()]
    source = np.array([row.source for row in rows])
    counted = table([amounts(row.job, tables) for row in rows if row.job is not None])
    rate = np.array([row.measured for row in rows], dtype=float)
    log_step = np.log(counted["step_tokens_per_device"] / rate)
    return Data(rows, counted, log_step, source, _weights(rows))


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

    theta[free] = least_squares(residuals, theta[free], max_nfev=STEPS).x
    return theta


def spread(data: Data, theta: Array, chosen: NDArray[np.bool_]) -> tuple[Array, Array]:
    """(|error| of log time, its standard deviation without doubts) of the chosen rows."""
    base, slopes = jacobian(theta, data.amounts.rows(chosen))
    left_out = np.array([unstated(row) for row in data.rows])[chosen]
    variance = (slopes**2) @ (prior().sigmas ** 2) + NOISE**2 + left_out**2
    return np.abs(base - data.log_step[chosen]), np.sqrt(variance)


def width(score: Array, weight: Array) -> float:
    """Standard deviations that hold COVERAGE of the rows by weight."""
    order = np.argsort(score)
    share = np.cumsum(weight[order]) / weight.sum()
    return float(score[order][np.searchsorted(share, COVERAGE)])


def doubt(error: Array, sigma: Array, widths: Array, weight: Array) -> float:
    """What must be added to sigma (in squares) for the intervals to hold COVERAGE by weight."""
    needed = np.sqrt(np.maximum((error / widths) ** 2 - sigma**2, 0))
    return round(width(needed, weight), 3)


@dataclass(frozen=True)
class LeftOut:
    """Every row by constants that have not seen its group; groups count equally."""

    weight: Array
    thetas: dict[str, Array]
    error: Array
    sigma: Array
    new_device: NDArray[np.bool_]  # no other group has a row of it
    new_software: NDArray[np.bool_]

    def scores(self, reach: Array) -> dict[str, float]:
        """reach: of log time, how far each row's interval goes."""
        inside, absolute = self.error <= reach, np.expm1(self.error)
        return {
            "rows": len(reach),
            "median_error": round(_quantile(absolute, self.weight, 0.5), 4),
            "p90_error": round(_quantile(absolute, self.weight, 0.9), 4),
            "inside": round(float(self.weight @ inside / self.weight.sum()), 4),
        }


def equally(groups: NDArray[np.str_]) -> Array:
    """Weights by which each group counts as much as any other, whatever its rows."""
    size = Counter(groups.tolist())
    return np.array([1 / size[name] for name in groups.tolist()])


def leave_out(data: Data, groups: NDArray[np.str_], start: Array) -> LeftOut:
    kinds = np.array([kinds_of(row.job) for row in data.rows if row.job])
    size = len(data.rows)
    error, sigma = np.zeros(size), np.zeros(size)
    new = np.zeros((2, size), bool)
    thetas = {}
    for name in sorted(set(groups)):
        own = groups == name
        thetas[name] = fit(data, ~own, start)
        error[own], sigma[own] = spread(data, thetas[name], own)
        for column in (0, 1):
            new[column, own] = ~np.isin(kinds[own, column], kinds[~own, column])
    return LeftOut(equally(groups), thetas, error, sigma, new[0], new[1])


def fit_tables(data: Data | None, theta: Array, source: str | None) -> Array:
    """theta with "tables" fitted on rows of other sources; as it was if none are installed."""
    index = prior().names.index("tables")
    if data is None:
        theta[index] = constants(source).array()[index]
        return theta
    chosen = (data.amounts["product_s"] > 0) & (data.source != source)
    return fit(data, chosen, theta, [index])


def fit_all(data: Data, looked_up: Data | None) -> dict[str, Any]:
    whole = fit(data, np.ones(len(data.rows), bool))
    kinds = np.array([kinds_of(row.job) for row in data.rows if row.job])
    by_source = leave_out(data, data.source, whole)
    by_device = leave_out(data, kinds[:, 0], whole)
    by_software = leave_out(data, kinds[:, 1], whole)
    moe = data.amounts["moe"] > 0
    known = ~by_source.new_device & ~by_source.new_software

    def widths(others: NDArray[np.bool_]) -> tuple[float, float]:
        found = []
        for chosen in (others & known & ~moe, others & known & moe):
            score = by_source.error[chosen] / by_source.sigma[chosen]
            many = chosen.sum() >= SMALL_SOURCE
            found.append(round(width(score, data.weight[chosen]), 3) if many else FEW_EXPERTS_WIDTH)
        return found[0], found[1]

    dense, experts = widths(np.ones(len(data.rows), bool))
    scale = np.where(moe, experts, dense)

    def unseen(found: LeftOut, new: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
        rows = new & ~other
        return doubt(found.error[rows], found.sigma[rows], scale[rows], found.weight[rows])

    def entry(theta: Array, source: str | None = None) -> dict[str, Any]:
        others = data.source != source
        of_dense, of_experts = widths(others)
        theta = fit_tables(looked_up, theta, source)
        values = {
            name: float(f"{value:.5g}")
            for name, value in zip(prior().names, np.exp(theta), strict=True)
        }
        return {
            "values": values,
            "dense_width": of_dense,
            "expert_width": of_experts,
            "seen": sorted(set(kinds[others].ravel().tolist())),
        }

    found = {
        "unseen_device": unseen(by_device, by_device.new_device, by_device.new_software),
        "unseen_software": unseen(by_software, by_software.new_software, by_software.new_device),
    }
    doubts = np.array([found["unseen_device"], found["unseen_software"]])
    kept = {}
    for name, left in (("source", by_source), ("device", by_device), ("software", by_software)):
        new = np.stack([left.new_device, left.new_software], axis=1)
        reach = scale * np.sqrt(left.sigma**2 + (new * doubts**2).sum(axis=1))
        kept[name] = left.scores(reach)
    return {
        **found,
        "left_out": kept,
        "all": entry(whole),
        "without": {name: entry(theta, name) for name, theta in by_source.thetas.items()},
    }


def _quantile(values: Array, weight: Array, share: float) -> float:
    order = np.argsort(values)
    held = np.cumsum(weight[order]) / weight.sum()
    return float(values[order][np.searchsorted(held, share)])


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
    print(json.dumps({name: found[name] for name in ("unseen_device", "unseen_software")}))
    print(json.dumps(found["left_out"], indent=1))
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
