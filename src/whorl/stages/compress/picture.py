"""The picture of a search: what each candidate loses, over its bytes and over its speed."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from whorl.core.errors import MissingExtra
from whorl.core.rounding import Speeds

__all__ = ["draw_pareto", "front"]

COLOURS = {"f32": "#0f172a", "int8": "#2563eb", "int4": "#c2410c"}
MEGABYTE = 1e6


def draw_pareto(
    folder: Path,
    rows: Sequence[Mapping[str, Any]],
    speeds: Mapping[str, Speeds],
    chosen: Collection[str],
) -> list[Path]:
    """Write pareto.png and pareto.svg; gives their paths. Raises MissingExtra without matplotlib.

    rows: of every candidate and field, as compress' record has them; the field that loses most is
    drawn. chosen: names of candidates with a ring.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra.of("matplotlib", "train", "the picture of the candidates") from error
    worst: dict[str, Mapping[str, Any]] = {}
    for row in rows:
        if "bytes" in row and row["increase"] >= worst.get(row["how"], row)["increase"]:
            worst[row["how"]] = row
    figure = Figure(figsize=(11, 4.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    sizes = {how: row["bytes"] / MEGABYTE for how, row in worst.items()}
    _panel(figure.add_subplot(1, 2, 1), worst, sizes, chosen, "weights, MB", small_is_good=True)
    together = max((number for each in speeds.values() for number in each.tokens_per_s), default=0)
    rates = {how: each.tokens_per_s[together] for how, each in speeds.items() if how in worst}
    if rates:
        label = f"tokens/s, {together} requests together"
        _panel(figure.add_subplot(1, 2, 2), worst, rates, chosen, label, small_is_good=False)
    paths = [folder / "pareto.png", folder / "pareto.svg"]
    for path in paths:
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    return paths


def _panel(
    axes: Any,
    worst: Mapping[str, Mapping[str, Any]],
    across: Mapping[str, float],
    chosen: Collection[str],
    label: str,
    small_is_good: bool,
) -> None:
    """One dot per candidate; a line through those that no other beats."""
    sign = 1 if small_is_good else -1
    for how, x in across.items():
        row = worst[how]
        y, colour = 100 * row["increase"], COLOURS.get(row["format"], "#64748b")
        axes.plot(x, y, marker="o", color=colour, markersize=5)
        if how in chosen:
            axes.plot(x, y, marker="o", color=colour, markersize=12, fillstyle="none")
            axes.annotate(how, (x, y), fontsize=6, xytext=(4, 6), textcoords="offset points")
    points = {how: (sign * x, worst[how]["increase"]) for how, x in across.items()}
    line = [(sign * points[how][0], 100 * points[how][1]) for how in front(points)]
    axes.plot(*zip(*line, strict=True), color="#64748b", linewidth=1, linestyle="--")
    for weights in dict.fromkeys(worst[how]["format"] for how in across):
        axes.plot([], [], marker="o", linestyle="", color=COLOURS.get(weights), label=weights)
    axes.set_xlabel(label)
    axes.set_ylabel("loss of quality, %")
    axes.grid(alpha=0.25)
    axes.legend(loc="best")


def front(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """Names of points with no other at most as large in both numbers, by the first of them."""
    kept: list[str] = []
    for name in sorted(points, key=lambda name: points[name]):
        if not kept or points[name][1] < points[kept[-1]][1]:
            kept.append(name)
    return kept
