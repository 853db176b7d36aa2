"""Rows of a table <-> tokens: of each column one id, the bin of a number or a known word.

A row is {column: number, text, or None where it is missing}. Each column has ids of its own: one of
missing and of words that were never seen, then one of each bin or word. Numbers are cut into bins
of about as many rows each, and come back as the middle one of their bin: that is what is lost. A
column whose rows mostly have one value leaves it out, so that wide and sparse tables stay short.
"""

from __future__ import annotations

import bisect
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from whorl.core.digests import canonical_json
from whorl.core.errors import DataError, RecordError
from whorl.core.nearest import meant

__all__ = ["Column", "TableCodec", "load", "word_of"]

FILE = "columns.json"
MISSING = 0  # of a column's ids
USUAL_SHARE = 0.5  # of the rows: a more frequent value is left out
SHOWN_CELLS = 40  # of a row, in words
MAX_WORDS = 256  # of a column, the commonest; others are as if missing

Cell = float | str | None
Row = Mapping[str, Cell]


def word_of(cell: float | str) -> str:
    """A cell among words: a text as it is, a number with all its digits, whole ones without .0."""
    if isinstance(cell, str | int):
        return str(cell)
    return str(int(cell)) if cell.is_integer() else repr(float(cell))


@dataclass(frozen=True)
class Column:
    """edges: of numbers, n + 1 bins have n; values: what each bin or word comes back as."""

    name: str
    values: tuple[Cell, ...]
    edges: tuple[float, ...] | None = None  # None: the column has words
    usual: int | None = None  # id that is left out

    @classmethod
    def of_numbers(cls, name: str, cells: Sequence[Cell], bins: int) -> Column:
        """Bins of about as many of the cells each; every number its own where they are few."""
        numbers = np.array([cell for cell in cells if cell is not None], np.float64)
        if not len(numbers):
            return cls(name, ())
        distinct = np.unique(numbers)
        if len(distinct) <= bins:
            edges = (distinct[1:] + distinct[:-1]) / 2
        else:
            edges = np.unique(np.quantile(numbers, np.arange(1, bins) / bins))
        groups = np.searchsorted(edges, numbers, side="right")
        middles = [
            float(np.sort(mine)[(len(mine) - 1) // 2]) if len(mine) else float("nan")
            for mine in (numbers[groups == group] for group in range(len(edges) + 1))
        ]
        kept = [place for place, middle in enumerate(middles) if not math.isnan(middle)]
        between = tuple(float(edges[place - 1]) for place in kept[1:])  # no bin is empty
        found = cls(name, tuple(middles[place] for place in kept), between)
        return found.leaving_out_the_usual(cells)

    @classmethod
    def of_words(cls, name: str, cells: Sequence[Cell]) -> Column:
        """The commonest words, sorted."""
        counts = Counter(word_of(cell) for cell in cells if cell is not None)
        ranked = sorted(counts, key=lambda word: (-counts[word], word))[:MAX_WORDS]
        return cls(name, tuple(sorted(ranked))).leaving_out_the_usual(cells)

    def leaving_out_the_usual(self, cells: Sequence[Cell]) -> Column:
        counts = Counter(map(self.place, cells))
        place, count = min(counts.items(), key=lambda item: (-item[1], item[0]))
        usual = place if count > USUAL_SHARE * len(cells) else None
        return Column(self.name, self.values, self.edges, usual)

    @property
    def num_ids(self) -> int:
        return 1 + len(self.values)

    @cached_property
    def _places(self) -> Mapping[Cell, int]:
        return {value: place for place, value in enumerate(self.values, 1)}

    def place(self, cell: Cell) -> int:
        """Raises DataError on a text, or what no float holds, where the column has numbers."""
        if cell is None:
            return MISSING
        if self.edges is None:
            return self._places.get(word_of(cell), MISSING)
        if isinstance(cell, str) or not _is_finite(cell):
            raise DataError(f"column {self.name} has numbers", found=repr(cell)[:80])
        return 1 + bisect.bisect_right(self.edges, cell)

    def cell(self, place: int) -> Cell:
        return None if place == MISSING else self.values[place - 1]


def _is_finite(number: float) -> bool:
    try:
        return math.isfinite(number)
    except OverflowError:  # a whole number beyond all floats
        return False


@dataclass
class TableCodec:
    """Local ids are those of the first column, then of the second, and so on."""

    columns: tuple[Column, ...]
    name: str = "row"
    kind: str = "table-row"
    media_type: str = "application/json"
    value_ids: None = None  # usual values are left out
    num_ids: int = field(init=False)
    _starts: tuple[int, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Raises DataError without a column, or if two have one name."""
        names = [column.name for column in self.columns]
        if not names or len(set(names)) != len(names):
            raise DataError("a table needs columns of distinct names", found=f"{len(names)} names")
        starts = np.cumsum([0, *(column.num_ids for column in self.columns)]).tolist()
        self._starts = tuple(starts)
        self.num_ids = self._starts[-1]

    @classmethod
    def fit(cls, cells: Mapping[str, Sequence[Cell]], bins: int) -> TableCodec:
        """Of the cells of each column: words where one is a word, else bins of numbers."""
        return cls(
            tuple(
                Column.of_words(name, mine)
                if any(isinstance(cell, str) for cell in mine)
                else Column.of_numbers(name, mine, bins)
                for name, mine in cells.items()
            )
        )

    def encode(self, value: Any) -> list[int]:
        """A row, or its JSON; columns that it has not are missing. Raises DataError on others.

        One whose cells are all usual has the id of its first column all the same: no row is empty.
        """
        row = self._row(value)
        ids = []
        for start, column in zip(self._starts, self.columns, strict=False):
            place = column.place(row.get(column.name))
            if place != column.usual:
                ids.append(start + place)
        return ids or [self.columns[0].usual or MISSING]

    def decode(self, ids: Sequence[int]) -> dict[str, Cell]:
        """Numbers as the middle of their bin; columns that are left out have their usual value."""
        row: dict[str, Cell] = {
            column.name: None if column.usual is None else column.cell(column.usual)
            for column in self.columns
        }
        for number in ids:
            which = bisect.bisect_right(self._starts, number) - 1
            column = self.columns[which]
            row[column.name] = column.cell(number - self._starts[which])
        return row

    def shown(self, ids: Sequence[int]) -> str:
        """The row as JSON; of a wide table the cells that are not the usual ones of their columns,
        and how many others there are."""
        row = self.decode(ids)
        if len(row) <= SHOWN_CELLS:
            return json.dumps(row, ensure_ascii=False)
        named = {self.columns[bisect.bisect_right(self._starts, i) - 1].name for i in ids}
        told = json.dumps({k: row[k] for k in row if k in named}, ensure_ascii=False)
        return f"{told} and {len(row) - len(named)} usual cells"

    def to_bytes(self, value: Any) -> bytes:
        """JSON. Raises DataError as `encode`."""
        return canonical_json(dict(self.decode(self.encode(value)))).encode()

    def from_bytes(self, data: bytes) -> dict[str, Cell]:
        """Raises DataError on what is no JSON of a row."""
        row = self._row(data.decode("utf-8", "replace"))
        self.encode(row)
        return dict(row)

    def files(self) -> dict[str, bytes]:
        return {FILE: canonical_json({"columns": [asdict(each) for each in self.columns]}).encode()}

    def _row(self, value: Any) -> Row:
        if isinstance(value, str):
            try:
                value = json.loads(value)
            except (ValueError, RecursionError) as error:
                raise DataError("this row is no JSON", found=error) from error
        if not isinstance(value, Mapping):
            raise DataError("this is no row", found=type(value).__name__, expected="an object")
        names = [column.name for column in self.columns]
        for name, cell in value.items():
            if name not in names:
                told = f"there is no column {str(name)[:80]!r}{meant(str(name), names)}"
                raise DataError(told, expected=names[:12])
            if isinstance(cell, bool) or not isinstance(cell, str | int | float | None):
                raise DataError(f"column {name} has no such values", found=repr(cell)[:80])
        return value


def load(name: str, files: Mapping[str, bytes]) -> TableCodec:
    """The codec of these files. Raises RecordError if they are not its."""
    try:
        told = json.loads(files[FILE])["columns"]
        return TableCodec(tuple(_column(each) for each in told), name)
    except (KeyError, TypeError, ValueError, RecursionError, DataError) as error:
        raise RecordError(f"codec {name} is not a table codec", found=error) from error


def _column(told: Any) -> Column:
    edges, usual = told["edges"], told["usual"]
    column = Column(
        str(told["name"]),
        tuple(told["values"]),
        None if edges is None else tuple(float(edge) for edge in edges),
        None if usual is None else int(usual),
    )
    if edges is not None and (len(edges) + 1 != len(column.values) or sorted(edges) != edges):
        raise ValueError(f"bins of {column.name} do not fit their edges")
    return column
