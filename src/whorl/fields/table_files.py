"""Tables as people have them, read with their types: csv, tsv, jsonl, parquet, a data frame of R.

A column is of numbers if all its cells are numbers but those that are missing; else it has words.
What was taken for what is told.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from whorl.codecs.table import MAX_WORDS, Cell, word_of
from whorl.core import streams
from whorl.core.errors import DataError, MissingExtra
from whorl.core.nearest import meant
from whorl.core.ports import Source
from whorl.core.sources import FileItem
from whorl.fields.files import JSONL_SUFFIXES, ROW_FORMATS, bare_suffix
from whorl.fields.formats import rows_of
from whorl.fields.places import Places, Reject
from whorl.fields.whole import files_of

__all__ = ["SUFFIXES", "TypedRows", "read_table"]

R_SUFFIXES = (".rda", ".rdata")
SUFFIXES = (*ROW_FORMATS, *R_SUFFIXES)
MISSING = frozenset(("", "na", "n/a", "nan", "null", "none", "?", "missing"))
USUAL_TARGETS = ("class", "classes", "target", "label", "y", "outcome")
MAX_CLASSES = 256
MANY_CLASSES = 16  # of numbers, which may be a measure
MAX_R_BYTES = 2**30  # of a file of R, unpacked
MAX_COLUMNS = 2_000
MAX_CELL = 200  # signs of a word

Row = dict[str, Cell]


@dataclass(frozen=True)
class TypedRows:
    """rows: [(what row it is, its cells without the target, the class)]; numbers: columns."""

    columns: tuple[str, ...]
    numbers: frozenset[str]
    target: str
    rows: list[tuple[str, Row, str]]


def read_table(source: Source, target: str, reject: Reject) -> TypedRows:
    """All files of a source as one table. target: a column, or "" for the usual one.

    Raises DataError if there is no such column or fewer than two classes, MissingExtra.
    """
    found: list[tuple[str, dict[str, Any]]] = []
    columns: tuple[str, ...] = ()
    told: Places | None = None
    for item in files_of(source, SUFFIXES):
        places = Places.of(item, reject)
        for name, row in _rows(item, places):
            names = tuple(map(str, row))
            columns, told = columns or names, told or Places.of(item, reject)
            if set(names) != set(columns) and bare_suffix(item.name) not in JSONL_SUFFIXES:
                places.refuse("row of other columns than the first file's", ", ".join(names[:8]))
            elif unknown := [name for name in names if name not in columns]:
                places.refuse("row with a column that the first row has not", unknown[0][:80])
            else:
                found.append((name, {str(key): value for key, value in row.items()}))
    if told is None or len(columns) < 2 or len(columns) > MAX_COLUMNS:
        expected = f"rows of 2 to {MAX_COLUMNS:,} columns, their names in the first row"
        found_here = f"{len(columns):,} columns"
        raise DataError(f"source {source.source} is no table", found=found_here, expected=expected)
    told.at(None)
    target = _target_of(target, columns, told)
    return _typed(found, columns, target, told)


def _rows(item: FileItem, places: Places) -> Iterator[tuple[str, Mapping[str, Any]]]:
    suffix = bare_suffix(item.name)
    if suffix in R_SUFFIXES:
        return _r_rows(item, places)
    return rows_of(replace(item, kind=ROW_FORMATS[suffix]), (), places)


def _r_rows(item: FileItem, places: Places) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Of the one data frame in a file of R, read by rdata."""
    try:
        import rdata
    except ImportError as error:
        raise MissingExtra.of("rdata", "r-data", "a file of R") from error
    try:
        with streams.open_source(item.path, item.root, item.num_bytes) as opened:
            data = opened.content.read(MAX_R_BYTES)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of encodings that old files do not say
            read = rdata.conversion.convert(rdata.parser.parse_data(data), default_encoding="utf-8")
        frames = [value for value in read.values() if hasattr(value, "itertuples")]
    except streams.SourceFault as fault:
        places.refuse(*fault.args)
        return
    except Exception as error:  # whatever the reader raises on what is none of R's
        places.refuse("no file of R that can be read", f"{type(error).__name__}: {error}"[:120])
        return
    if len(frames) != 1:
        places.refuse("file of R without one data frame", f"it has {len(frames)}")
        return
    names = [str(name) for name in frames[0].columns]
    for number, values in enumerate(frames[0].itertuples(index=False, name=None)):
        yield f"{item.name}@{number}", dict(zip(names, values, strict=True))


