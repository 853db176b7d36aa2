"""Matrix products as NVIDIA measured them: the optional tables of aiconfigurator-core.

The wheel (Apache-2.0, Linux x86-64) ships the latency of y = x W^T, x [m, k], W [n, k], for some
500 pairs (n, k) and up to 74 values of m per device and type, on kernels of three serving engines.
The fastest of them counts. Between values of m the logarithm of the time is interpolated over the
logarithm of m; a pair that was not run takes the efficiency of the nearest one that was (distance
in logarithms), and m beyond the tables that of the largest m.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whorl.arch.layers import layer_kinds, layer_matrices
from whorl.core.errors import DataError, MissingExtra
from whorl.stages.plan.cluster.job import TrainingJob
from whorl.stages.plan.facts import fact

__all__ = ["layer_products_s", "product_s", "tables_folder", "tables_note"]

PACKAGE = "aiconfigurator_core"
PURPOSE = "planning with measured tables (Linux x86-64)"
SYSTEMS: dict[str, str] = fact("systems") | fact("same_chip")
TYPES: dict[str, str] = fact("product_types")
# tensor parallelism splits their columns, of others the rows
SPLIT_INPUTS = ("o_proj", "down_proj", "out_proj")
Product = tuple[float, float, float, float]  # how many of m, n, k


@dataclass(frozen=True)
class _Grid:
    """Times of one device and type."""

    pairs: NDArray[np.float64]  # [pairs, 2], logarithms of n and k
    curves: tuple[tuple[NDArray[np.float64], NDArray[np.float64]], ...]  # log m, log seconds

    def seconds(self, m: float, n: float, k: float) -> float:
        asked = np.log([n, k])
        nearest = int(np.argmin(np.abs(self.pairs - asked).sum(axis=1)))
        log_m, log_s = self.curves[nearest]
        log_time = np.interp(math.log(m), log_m, log_s) + max(0.0, math.log(m) - log_m[-1])
        return float(np.exp(log_time + asked.sum() - self.pairs[nearest].sum()))


def tables_folder() -> Path:
    """Folder of the tables, one folder per system. Raises MissingExtra without them or pyarrow."""
    spec = find_spec(PACKAGE)
    for name, found in (("pyarrow", find_spec("pyarrow")), ("aiconfigurator-core", spec)):
        if found is None:
            raise MissingExtra.of(name, "tables", PURPOSE)
    assert spec is not None
    return Path(next(iter(spec.submodule_search_locations or ["."]))) / "systems" / "data"


@cache
def _grid(folder: Path, system: str, dtype: str) -> _Grid | None:
    import pyarrow.parquet as parquet

    names, found, same = ["n", "k", "m", "latency"], [], [("gemm_dtype", "==", dtype)]
    for path in sorted(folder.glob(f"{system}/gemm/*/*/gemm_perf.parquet")):
        try:
            rows: Any = parquet.read_table(path, columns=names, filters=same)
        except (OSError, ValueError, KeyError) as error:  # pyarrow's own errors are of these
            raise DataError(f"{path.name} is no table of products", found=error) from error
        found.append(np.array([rows[name].to_numpy() for name in names], dtype=np.float64))
    data = np.concatenate(found, axis=1) if found else np.empty((4, 0))
    data = data[:, (data > 0).all(axis=0)]
    if not data.size:
        return None
    data = np.log(data[:, np.lexsort(data[::-1])])
    data = data[:, np.r_[True, (np.diff(data[:3]) != 0).any(axis=0)]]  # the fastest of each
    starts = np.flatnonzero(np.r_[True, (np.diff(data[:2]) != 0).any(axis=0)])
    curves = tuple(
        (part[2], part[3] - math.log(1000)) for part in np.split(data, starts[1:], axis=1)
    )
    return _Grid(data[:2, starts].T, curves)


@lru_cache(maxsize=65536)
def product_s(device: str, precision: str, m: float, n: float, k: float) -> float | None:
    """Seconds of a product of [m, k] by [k, n]; None where nothing was measured.

    Raises MissingExtra without the tables or pyarrow, DataError if a table cannot be read.
    """
    folder = tables_folder()
    system, dtype = SYSTEMS.get(device), TYPES.get(precision)
    grid = _grid(folder, system, dtype) if system and dtype else None
    return grid.seconds(m, n, k) if grid else None


def tables_note(job: TrainingJob) -> str:
    """What to tell the reader of a plan that asked for tables."""
    name = f"{job.precision} products on {job.device.name}"
    if product_s(job.device.name, job.precision, 1024, 1024, 1024) is None:
        return f"no measured tables of {name}: the built-in curve is used"
    return f"{name} from the measured tables of aiconfigurator-core"


def layer_products_s(
    job: TrainingJob, tokens: float, backward: float, repeated: float
) -> float | None:
    """Seconds of the products of all layers for `tokens` of one rank, as fast as measured.

    backward: products per forward one (1: frozen weights); repeated: share recomputed.
    """
    total = 0.0
    for number, m, n, k in _products(job, tokens):
        times = [
            product_s(job.device.name, job.precision, *sizes)
            for sizes in ((m, n, k), (m, k, n), (n, k, m))  # output, input and weight gradient
        ]
        if None in times:
            return None
        forward, inputs, weights = (time or 0.0 for time in times)
        total += number * (forward * (1 + repeated) + inputs + weights * (backward - 1))
    return total


def _products(job: TrainingJob, tokens: float) -> Iterator[Product]:
    """Forward products of all layers; those with the same input are one, as stacks fuse them."""
    shape, layout = job.shape, job.layout
    numbers = layer_kinds(shape)
    numbers[list(numbers)[-1]] += shape.predicted_tokens
    for layer, number in numbers.items():
        fused: dict[tuple[str, int, bool], Product] = {}
        for matrix in layer_matrices(shape, layer):
            split = matrix.name in SPLIT_INPUTS
            key = (matrix.kind, matrix.columns, split)
            if matrix.kind == "router" or matrix.rows == 1:
                continue
            if matrix.kind == "expert":  # whole experts, on the tokens of this rank
                copies = matrix.count / layout.ep
                m = max(1.0, tokens * matrix.active / copies / layout.tp)
                rows, columns = float(matrix.rows), float(matrix.columns)
            else:
                copies, m = 1.0, tokens
                rows = matrix.rows / (1 if split else layout.tp)
                columns = matrix.columns / (layout.tp if split else 1)
            before = fused.get(key, (0.0, 0.0, 0.0, 0.0))[2]
            fused[key] = (number * copies, m, before + rows, columns)
        yield from fused.values()
