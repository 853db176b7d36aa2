"""The table of what a search of `compress` tried, beside the path of its picture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.markup import escape
from rich.table import Table

from whorl.cli.console import OUT
from whorl.core.units import format_bytes

__all__ = ["print_candidates"]


def print_candidates(report: Mapping[str, Any]) -> None:
    """Prints nothing where compress did not search."""
    rows = report.get("candidates") or []
    if not rows:
        return
    chosen = {choice["how"] for choice in report.get("choices") or []}
    counts = sorted({int(n) for row in rows for n in row.get("tokens_per_s", {})})
    speeds = [f"tokens/s, {count} together" for count in counts]
    table = Table("candidate", "field", "weights", "loss of quality", "95%", *speeds)
    for head in ("memory", "start", ""):
        table.add_column(head)
    table.title = "what compress tried, each through its engine in a process of its own"
    left: dict[str, list[str]] = {}  # reason -> candidates
    for row in rows:
        name = escape(row["how"])
        name = f"[bold]{name}[/bold]" if row["how"] in chosen else name
        if "not_tried" in row:
            left.setdefault(row["not_tried"], []).append(row["how"])
            continue
        rates = {int(n): rate for n, rate in row.get("tokens_per_s", {}).items()}
        low, high = row["low"], row["high"]
        table.add_row(
            name,
            row["field"],
            format_bytes(row["bytes"]),
            f"{100 * row['increase']:+.2f}%",
            "" if low is None else f"{100 * low:+.2f}% … {100 * high:+.2f}%",
            *(f"{rates[count]:.1f}" if count in rates else "" for count in counts),
            format_bytes(row["peak_bytes"]) if "peak_bytes" in row else "",
            f"{row['start_s']:.1f} s" if "start_s" in row else "",
            "kept" if row["how"] in chosen else row["verdict"].partition(",")[0],
        )
    OUT.print(table)
    for reason, names in left.items():
        OUT.print(f"not tried: {'; '.join(names)}: {reason}", markup=False, soft_wrap=True)
    for choice in report.get("choices") or []:
        OUT.print(f"{choice['format']}: {choice['how']}: {choice['why']}", markup=False)
    if report.get("pareto"):
        OUT.print(f"picture: {report['pareto']}", markup=False, soft_wrap=True)
