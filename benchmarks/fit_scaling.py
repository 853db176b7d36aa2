"""Fit the families of published losses; writes published/scaling_laws.json, docs/scaling-laws.md.

    python benchmarks/fit_scaling.py               fit, test on held-out points, write the page
    python benchmarks/fit_scaling.py --copy A.csv  first copy from A.csv the points needed here

Half a minute on one core; the same points give the same files. The page's words are those of
fit_scaling.md beside this file.
"""

from __future__ import annotations

import csv
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from whorl.stages.plan.laws.allocate import step_law
from whorl.stages.plan.laws.fit import EXACT, FEW_POINTS, FitOptions, Points, fit_law
from whorl.stages.plan.laws.law import NORMAL_90, REACH_PER_DECADE, PowerLaw, log_loss
from whorl.stages.plan.laws.named import LAWS_FILE, find_law, law_names
from whorl.stages.plan.laws.rungs import LADDER

Array = NDArray[np.float64]
ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "src/whorl/stages/plan/published"
POINTS_FILE, PAGE = FOLDER / "scaling_points.csv", ROOT / "docs/scaling-laws.md"
TEXT = Path(__file__).with_name("fit_scaling.md")
COLUMNS = (
    *("id", "family", "model", "params", "tokens", "loss"),
    *("learning_rate", "batch_tokens", "left_out"),
)
RESAMPLES = 100
FRACTIONS = (10, 30)  # fit on at most this part of the largest compute, predict the largest
LARGEST_SHARE = 3  # of the compute: what counts as the largest
LADDER_STEPS = (4, 10)  # compute of a ladder's target over that of its last rung

# start of a family's name -> where it comes from, how its parameters are counted
SOURCES = {
    "chinchilla-refit": ("Hoffmann et al. 2022, figure 4 as read by Epoch AI", "as plotted, total"),
    "gadre": ("Gadre et al. 2024, mlfoundations/scaling", "total"),
    "olmo2": ("OLMo 2 ladder, allenai/OLMo-ladder", "as the repository says"),
    "steplaw": ("Li et al. 2025, step-law/steplaw", "non-embedding"),
    "llama_3": ("Llama 3, isoFLOP figure, by Open-Athena/scaling-law-analysis", "as the source"),
    "marin": ("Marin, March 2026, by Open-Athena/scaling-law-analysis", "as the source"),
    "misfitting": ("Misfitting, by Open-Athena/scaling-law-analysis", "as the source"),
}
MIN_TOKENS_PER_PARAM = 0.45  # drops the five points that Besiroglu et al. drop


# ------------------------------------------------------------------ points


