"""Fit the law of held-out bits per byte to our own runs; writes published/law.json.

    python benchmarks/fit_law.py

Least squares of log bits per byte with weak priors, because the runs are few; 90% intervals by
refitting resampled runs; the error on model sizes that are left out is printed and kept.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from whorl.stages.plan.law import CONSTANTS, bits_per_byte

FOLDER = Path(__file__).parents[1] / "src/whorl/stages/plan/published"
RESAMPLES = 200
ROBUST_SCALE = 0.03  # log bits per byte: beyond, a run pulls less
Array = NDArray[np.float64]

# Mean and deviation of each constant before any run is seen: exponents as in published work
# (Hoffmann et al. 2022, 2203.15556), quality in proportion to what xz makes of the text.
PRIOR = {
    "log_e": (np.log(0.55), 0.5),
    "log_a": (np.log(0.15), 1.0),
    "log_b": (np.log(1.0), 1.0),
    "alpha": (0.34, 0.1),
    "beta": (0.35, 0.15),
    "gamma": (1.0, 0.25),
    "log_r": (np.log(8.0), 0.7),
    "log_o": (np.log(0.01), 1.5),
    "power": (1.8, 0.4),
}


def read_runs(path: Path) -> tuple[Array, Array, list[dict[str, str]]]:
    """([runs, 4] of parameters, trained bytes, unique bytes, xz; bits per byte [runs]; rows)."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    both = [float(row["bpb"]) / float(row["bpb_plain"]) for row in rows if row["bpb"]]
    windowed = float(np.median(both))
    columns, values = [], []
    for row in rows:
        rate = float(row["bytes_per_token"])
        columns.append(
            (
                float(row["parameters"]),
                float(row["trained_tokens"]) * rate,
                float(row["unique_tokens"]) * rate,
                float(row["xz_bits_per_byte"]),
            )
        )
        values.append(float(row["bpb"] or windowed * float(row["bpb_plain"])))
    print(f"{len(rows)} runs; overlapping windows / plain rows {windowed:.4f} ({len(both)} runs)")
    return np.array(columns), np.array(values), rows


def fit(columns: Array, values: Array, start: Array, prior: Array) -> Array:
    """The constants: prior [constants, 2] of mean and deviation."""
    noise = 0.015  # log deviation of one run from another

    def residuals(constants: Array) -> Array:
        errors = np.log(bits_per_byte(constants, *columns.T) / values) / noise
        soft = np.sign(errors) * np.sqrt(2 * (np.sqrt(1 + errors**2) - 1))
        return np.concatenate([soft, (constants - prior[:, 0]) / prior[:, 1]])

    return np.asarray(least_squares(residuals, start, max_nfev=4000).x)


def left_out(columns: Array, values: Array, prior: Array) -> dict[int, float]:
    """Parameters of a size -> mean relative error on its runs when fitted without them."""
    errors = {}
    for size in sorted(set(columns[:, 0])):
        inside = columns[:, 0] != size
        constants = fit(columns[inside], values[inside], prior[:, 0], prior)
        predicted = bits_per_byte(constants, *columns[~inside].T)
        errors[int(size)] = float(np.abs(predicted / values[~inside] - 1).mean())
    return errors


def resampled(columns: Array, values: Array, best: Array, prior: Array) -> list[Array]:
    """Constants of resampled runs, priors drawn anew: what no run decides stays uncertain."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(RESAMPLES):
        chosen = rng.integers(len(values), size=len(values))
        drawn = prior.copy()
        drawn[:, 0] = rng.normal(prior[:, 0], prior[:, 1])
        found.append(fit(columns[chosen], values[chosen], best, drawn))
    return found


def ends(values: Array) -> tuple[float, float]:
    return float(values.min()), float(values.max())


def rounded(values: Sequence[float] | Array) -> list[float]:
    return [round(float(value), 5) for value in values]


def main() -> None:
    columns, values, _ = read_runs(FOLDER / "whorl_runs.csv")
    prior = np.array([PRIOR[name] for name in CONSTANTS])
    best = fit(columns, values, prior[:, 0], prior)
    errors = np.log(bits_per_byte(best, *columns.T) / values)
    residual = float(np.sqrt((errors**2).sum() / max(1, len(values) - len(CONSTANTS) + 2)))
    sizes = left_out(columns, values, prior)
    for name, value in zip(CONSTANTS, best, strict=True):
        print(f"  {name:8} {value:8.4f}")
    print(f"log deviation of the runs {residual:.4f}; worst {np.abs(errors).max():.3f}")
    for size, error in sizes.items():
        print(f"  without the runs of {size:>9,} parameters: mean error on them {error:.2%}")
    repetitions = columns[:, 1] / columns[:, 2] - 1
    law = {
        "name": "whorl-small-cpu",
        "fitted_at": datetime.now(UTC).date().isoformat(),
        "num_runs": len(values),
        "constants": rounded(best),
        "bootstrap": [rounded(item) for item in resampled(columns, values, best, prior)],
        "residual": round(residual, 5),
        "leave_one_size_out": round(float(np.mean(list(sizes.values()))), 5),
        "parameters_range": [int(end) for end in ends(columns[:, 0])],
        "trained_bytes_range": rounded(ends(columns[:, 1])),
        "xz_range": rounded(ends(columns[:, 3])),
        "max_repetitions": round(float(repetitions.max()), 3),
    }
    (FOLDER / "law.json").write_text(json.dumps(law, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