def _target_of(target: str, columns: Sequence[str], told: Places) -> str:
    """Raises DataError, with the nearest name, if it is no column."""
    if target:
        if target not in columns:
            raise DataError(
                f"there is no column {target}{meant(target, columns)}",
                expected=list(columns[:12]),
                do="correct options.target",
            )
        return target
    by_name = {column.lower(): column for column in columns}
    found = next((by_name[name] for name in USUAL_TARGETS if name in by_name), columns[-1])
    told.tell(f"target: column {found}")
    return found


def _typed(
    found: Sequence[tuple[str, dict[str, Any]]],
    columns: Sequence[str],
    target: str,
    told: Places,
) -> TypedRows:
    classes = [_class_of(row.get(target)) for _, row in found]
    cells = {name: [_cell(row.get(name)) for _, row in found] for name in columns if name != target}
    if classes.count(None):
        for _ in range(classes.count(None)):
            told.refuse("row without a target")
    _check_classes([label for label in classes if label is not None], target)
    kept, numbers = [], set()
    for name, column in cells.items():
        present = [cell for cell in column if cell is not None]
        is_number = all(isinstance(cell, float) for cell in present)
        different = len(set(present))
        if different < 2:
            told.tell(f"column {name}: one value alone, left out")
            continue
        if not is_number and different == len(present) > MAX_WORDS:
            told.tell(f"column {name}: a name of its own in each row, left out")
            continue
        kept.append(name)
        numbers |= {name} if is_number else set()
    _tell_types(cells, kept, numbers, told)
    rows = []
    for place, ((name, _), label) in enumerate(zip(found, classes, strict=True)):
        if label is None:
            continue
        row: Row = {}
        for key in kept:
            cell = cells[key][place]
            row[key] = cell if cell is None or key in numbers else word_of(cell)
        rows.append((name, row, label))
    return TypedRows(tuple(kept), frozenset(numbers), target, rows)


def _check_classes(labels: Sequence[str], target: str) -> None:
    """Raises DataError where a class is none, or a measure that nearly each row has another of."""
    distinct, what = set(labels), "values"
    is_measure = all(isinstance(_cell(label), float) for label in distinct)
    if is_measure and len(distinct) > MANY_CLASSES and 2 * len(distinct) > len(labels):
        what = f"numbers in {len(labels):,} rows"
    elif 2 <= len(distinct) <= MAX_CLASSES:
        return
    raise DataError(
        f"column {target} has no classes to choose from",
        found=f"{len(distinct)} different {what}",
        expected=f"2 to {MAX_CLASSES}, each of several rows",
        do="name another column in options.target; numbers become classes if you cut them "
        "into ranges",
    )


def _tell_types(
    cells: Mapping[str, Sequence[Cell]], kept: Sequence[str], numbers: set[str], told: Places
) -> None:
    """Each column of few, and how many of what kind of many."""
    kinds = {name: "numbers" if name in numbers else "words" for name in kept}
    for kind in ("numbers", "words"):
        mine = [name for name in kept if kinds[name] == kind]
        if mine:
            more = "" if len(mine) <= 12 else f" … ({len(mine)} columns)"
            told.tell(f"{kind}: {', '.join(mine[:12])}{more}")
    for name in kept:
        if missing := sum(cell is None for cell in cells[name]):
            told.tell(f"column {name}: {missing:,} of {len(cells[name]):,} cells are missing")


def _cell(value: Any) -> Cell:
    """A number where it is one, however it is written; None where it is missing."""
    if value is None or isinstance(value, bool):
        return None if value is None else str(value).lower()
    if isinstance(value, str):
        text = value.strip()
        if text.lower() in MISSING:
            return None
        try:
            number = float(text) if "_" not in text else math.nan
        except ValueError:
            return text[:MAX_CELL]
        return number if math.isfinite(number) else text[:MAX_CELL]
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        text = str(value)
        return None if text.lower() in (*MISSING, "<na>", "nat") else text[:MAX_CELL]
    return number if math.isfinite(number) else None


def _class_of(value: Any) -> str | None:
    """A text as it is written: 007 is not 7; None where it is missing."""
    cell = _cell(value)
    if cell is None:
        return None
    if isinstance(value, str):
        return value.strip()
    return word_of(value if isinstance(value, int) and not isinstance(value, bool) else cell)
