"""The table "Where each field stands" of docs/fields.md, and docs/fields.json, which it is made of.

    python docs/field_table.py RECIPE --machine A [--busy] [--day 2026-12-01] [--minutes 9]

takes what `whorl show RECIPE --json` tells of the newest records in WHORL_HOME into the rows of
that recipe, writes both files, and prints what was changed. Names, bar, aim and published figures
of a row are set by hand; so is a row with a `command` of its own, from what that command prints.
"""

from __future__ import annotations

import argparse
import datetime
import difflib
import json
import math
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from whorl.core.metrics import find_metric

__all__ = ["judge", "page_of", "table_of", "updated"]

DOCS = Path(__file__).resolve().parent
ROWS, PAGE = DOCS / "fields.json", DOCS / "fields.md"
BEGIN, END = (
    "<!-- The table is generated from docs/fields.json. -->\n",
    "<!-- end of the table -->\n",
)
HEAD = """\
| field | recipe | metric | whorl, int8 | beside it | bar | met | run |
| --- | --- | --- | --- | --- | --- | --- | --- |
"""
SERVED = "int8"
VARIANTS = ("openvino ", "hf ", "alone, ")  # of the models themselves, at other precisions
EVERY = "*"  # of a report's field: a row for each, once they have been measured
ALONE = "alone, openvino int8"  # a field's own model, in a report of several
FIGURES = ("value", "low", "high", "of")
Row = Mapping[str, Any]


def number(value: float, decimals: int) -> str:
    text = f"{value:.{decimals}f}"
    return text.removeprefix("0") if decimals else text


def shown(figure: Mapping[str, Any], decimals: int) -> str:
    """A value with its interval, how many were asked, and what is noted of it."""
    parts = [number(figure["value"], decimals)]
    if "low" in figure:
        parts.append(f"[{number(figure['low'], decimals)}, {number(figure['high'], decimals)}]")
    if "of" in figure:
        parts.append(f"of {figure['of']}")
    return " ".join(parts)


def score_cell(row: Row) -> str:
    score, decimals = row["score"], row["decimals"]
    if score is None:
        return "not run to its end yet"
    note = f" ({score['note']})" if "note" in score else ""
    text = shown(score, decimals) + note
    return f"{number(judged(row), decimals)} ({text})" if row.get("above_first") else text


def beside_cell(row: Row) -> str:
    parts = [
        " ".join(
            [each["name"], *([shown(each, row["decimals"])] if "value" in each else [])]
            + ([each["note"]] if "note" in each else [])
        )
        for each in row["beside"]
    ]
    for each in row["published"]:
        ends = [each["value"]] if "value" in each else [each["low"], each["high"]]
        figures = " to ".join(f"{end:g}".removeprefix("0") for end in ends)
        parts.append(f"{each['name']}, as published, {figures}")
    return "; ".join(parts)


def bar_cell(row: Row) -> str:
    if row["bar"] is None:
        return "reported"
    of = f" of {row['score']['of']}" if not row["decimals"] and "of" in row["score"] else ""
    text = f"{row['bar']:g}".removeprefix("0") + of
    text += f" ({row['aim']:g})".replace("(0.", "(.") if row["aim"] is not None else ""
    text += f", {row['bar_note']}" if "bar_note" in row else ""
    return text if row["higher_is_better"] else f"at most {text}"


def judged(row: Row) -> float:
    """What is held against the bar: the score, or how far it is above the first method's."""
    value: float = row["score"]["value"]
    return value - row["beside"][0]["value"] if row.get("above_first") else value