def copy(path: Path) -> None:
    """Copy the points of a file with the columns of published/scaling.csv."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["kind"] == "point"]
    with POINTS_FILE.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for row in rows:
            _, is_sparse, active = row["params_def"].partition("active ")
            writer.writerow(
                {
                    "id": row["id"],
                    "family": family_of(row),
                    "model": active if is_sparse else "",
                    "params": f"{float(row['params']):.7g}",
                    "tokens": f"{float(row['tokens']):.7g}",
                    "loss": f"{float(row['loss']):.6g}",
                    "learning_rate": row["lr"] and f"{float(row['lr']):.4g}",
                    "batch_tokens": row["batch_tokens"] and f"{float(row['batch_tokens']):.7g}",
                    "left_out": left_out(row),
                }
            )


def family_of(row: dict[str, str]) -> str:
    """One source, data set and kind of loss."""
    name, kind, data = row["family"], row["loss_kind"], row["dataset"]
    if name == "chinchilla":
        return "chinchilla-refit"
    if name.startswith("gadre"):
        return f"gadre-{data.removesuffix('_original')}-on-{kind.partition('_val')[0]}"
    if name.startswith("olmo2"):
        return f"olmo2-on-{kind.partition(' ')[0].removesuffix('_en')}"
    if name.startswith(("marin", "misfitting", "llama_3")):
        return "-".join(dict.fromkeys((name.partition("_2026")[0].partition("__")[0], data)))
    return name


def left_out(row: dict[str, str]) -> str:
    """Why a row is not fitted; "" if it is."""
    if row["family"] == "steplaw-moe":
        return "one size only"
    if row["family"] == "steplaw-dense" and row["is_best_hp"] != "1":
        return "not the best learning rate and batch of its size and tokens"
    if row["family"] == "chinchilla":
        ratio = float(row["tokens"]) / float(row["params"])
        return "too few tokens per parameter" if ratio < MIN_TOKENS_PER_PARAM else ""
    return "outlier, says the source" if row["note"].startswith("outlier=True") else ""


def read_rows() -> list[dict[str, str]]:
    with POINTS_FILE.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def families(rows: Sequence[dict[str, str]]) -> dict[str, Points]:
    """Name -> points that are fitted."""
    found = {}
    for name in dict.fromkeys(row["family"] for row in rows if not row["left_out"]):
        kept = [row for row in rows if row["family"] == name and not row["left_out"]]
        columns = ([float(row[key]) for row in kept] for key in ("params", "tokens", "loss"))
        found[name] = Points.of(*columns)
    return found


# ------------------------------------------------------------------ fits


def write_laws(rows: Sequence[dict[str, str]]) -> None:
    """Fit every family on all of its points."""
    lines = []
    for name, points in families(rows).items():
        options = EXACT if name == "chinchilla-refit" else FEW_POINTS
        law = fit_law(name, points, options, resamples=RESAMPLES)
        reasons = Counter(r["left_out"] for r in rows if r["family"] == name and r["left_out"])
        source, params_are = next(SOURCES[key] for key in SOURCES if name.startswith(key))
        entry = {
            "source": source,
            "params_are": params_are,
            "unit": "normalised nats" if name == "llama_3" else "nats/token",
            "num_points": len(points),
            "left_out": dict(reasons),
            "theta": [float(f"{value:.6g}") for value in law.theta],
            "residual": float(f"{law.residual:.4g}"),
            "max_flops": float(f"{law.max_flops:.4g}"),
            "bootstrap": [[float(f"{value:.5g}") for value in row] for row in law.bootstrap],
        }
        lines.append(f'"{name}": {json.dumps(entry)}')
        print(f"fitted {name}: {len(points)} points, residual {law.residual:.2%}")
    text = '{"command": "python benchmarks/fit_scaling.py",\n"laws": {\n'
    (FOLDER / LAWS_FILE).write_text(text + ",\n".join(lines) + "}}\n", encoding="utf-8")


@dataclass(frozen=True)
class Test:
    """Held-out points of one family: log errors, log deviation without and decades of reach."""

    family: str
    num_fitted: int
    errors: Array
    deviations: Array
    decades: Array

    def coverage(self, reach: float) -> float:
        half = NORMAL_90 * np.hypot(self.deviations, reach * self.decades)
        return float(np.mean(np.abs(self.errors) <= half))


def tested(name: str, law: PowerLaw, num_fitted: int, held_out: Points) -> Test:
    n, d = np.log(held_out.params), np.log(held_out.tokens)
    drawn = np.stack([log_loss(theta, n, d) for theta in law.draws])
    low, high = np.quantile(drawn, (0.05, 0.95), axis=0)
    return Test(
        name,
        num_fitted,
        held_out.residuals(law.theta),
        np.hypot((high - low) / 2 / NORMAL_90, law.residual),
        np.maximum(0.0, np.log10(held_out.flops / law.max_flops)),
    )


def held_out_tests(of_family: dict[str, Points], fraction: int) -> Iterator[Test]:
    """Fit on at most 1 / fraction of the most compute, predict what is above a third of it."""
    for name, points in of_family.items():
        most = points.flops.max()
        small = points.take(points.flops <= most / fraction)
        if len(small) < 6:
            continue
        law = fit_law(name, small, FEW_POINTS, resamples=RESAMPLES)
        yield tested(name, law, len(small), points.take(points.flops > most / LARGEST_SHARE))


def ladder_tests(of_family: dict[str, Points], step: int, options: FitOptions) -> Iterator[Test]:
    """Four points near the ray through the best of the largest, the last at 1 / step of it."""
    for name, points in of_family.items():
        big = np.flatnonzero(points.flops > points.flops.max() / 1.5)
        target = big[points.loss[big].argmin()]
        flops = points.flops[target]
        small = np.flatnonzero(points.flops <= flops / step)
        if len(small) < 4:
            continue
        ratios = np.log(points.tokens * points.params[target] / points.params)
        off_ray = (ratios - np.log(points.tokens[target])) ** 2
        chosen: list[int] = []
        first = max(points.flops[small].min(), flops / 300)
        for wanted in np.geomspace(first, flops / step, 4):
            distance = np.log(points.flops / wanted) ** 2 + 0.5 * off_ray
            left = [item for item in small if item not in chosen]
            chosen.append(min(left, key=lambda item, by=distance: float(by[item])))
        law = fit_law(name, points.take(chosen), options, resamples=RESAMPLES)
        yield tested(name, law, 4, points.take([target]))


def reach_without(tests: Sequence[Test], family: str) -> float:
    """The least reach with which the other families' intervals hold 90%, families alike."""
    others = [test for test in tests if test.family != family]
    for reach in np.arange(0, 0.1, 0.0005):
        if np.mean([test.coverage(float(reach)) for test in others]) >= 0.9:
            return float(reach)
    raise AssertionError("no reach holds 90%")


