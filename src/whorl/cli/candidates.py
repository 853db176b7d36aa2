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
    chosen = {each.get("candidate", each["how"]) for each in report.get("choices") or []}
    is_mixed = len({row["field"] for row in rows if "field" in row}) > 1
    counts = sorted({int(n) for row in rows for n in row.get("tokens_per_s", {})})
    heads = ["candidate", *(["field"] if is_mixed else []), "MiB of\nweights"]
    heads.append("loss, %,\nits 95%")
    heads += [f"tokens/s\n{', '.join(map(str, counts))}\nusers"] if counts else []
    table = Table(*heads, "memory,\nstart", "")
    table.columns[0].min_width = 16
    table.title = "what compress tried, each through its engine in a process of its own"
    left: dict[str, list[str]] = {}  # reason -> candidates
    for row in rows:
        name = escape(row["how"])
        name = f"[bold]{name}[/bold]" if row["how"] in chosen else name
        if "not_tried" in row:
            left.setdefault(row["not_tried"], []).append(row["how"])
            continue
        rates = {int(n): rate for n, rate in row.get("tokens_per_s", {}).items()}
        speeds = [f"{rates[count]:.0f}" if count in rates else "" for count in counts]
        start = [f"{row['start_s']:.1f} s"] if "start_s" in row else []
        peak = [format_bytes(row["peak_bytes"])] if "peak_bytes" in row else []
        table.add_row(
            name,
            *([row["field"]] if is_mixed else []),
            f"{row['bytes'] / 2**20:.1f}",
            _loss(row),
            *([", ".join(speeds)] if counts else []),
            "\n".join(peak + start),
            "kept" if row["how"] in chosen else row["verdict"].partition(",")[0],
        )
    OUT.print(table)
    for reason, names in left.items():
        OUT.print(f"not tried: {'; '.join(names)}: {reason}", markup=False, soft_wrap=True)
    for choice in report.get("choices") or []:
        OUT.print(f"{choice['format']}: {choice['how']}: {choice['why']}", markup=False)
    if report.get("pareto"):
        OUT.print(f"picture: {report['pareto']}", markup=False, soft_wrap=True)


def _loss(row: Mapping[str, Any]) -> str:
    loss, low, high = (row[key] for key in ("increase", "low", "high"))
    interval = "" if low is None else f"\n[{100 * low:+.1f}, {100 * high:+.1f}]"
    return escape(f"{100 * loss:+.2f}{interval}")
