"""What a person sees: results on stdout, progress and remarks on stderr."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from whorl.core.units import format_bytes

__all__ = ["ERR", "OUT", "LineProgress", "RichProgress", "make_progress", "print_json"]

OUT = Console(highlight=False)
ERR = Console(stderr=True, highlight=False)
BYTES = "B"  # the unit of what is counted in bytes
LINE_EVERY_S = 20.0  # a log that is not a terminal gets a line this often


class RichProgress:
    """A bar with elapsed and remaining time; a summary line stays when it is done."""

    def __init__(self) -> None:
        self._bar: Progress | None = None
        self._label = ""
        self._started_s = 0.0

    def start(self, label: str, total: float | None, unit: str = "") -> None:
        self.finish_silently()
        self._label, self._started_s = label, time.monotonic()
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            *_columns(unit),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            TextColumn("[dim]{task.fields[note]}[/dim]"),
            console=ERR,
            transient=True,
        )
        self._task = self._bar.add_task(label, total=total, note="")
        self._bar.start()

    def advance(self, amount: float = 1.0, note: str = "") -> None:
        if self._bar is not None:
            self._bar.update(self._task, advance=amount)
            if note:
                self._bar.update(self._task, note=note)

    def finish(self, note: str = "") -> None:
        if self._bar is not None:
            self.finish_silently()
            elapsed_s = time.monotonic() - self._started_s
            ERR.print(f"[green]✓[/green] {self._label} [dim]{elapsed_s:.1f} s {note}[/dim]")

    def finish_silently(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


class LineProgress:
    """For logs and pipes: a line at the start, now and then, and at the end."""

    def __init__(self) -> None:
        self._label, self._unit = "", ""
        self._total: float | None = None
        self._done = self._started_s = self._printed_s = 0.0

    def start(self, label: str, total: float | None, unit: str = "") -> None:
        self._label, self._total, self._unit, self._done = label, total, unit, 0.0
        self._started_s = self._printed_s = time.monotonic()
        print(f"  {label} …", file=sys.stderr, flush=True)

    def advance(self, amount: float = 1.0, note: str = "") -> None:
        self._done += amount
        now_s = time.monotonic()
        if now_s - self._printed_s < LINE_EVERY_S:
            return
        self._printed_s = now_s
        line = f"  {self._label}: {_amount(self._done, self._unit)}"
        if self._total:
            left_s = (now_s - self._started_s) * (self._total - self._done) / max(self._done, 1e-9)
            line += f" of {_amount(self._total, self._unit)}, {max(left_s, 0):.0f} s left"
        print(f"{line} {note}".rstrip(), file=sys.stderr, flush=True)

    def finish(self, note: str = "") -> None:
        elapsed_s = time.monotonic() - self._started_s
        print(f"  {self._label}: done in {elapsed_s:.1f} s {note}", file=sys.stderr, flush=True)


def _columns(unit: str) -> tuple[ProgressColumn, ...]:
    """How much of how much."""
    if unit == BYTES:
        return (DownloadColumn(binary_units=True),)
    return MofNCompleteColumn(), TextColumn(unit)


def _amount(number: float, unit: str) -> str:
    return format_bytes(number) if unit == BYTES else f"{number:,.10g} {unit}".rstrip()


def make_progress() -> RichProgress | LineProgress:
    return RichProgress() if ERR.is_terminal else LineProgress()


def print_json(value: Any) -> None:
    """One JSON document on stdout, for programs."""
    print(json.dumps(value, indent=1, ensure_ascii=False, default=str))
