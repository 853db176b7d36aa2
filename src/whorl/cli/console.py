"""What a person sees: results on stdout, progress and remarks on stderr."""

from __future__ import annotations

import codecs
import contextlib
import errno
import io
import json
import os
import sys
import time
from typing import TYPE_CHECKING, Any

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

from whorl.cli.interrupts import Interrupts
from whorl.core.units import format_bytes

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = [
    "ERR",
    "OUT",
    "LineProgress",
    "OutputError",
    "RichProgress",
    "adapt_streams",
    "close_bars",
    "flush_streams",
    "make_progress",
    "print_json",
    "say",
]

BYTES = "B"  # the unit of what is counted in bytes
MIN_COLUMNS = 20  # narrower ones show nothing
LINE_EVERY_S = 20.0  # a log that is not a terminal gets a line this often
# Signs of ours in encodings that lack them; others are shown by their number.
PLAIN = {
    **{"…": "...", "‘": "'", "’": "'", "“": '"', "”": '"', "–": "-", "—": "-", "−": "-"},
    **{"×": "x", "·": ".", "•": "*", "→": "->", "►": ">", "≤": "<=", "≥": ">=", "≈": "~"},
    **{"±": "+-", "✓": "ok", "⟦": "[[", "⟧": "]]", "¶": "|", "─": "-", "━": "-", "│": "|"},
    **dict.fromkeys("┌┐└┘├┤┬┴┼╭╮╰╯╺╸", "+"),
}


def _plain(error: UnicodeError) -> tuple[str, int]:
    """Stands in for what a stream cannot encode; names that are not UTF-8 stay readable."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    signs = error.object[error.start : error.end]
    shown = (PLAIN.get(sign) or sign.encode("ascii", "backslashreplace").decode() for sign in signs)
    return "".join(shown), error.end


class OutputError(OSError):
    """Standard output or error cannot be written: told from the errors of all other files."""


class _Output(io.FileIO):
    def write(self, data: ReadableBuffer, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if self.fileno() == 2 and error.errno != errno.EPIPE:
                return memoryview(data).nbytes  # a log on a full disk stops no work
            raise OutputError(error.errno, error.strerror) from error


def adapt_streams() -> None:
    """Any encoding can be written to, a stream that fails says so, and no file that is opened
    takes a closed stream's place."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
    codecs.register_error("whorl", _plain)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):  # None: it is closed
            raw = _Output(stream.fileno(), "w", closefd=False)
            lines = stream.line_buffering
            buffer = io.BufferedWriter(raw)
            setattr(sys, name, io.TextIOWrapper(buffer, stream.encoding, "whorl", None, lines))


def _width() -> int | None:
    """Columns, where a terminal says that it has hardly any; None: rich asks."""
    said = os.environ.get("COLUMNS", "")
    return MIN_COLUMNS if said.isdigit() and int(said) < MIN_COLUMNS else None


OUT = Console(highlight=False, width=_width())
ERR = Console(stderr=True, highlight=False, width=_width())
_bars: list[RichProgress] = []  # those that are drawn now


def say(line: str) -> None:
    """A line on stderr. Raises OutputError if its reader has gone."""
    if sys.stderr is not None:
        print(line, file=sys.stderr, flush=True)


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
        _bars.append(self)

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
            _bars.remove(self)


def close_bars() -> None:
    """Clears the bars of work that failed, and shows the cursor again."""
    for bar in list(_bars):
        with contextlib.suppress(OSError):
            bar.finish_silently()


class LineProgress:
    """For logs and pipes: a line at the start, now and then, and at the end."""

    def __init__(self) -> None:
        self._label, self._unit = "", ""
        self._total: float | None = None
        self._done = self._started_s = self._printed_s = 0.0

    def start(self, label: str, total: float | None, unit: str = "") -> None:
        self._label, self._total, self._unit, self._done = label, total, unit, 0.0
        self._started_s = self._printed_s = time.monotonic()
        say(f"  {label} …")

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
        say(f"{line} {note}".rstrip())

    def finish(self, note: str = "") -> None:
        elapsed_s = time.monotonic() - self._started_s
        say(f"  {self._label}: done in {elapsed_s:.1f} s {note}".rstrip())


def _columns(unit: str) -> tuple[ProgressColumn, ...]:
    """How much of how much."""
    if unit == BYTES:
        return (DownloadColumn(binary_units=True),)
    return MofNCompleteColumn(), TextColumn(unit)


def _amount(number: float, unit: str) -> str:
    return format_bytes(number) if unit == BYTES else f"{number:,.10g} {unit}".rstrip()


def make_progress() -> RichProgress | LineProgress:
    """Bars where someone looks at a terminal that can draw them; lines elsewhere."""
    drawn = sys.stderr is not None and sys.stderr.isatty() and ERR.encoding.startswith("utf")
    if drawn and not ERR.is_dumb_terminal and not os.environ.get("CI"):
        return RichProgress()
    return LineProgress()


def print_json(value: Any) -> None:
    """The one JSON document on stdout, for programs, whatever the encoding."""
    Interrupts.answered = True
    is_utf8 = codecs.lookup(getattr(sys.stdout, "encoding", None) or "utf-8").name == "utf-8"
    print(json.dumps(value, indent=1, ensure_ascii=not is_utf8, default=str), flush=True)


def flush_streams() -> None:
    """Everything printed is written, or, where that fails, given up. Raises OutputError."""
    failed = None
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError as error:
            failed = failed or error
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
    if failed is not None:
        raise failed