def rivals_of(figures: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [each for each in figures if "value" in each and each.get("rival", True)]


def judge(row: Row) -> str:
    """Whether the score reaches the bar, and what is better. An equal figure reaches, and is not
    better; teachers and methods that know the held-out answers (`rival: false`) are no rivals.
    """
    if row["score"] is None:
        return "not known"
    sign = 1 if row["higher_is_better"] else -1
    value = judged(row)

    def better(figures: Sequence[Mapping[str, Any]]) -> list[str]:
        rivals = sorted(rivals_of(figures), key=lambda each: -sign * each["value"])
        return [each["name"] for each in rivals if sign * (each["value"] - value) > 0]

    rivals, published = better(row["beside"]), better(row["published"])
    if row["bar"] is None:
        return "**loses**" if rivals else ""
    gap = round(sign * (row["bar"] - value), 9)  # .83 - .71 is above .12
    if gap > 0:
        places = row["decimals"]
        return "**no, loses**" if rivals else f"no, by {number(gap, places)}"
    text = "**yes**"
    if row["aim"] is not None and sign * (value - row["aim"]) >= 0:
        text += ", the aim too"
    text += f", below {rivals[0]}" if rivals else ""
    text += f", likely below {published[0]}" if published else ""
    return text + (f" {row['met_note']}" if "met_note" in row else "")


def run_cell(row: Row) -> str:
    if row["day"] is None:
        return ""
    day = datetime.date.fromisoformat(row["day"])
    parts = [row["machine"] + "*" * row["busy"], f"{day.day} {day:%b}"]
    if row["minutes"] is not None:
        parts.append(
            " ".join([f"{row['minutes']:.0f} min", *filter(None, [row.get("minutes_note")])])
        )
    parts += [f"`{row['command']}`"] if "command" in row else []
    return ", ".join(parts)


def table_of(rows: Sequence[Row]) -> str:
    """Its lines; what a row shares with the one above it is not said again."""
    lines, above = [], ("", "", "")
    for row in rows:
        title = (row["field"], f"[{row['recipe']}](#{row['section']})", run_cell(row))
        same = [mine == other for mine, other in zip(title, above, strict=True)]
        field = "" if same[0] else title[0]
        recipe = "" if same[0] and same[1] else title[1]
        run = "" if all(same) else title[2]
        middle = (row["metric"], score_cell(row), beside_cell(row), bar_cell(row), judge(row))
        cells = (field, recipe, *middle, run)
        lines.append("|" + "|".join(f" {cell} " if cell else " " for cell in cells) + "|\n")
        above = title
    return HEAD + "".join(lines)


def page_of(page: str, rows: Sequence[Row]) -> str:
    """The page with the table of these rows between its marks."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"no table in the page; expected: {BEGIN.strip()} … {END.strip()}")
    return f"{before}{BEGIN}\n{table_of(rows)}\n{END}{after}"


def is_served(score: Mapping[str, Any]) -> bool:
    return str(score["name"]).endswith(f" {SERVED}") and score["name"] != ALONE


def figures_of(report: Row, wanted: Row) -> dict[str, dict[str, Any]]:
    """name -> figure of a metric (and group) in a report; the served model's under int8."""
    found = {}
    for score in report.get("groups" if "group" in wanted else "scores") or []:
        of_field = score["field"].partition("/")[0] == wanted["field"]
        same = of_field and score["metric"] == wanted["metric"]
        if not same or score.get("group") != wanted.get("group"):
            continue
        figure = {key: round(score[key], 5) for key in FIGURES if score.get(key) is not None}
        if wanted.get("missed"):  # documents that were not answered as they should be
            count = score["num_documents"]
            figure = {"value": round((1 - score["value"]) * count), "of": count}
        name = SERVED if is_served(score) else score["name"]
        found[name] = figure
    return found


def updated(row: Row, report: Row, run: Mapping[str, Any]) -> dict[str, Any]:
    """A row with a report's figures. A method that the report lacks stays as it was; one that is
    better than all rivals that are in the row joins them. Minutes are now of the whole recipe.
    """
    figures = figures_of(report, row["report"])
    if SERVED not in figures:
        raise ValueError(f"{report['recipe']}: no {SERVED} score of {row['report']}")
    score, sign = figures.pop(SERVED), 1 if row["higher_is_better"] else -1
    others = {
        name: each
        for name, each in figures.items()
        if name == ALONE or not name.startswith(VARIANTS)
    }
    beside = []
    for each in row["beside"]:
        method = each.get("method")  # how its name begins; versions and counts may follow
        name = next((n for n in others if method and n.startswith(method)), None)
        if name is None and method:
            print(f"not in the report, left as it was: {each['name']}", file=sys.stderr)
        kept = {key: each[key] for key in each if key not in FIGURES}
        beside.append(kept | others.pop(name) if name else each)
    known = [sign * each["value"] for each in rivals_of(beside)]
    best = max(others, key=lambda name: sign * others[name]["value"], default=None)
    if best is not None and sign * others[best]["value"] > max(known, default=-math.inf):
        beside.append({"name": best, "method": best, **others[best]})
    stays = {key: row[key] for key in row if key != "minutes_note"}
    return {**stays, "score": score, "beside": beside, **run}


def rows_of_fields(row: Row, report: Row) -> Iterator[dict[str, Any]]:
    """Of a recipe of several fields a row for each, beside its own model's."""
    for score in report["scores"]:
        if "/" in score["field"] or not is_served(score):
            continue
        metric = find_metric(score["metric"])
        yield {
            **row,
            "metric": f"{score['field']}, {metric.title}",
            "report": {"field": score["field"], "metric": metric.name},
            "beside": [{"name": "its own model", "method": ALONE}],
            "higher_is_better": metric.higher_is_better,
            "decimals": metric.decimals,
        }


def report_of(recipe: str) -> dict[str, Any]:
    """What `whorl show` tells of its newest records; {} where there are none."""
    command = [sys.executable, "-m", "whorl", "show", recipe, "--json"]
    result = subprocess.run(command, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(result.stdout or "{}")
    return found if "scores" in found else {}


def run_of(report: Row, given: argparse.Namespace) -> dict[str, Any]:
    """Where, when and how long; unless given, the day that the newest record was written on, and
    the minutes of all stages together.
    """
    newest = max(Path(stage["record"]).stat().st_mtime for stage in report["stages"])
    minutes = round(sum(stage["wall_s"] for stage in report["stages"]) / 60, 1)
    written = datetime.date.fromtimestamp(newest).isoformat()
    day, minutes = given.day or written, given.minutes or minutes
    return {"machine": given.machine, "busy": given.busy, "day": day, "minutes": minutes}


def new_rows(rows: Sequence[Row], report: Row, run: Mapping[str, Any]) -> list[Row]:
    """All rows, those of the report's recipe with its figures."""
    found: list[Row] = []
    for row in rows:
        if row["recipe"] != report["recipe"] or row["report"] is None:
            found.append(row)
        else:
            some = rows_of_fields(row, report) if row["report"]["field"] == EVERY else [row]
            found += [updated(each, report, run) for each in some]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("recipe")
    parser.add_argument("--machine", choices=("I", "A", "S"), required=True)
    parser.add_argument("--busy", action="store_true", help="it ran beside other work")
    parser.add_argument(
        "--day",
        type=lambda told: datetime.date.fromisoformat(told).isoformat(),
        help="as 2026-12-01; else that of the newest record's folder",
    )
    parser.add_argument("--minutes", type=float, help="of the whole recipe, else of its stages")
    given = parser.parse_args()
    rows = json.loads(ROWS.read_text("utf-8"))
    mine = [row for row in rows if row["recipe"] == given.recipe]
    for command in dict.fromkeys(row["command"] for row in mine if row["report"] is None):
        print(f"to be written into {ROWS.name} by hand: what this prints: {command}")
    if not any(row["report"] for row in mine):
        raise SystemExit(f"no row of {given.recipe} in {ROWS.name} takes figures of its report")
    report = report_of(given.recipe)
    if not report:
        raise SystemExit(f"no scores of {given.recipe}; do: whorl up recipes/{given.recipe}.yaml")
    run = run_of(report, given)
    rows, before = new_rows(rows, report, run), table_of(rows).splitlines()
    ROWS.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", "utf-8")
    PAGE.write_text(page_of(PAGE.read_text("utf-8"), rows), "utf-8")
    changes = list(difflib.ndiff(before, table_of(rows).splitlines()))
    print("\n".join(line for line in changes if line[0] in "+-") or "the table is as it was")


if __name__ == "__main__":
    main()
