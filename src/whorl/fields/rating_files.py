"""Files of who took what and when: user, item, rating, time, as MovieLens and Amazon have them.

Delimited lines (comma, tab, `::`, semicolon, bar) with a first row that names the columns or in
that very order without one, and rows of jsonl and parquet. Names of columns are known by what
usual files call them; RecBole's types behind a colon are taken off.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from whorl.core.sources import FileItem
from whorl.fields.files import ROW_FORMATS, bare_suffix
from whorl.fields.formats import lines_of, rows_of
from whorl.fields.places import Places

__all__ = ["NAMES_SUFFIXES", "SUFFIXES", "Rating", "ratings_of", "titles_of"]

ROWS = (".jsonl", ".ndjson", ".parquet")
SUFFIXES = (".csv", ".tsv", ".inter", ".data", ".dat", *ROWS)
NAMES_SUFFIXES = (*SUFFIXES, ".item")  # of a file that says what items are called
DELIMITERS = ("::", "\t", ",", ";", "|")
COLUMNS: Mapping[str, tuple[str, ...]] = {  # what usual files call them, in lower case
    "user": ("user", "user_id", "userid", "uid", "reviewerid", "reviewer_id", "visitorid"),
    "item": (
        *("item", "item_id", "itemid", "iid", "movieid", "movie_id", "asin", "parent_asin"),
        *("product_id", "productid", "book_id", "artistid", "track_id", "song_id"),
    ),
    "rating": ("rating", "score", "stars", "overall", "weight"),
    "time": ("time", "timestamp", "unixreviewtime", "unix_time", "date", "datetime", "ts"),
}
TITLES: Mapping[str, tuple[str, ...]] = {  # of a file of items, likewise
    "item": COLUMNS["item"],
    "title": ("title", "movie_title", "name", "item_name", "product_name", "book_title", "artist"),
}
MAX_NAME = 200  # signs of a user or item
MILLISECONDS_FROM = 1e11  # numbers of time from here on count milliseconds

Rating = tuple[str, str, float | None]  # user, item, time in seconds; None: no time is told


def ratings_of(item: FileItem, places: Places) -> Iterator[Rating]:
    """The usable rows of a file in their order; `places` is told of the others."""
    for row in _rows(item, COLUMNS, places):
        yield from _checked(row, places)


def titles_of(item: FileItem, places: Places) -> dict[str, str]:
    """item -> what it is called, of a file that says so; `places` is told of unusable rows."""
    found: dict[str, str] = {}
    for row in _rows(item, TITLES, places):
        name, title = _name(row.get("item")), _name(str(row.get("title", ""))[:MAX_NAME])
        if name is None or title is None:
            places.refuse("row without an item and its name", "columns item and title")
        else:
            found.setdefault(name, title)
    return found


def _rows(
    item: FileItem, wanted: Mapping[str, tuple[str, ...]], places: Places
) -> Iterator[Mapping[str, object]]:
    """The wanted columns of each row, by their own names."""
    suffix = bare_suffix(item.name)
    if suffix not in ROWS:
        yield from _delimited(item, wanted, places)
        return
    for _, row in rows_of(replace(item, kind=ROW_FORMATS[suffix]), (), places):
        values = {_bare(str(name)): value for name, value in row.items()}
        found = _by_name(list(values), wanted)
        yield {key: values[name] for key, name in found.items()}


def _delimited(
    item: FileItem, wanted: Mapping[str, tuple[str, ...]], places: Places
) -> Iterator[Mapping[str, object]]:
    delimiter, columns, width = "", dict[str, int](), 0
    for line in lines_of(item, places):
        if not delimiter:
            delimiter = next((sign for sign in DELIMITERS if sign in line), ",")
            cells = _cells(line, delimiter)
            names = [_bare(cell) for cell in cells]
            columns = {key: names.index(name) for key, name in _by_name(names, wanted).items()}
            width = len(cells)
            if columns:
                continue
            columns = dict(zip(wanted, range(width), strict=False))
            places.tell(f"columns without names, taken for {', '.join(columns)}")
        cells = _cells(line, delimiter)
        if len(cells) != width:
            places.refuse("row with more or fewer values than columns", f"{len(cells)} of {width}")
            continue
        yield {key: cells[place] for key, place in columns.items()}


def _cells(line: str, delimiter: str) -> list[str]:
    if delimiter == "::":
        return line.split(delimiter)
    try:
        return next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error:
        return []


def _bare(name: str) -> str:
    return name.strip().lower().partition(":")[0]


def _by_name(names: Sequence[str], wanted: Mapping[str, tuple[str, ...]]) -> dict[str, str]:
    """column -> what it is called here, of those that are there."""
    return {
        key: found
        for key, aliases in wanted.items()
        if (found := next((alias for alias in aliases if alias in names), None)) is not None
    }


def _checked(row: Mapping[str, object], places: Places) -> Iterator[Rating]:
    """The row as a rating, or nothing and why."""
    user, item = (_name(row.get(key)) for key in ("user", "item"))
    if user is None or item is None:
        missing = "user" if user is None else "item"
        has = ", ".join(row) or "no column that is known"
        places.refuse(f"row without a usable {missing}", f"it has {has}: columns user, item, time")
        return
    if not _is_number_or_none(row.get("rating")):
        places.refuse("rating that is no number")
        return
    try:
        yield user, item, _seconds(row.get("time"))
    except ValueError:
        places.refuse("time that is neither a number nor a date", "such as 881250949 or 2024-05-31")


def _name(value: object) -> str | None:
    """None: nothing that could be a name."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    name = str(value).strip()
    return name if 0 < len(name) <= MAX_NAME and name.isprintable() else None


def _is_number_or_none(value: object) -> bool:
    if value is None or (isinstance(value, str) and not value.strip()):
        return True
    try:
        return math.isfinite(float(value))  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return False


def _seconds(value: object) -> float | None:
    """Raises ValueError on what is no time."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, datetime):
        return _utc(value)
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, OverflowError) as error:
        raise ValueError from error
    except ValueError:
        return _utc(datetime.fromisoformat(str(value).strip()))
    if not math.isfinite(number):
        raise ValueError
    return number / 1000 if abs(number) >= MILLISECONDS_FROM else number


def _utc(moment: datetime) -> float:
    """What does not say where it is, is the same everywhere."""
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
