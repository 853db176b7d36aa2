"""The loss curve as PNG and SVG: what was planned, what happened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from whorl.core.errors import MissingExtra
from whorl.stages.train.ports import OF_BITS
from whorl.stages.train.report import ByteRates, Validation, planned_value
from whorl.stages.train.trainer import StepResult

__all__ = ["draw_loss"]

SMOOTHING = 0.05  # share of the steps so far that the smooth line averages over, at most 50 steps
PLAN, TRAIN, HELDOUT = "#c2410c", "#2563eb", "#0f172a"


def draw_loss(
    folder: Path,
    steps: Sequence[StepResult],
    validations: Sequence[Validation],
    rates: ByteRates,
    predicted: Mapping[str, Any],
    unit: str = OF_BITS,
) -> list[Path]:
    """Write loss.png and loss.svg; gives their paths. Raises MissingExtra without matplotlib."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra.of("matplotlib", "train", "the picture of the loss") from error
    in_bytes = rates.train is not None and rates.heldout is not None
    train_unit = ByteRates.bits_per_byte(1.0, rates.train) if in_bytes else 1.0
    heldout_unit = ByteRates.bits_per_byte(1.0, rates.heldout) if in_bytes else 1.0
    losses = [result.loss * (train_unit or 1.0) for result in steps]
    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    numbers = range(1, len(losses) + 1)
    axes.plot(numbers, losses, color=TRAIN, alpha=0.25, linewidth=0.8)
    axes.plot(numbers, _smooth(losses), color=TRAIN, linewidth=1.5, label="training batches")
    if validations:
        points = [(v["step"], v["heldout_loss"] * (heldout_unit or 1.0)) for v in validations]
        axes.plot(
            *zip(*points, strict=True), color=HELDOUT, marker="o", markersize=4, label="held out"
        )
    if in_bytes:
        _draw_plan(axes, len(steps), predicted)
    axes.set_xlabel("step")
    axes.set_ylabel("bits per byte" if in_bytes else unit)
    axes.set_title("loss, planned and actual" if in_bytes else "loss")
    low, high = min(losses, default=0.0), losses[0] if losses else 1.0
    axes.set_ylim(max(0.0, 0.8 * low), 1.05 * high)
    axes.grid(alpha=0.25)
    axes.legend(loc="upper right")
    paths = [folder / "loss.png", folder / "loss.svg"]
    for path in paths:
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    return paths


def _draw_plan(axes: Any, steps: int, predicted: Mapping[str, Any]) -> None:
    """The planned final loss with its 90% interval, at the last step."""
    value = planned_value(predicted, "heldout_bpb")
    if value is None:
        return
    item = predicted["heldout_bpb"]
    low, high = (item.get("low"), item.get("high")) if isinstance(item, Mapping) else (None, None)
    axes.axhline(
        value, color=PLAN, linewidth=1.2, linestyle="--", label=f"planned end, {value:.2f}"
    )
    if low is not None and high is not None:
        axes.axhspan(low, high, color=PLAN, alpha=0.12, linewidth=0, label="its 90% interval")
    axes.set_xlim(0, steps * 1.02)


def _smooth(values: Sequence[float]) -> list[float]:
    """Mean of the last few values, fewer at the start where the loss falls fast."""
    out = []
    for number in range(1, len(values) + 1):
        width = min(50, max(1, round(number * SMOOTHING)))
        out.append(sum(values[number - width : number]) / width)
    return out
