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
Array = NDArray[np.float64]

# Mean and deviation of each constant before any run is seen. What code keeps even from large models
# is taken from published ones (about 0.6 bits per byte); quality goes along with what xz makes of
# the text; the rest is open.
PRIOR = {
    "log_e": (np.log(0.6), 0.15),
    "log_k": (np.log(1.6), 0.5),
    "size": (0.05, 0.1),
    "data": (0.2, 0.2),
    "both": (0.02, 0.05),
    "gamma": (0.7, 0.3),
    "log_r": (np.log(8.0), 0.7),
    "log_o": (np.log(0.02), 1.5),
    "power": (1.6, 0.4),
    "log_s": (np.log(0.1), 0.7),
}
RUN_NOISE = 0.02  # log deviation of one run from another


def read_runs(path: Path) -> tuple[Array, Array, list[dict[str, str]]]:
    """([runs, 4] of parameters, trained bytes, unique bytes, xz; bits per byte [runs]; rows)."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    both = sorted((float(row["bpb_plain"]), float(row["bpb"])) for row in rows if row["bpb"])
    plain_of = [plain for plain, _ in both]
    ratios = [windowed / plain for plain, windowed in both]
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
        plain = float(row["bpb_plain"])
        values.append(float(row["bpb"] or plain * np.interp(plain, plain_of, ratios)))
    shown = ", ".join(
        f"{ratio:.3f} at {plain:.2f}" for plain, ratio in zip(plain_of, ratios, strict=True)
    )
    print(f"{len(rows)} runs; overlapping windows / plain rows: {shown}")
    return np.array(columns), np.array(values), rows


def fit(columns: Array, values: Array, start: Array, prior: Array) -> Array:
    """The constants: prior [constants, 2] of mean and deviation."""

    def residuals(constants: Array) -> Array:
        errors = np.log(bits_per_byte(constants, *columns.T) / values) / RUN_NOISE
        return np.concatenate([errors * weights(columns), (constants - prior[:, 0]) / prior[:, 1]])

    return np.asarray(least_squares(residuals, start, max_nfev=4000).x)


def weights(columns: Array) -> Array:
    """Root of the bytes read, 1 at a megabyte: plans lie at the long end of the runs."""
    return np.sqrt(columns[:, 1] / 1e6).clip(0.5, 3.0)


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


def rounded(values: Sequence[float] | Array) -> list[float]:
    return [round(float(value), 5) for value in values]


def main() -> None:
    columns, values, _ = read_runs(FOLDER / "whorl_runs.csv")
    prior = np.array([PRIOR[name] for name in CONSTANTS])
    best = fit(columns, values, prior[:, 0], prior)
    errors = np.log(bits_per_byte(best, *columns.T) / values)
    freedom = max(1, len(values) - len(CONSTANTS) + 2)
    squares = weights(columns) ** 2 * errors**2
    residual = float(np.sqrt(squares.sum() / (weights(columns) ** 2).mean() / freedom))
    sizes = left_out(columns, values, prior)
    for name, value in zip(CONSTANTS, best, strict=True):
        print(f"  {name:8} {value:8.4f}")
    print(f"log deviation of the runs {residual:.4f}; worst {np.abs(errors).max():.3f}")
    for size, error in sizes.items():
        print(f"  without the runs of {size:>9,} parameters: mean error on them {error:.2%}")
    law = {
        "name": "whorl-small-cpu",
        "fitted_at": datetime.now(UTC).date().isoformat(),
        "num_runs": len(values),
        "constants": rounded(best),
        "bootstrap": [rounded(item) for item in resampled(columns, values, best, prior)],
        "residual": round(residual, 5),
        "leave_one_size_out": round(float(np.mean(list(sizes.values()))), 5),
        "runs": [
            {
                "parameters": int(parameters),
                "trained_bytes": round(trained_bytes),
                "unique_bytes": round(unique_bytes),
                "xz_bits_per_byte": xz,
            }
            for parameters, trained_bytes, unique_bytes, xz in columns
        ],
    }
    (FOLDER / "law.json").write_text(json.dumps(law, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