# ------------------------------------------------------------------ the page


def law_table() -> Iterator[str]:
    yield "| law | E | A | B | alpha | beta | tokens per parameter at 1e21, 1e24 FLOP | source |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    for name in law_names():
        law = find_law(name)
        ratios = [tokens / params for params, tokens in map(law.optimal, (1e21, 1e24))]
        a, b, e = np.exp(law.theta[:3])
        yield (
            f"| `{name}` | {e:.3f} | {a:.4g} | {b:.4g} | {law.theta[3]:.3f} | {law.theta[4]:.3f} "
            f"| {ratios[0]:.3g}, {ratios[1]:.3g} | {law.source} |"
        )


def test_table(tests: Sequence[Test], reference: Sequence[Test]) -> Iterator[str]:
    """reference: the tests that the reach is taken from, without the family's own."""
    yield "| family | fitted | held out | median error | bias | decades beyond | held by the 90% |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    errors, covered = [], []
    for test in tests:
        relative = np.expm1(test.errors)
        errors.append(float(np.median(np.abs(relative))))
        covered.append(test.coverage(reach_without(reference, test.family)))
        yield (
            f"| {test.family} | {test.num_fitted} | {len(relative)} | {errors[-1]:.2%} "
            f"| {np.median(relative):+.2%} | {np.median(test.decades):.1f} | {covered[-1]:.0%} |"
        )
    yield (
        f"| **median, mean coverage** | | | **{np.median(errors):.2%}** | | "
        f"| **{np.mean(covered):.0%}** |"
    )


def hyper_table(rows: Sequence[dict[str, str]]) -> Iterator[str]:
    yield "| grid | settings | cells | rate off by | batch off by | loss lost: median, worst |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for family in ("steplaw-dense", "steplaw-moe"):
        tried = [row for row in rows if row["family"] == family]
        cells = dict.fromkeys((row["model"], row["params"], row["tokens"]) for row in tried)
        found = []
        for cell in cells:
            of_cell = np.array(
                [
                    [float(row[key]) for key in ("learning_rate", "batch_tokens", "loss")]
                    for row in tried
                    if (row["model"], row["params"], row["tokens"]) == cell
                ]
            )
            law = [float(p.value or 0) for p in step_law(float(cell[1]), float(cell[2]))]
            best = of_cell[of_cell[:, 2].argmin()]
            off = np.log(of_cell[:, :2] / law)
            nearest = of_cell[(off**2).sum(axis=1).argmin()]
            found.append((*np.log(law / best[:2]), nearest[2] / best[2] - 1))
        rate, batch, lost = np.array(found).T
        spreads = [np.exp(np.sqrt(np.mean(values**2))) for values in (rate, batch)]
        yield (
            f"| {family} | {len(tried)} | {len(cells)} | x {spreads[0]:.2f} | x {spreads[1]:.2f} "
            f"| {np.median(lost):.2%}, {lost.max():.2%} |"
        )


def main(arguments: list[str]) -> int:
    if "--copy" in arguments:
        copy(Path(arguments[arguments.index("--copy") + 1]))
    rows = read_rows()
    write_laws(rows)
    of_family = families(rows)
    held_out = {fraction: list(held_out_tests(of_family, fraction)) for fraction in FRACTIONS}
    ladders = {step: list(ladder_tests(of_family, step, LADDER)) for step in LADDER_STEPS}
    everything = [test for tests in held_out.values() for test in tests]
    reach = reach_without(everything, "")
    left = Counter((r["family"].partition("-")[0], r["left_out"]) for r in rows if r["left_out"])
    parts = {
        "laws": law_table(),
        **{f"held_out_{key}": test_table(tests, everything) for key, tests in held_out.items()},
        **{f"ladder_{key}": test_table(tests, everything) for key, tests in ladders.items()},
        "hyper": hyper_table(rows),
        "left_out": (f"- {name}: {count} rows, {why}" for (name, why), count in left.items()),
        "reach": (f"{reach:.2%}",),
        "shipped_reach": (f"{REACH_PER_DECADE:.2%}",),
    }
    page = TEXT.read_text("utf-8")
    for name, lines in parts.items():
        text = "\n".join(lines)
        print(f"{name}\n{text}")
        page = page.replace("{" + name + "}", text)
    PAGE.write_text(page, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
