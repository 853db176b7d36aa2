"""Plots of docs/planner-accuracy.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

__all__ = ["plot_errors", "plot_scatter"]

SIZE, DOTS_PER_INCH = (8.0, 4.6), 110


def plot_scatter(
    path: Path, points: Mapping[str, Sequence[tuple[float, float]]], unit: str
) -> None:
    """Predicted over measured against measured, one colour per source; both axes logarithmic."""
    figure, axes = pyplot.subplots(figsize=SIZE)
    colours = pyplot.get_cmap("tab20")
    for index, (name, pairs) in enumerate(sorted(points.items())):
        measured = [pair[0] for pair in pairs]
        ratio = [pair[1] / pair[0] for pair in pairs]
        axes.scatter(measured, ratio, s=9, alpha=0.6, color=colours(index), label=name)
    axes.axhline(1, color="black", linewidth=0.8)
    axes.axhspan(0.9, 1.1, color="grey", alpha=0.2, label="within 10%")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_yticks([0.5, 0.7, 1, 1.4, 2], ["0.5", "0.7", "1", "1.4", "2"])
    axes.minorticks_off()
    axes.set_xlabel(f"measured, {unit}")
    axes.set_ylabel("predicted / measured")
    axes.legend(fontsize=6, loc="center left", bbox_to_anchor=(1.01, 0.5))
    _save(figure, path)


def plot_errors(path: Path, errors: Mapping[str, Mapping[str, float]]) -> None:
    """Median errors by source: one bar per way of predicting."""
    figure, axes = pyplot.subplots(figsize=SIZE)
    names = sorted(errors)
    ways = list(dict.fromkeys(way for found in errors.values() for way in found))
    height = 0.8 / len(ways)
    for index, way in enumerate(ways):
        values = [100 * errors[name].get(way, 0.0) for name in names]
        places = [place + height * index for place in range(len(names))]
        axes.barh(places, values, height=height, label=way)
    axes.set_yticks([place + 0.3 for place in range(len(names))], names, fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel("median error of step time, %")
    axes.legend(fontsize=8)
    _save(figure, path)


def _save(figure: pyplot.Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DOTS_PER_INCH, bbox_inches="tight", metadata={"Software": None})
    pyplot.close(figure)
