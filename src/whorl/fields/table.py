"""Rows of a table: which class is the target of?

A row is the ids of its cells (`whorl.codecs.table`), the answer one of the classes. A share of each
class is held out, equal rows on one side. Rows are also read in copies with some cells missing:
they are learned from with less than they hold, and answered with gaps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whorl.codecs.label import LabelCodec
from whorl.codecs.table import Cell, TableCodec
from whorl.core.digests import canonical_json
from whorl.core.intervals import score_of
from whorl.core.ports import Codec, Document, Part, QualityMeasure, Score, Source, Task
from whorl.core.tasks import ChoiceTask
from whorl.fields.classifiers import answers_of
from whorl.fields.places import Places
from whorl.fields.table_files import SUFFIXES, TypedRows, read_table
from whorl.fields.whole import (
    begins,
    copies_of,
    number_of,
    share_of,
    share_option,
    tell_copies,
    whole_items,
)

__all__ = ["FIELD", "TableField"]

ROW, LABEL, MARK_CODEC = "row", "label", "special"
MARK, ORIGINAL = "<|answer|>", "<|end|>"  # the latter stands behind rows as they were read
BINS = 32  # of a column of numbers
WANTED_ROWS, MOST_COPIES = 100_000, 12  # where a recipe says no number of copies
TASK = ChoiceTask()


@dataclass(frozen=True)
class TableField:
    """One document per row and copy; only the class is learned."""

    name: str = "table"
    task: Task = TASK
    logic_version: int = 2
    options: Mapping[str, str] = field(
        default_factory=lambda: {
            "target": "",
            "heldout": "0.2",
            "copies": "auto",
            "gaps": "0.15",
            "seed": "0",
        }
    )

    def items(self, source: Source) -> list[Any]:
        """Raises DataError when the source is missing or holds no table."""
        return list(whole_items(source, SUFFIXES))

    def read(self, source: Source, item: Any, reject: Callable[[str], None]) -> Iterator[Document]:
        """Raises DataError on what is no table or has no classes, SpecError on wrong options."""
        if not begins(item, reject):
            return
        options = {**self.options, **source.options}
        gaps, seed = share_option(options, "gaps"), number_of(options, "seed")
        table = read_table(source, options["target"], reject)
        held = _heldout(table, share_option(options, "heldout"), seed)
        copies = copies_of(options, len(table.rows), WANTED_ROWS, MOST_COPIES)
        tell_copies(Places.of(item, reject), len(table.rows), "rows", copies)
        for place, (name, row, label) in enumerate(table.rows):
            question = (Part(MARK_CODEC, MARK, trained=False), Part(LABEL, label))
            if place in held:
                yield Document(name, (Part(ROW, row, trained=False), *question), "heldout")
                continue
            end = Part(MARK_CODEC, ORIGINAL, trained=False)
            yield Document(name, (Part(ROW, row, trained=False), *question, end), "train")
            rng = np.random.default_rng([seed, place])
            for copy in range(1, copies):
                holes = rng.random(len(row)) < gaps
                cells = {
                    key: None if hole else cell
                    for (key, cell), hole in zip(row.items(), holes.tolist(), strict=True)
                }
                parts = (Part(ROW, cells, trained=False), *question)
                yield Document(f"{name}~{copy}", parts, "train")

    def fit_codecs(
        self, documents: Iterable[Document], options: Mapping[str, Any]
    ) -> dict[str, Codec]:
        """Bins and words of the rows as they were read, and the classes."""
        columns: dict[str, list[Cell]] = {}
        labels = set()
        for document in documents:
            labels.add(document.parts[2].value)
            if document.parts[-1].value == ORIGINAL:
                for name, cell in document.parts[0].value.items():
                    columns.setdefault(name, []).append(cell)
        return {ROW: TableCodec.fit(columns, BINS), LABEL: LabelCodec.fit(labels)}

    def baselines(
        self, train: Sequence[Document], heldout: Sequence[Document], rows: NDArray[np.int64] | None
    ) -> list[Score]:
        """Trees, boosting and a linear model on the same rows, as the codec keeps them."""
        originals = [document for document in train if document.parts[-1].value == ORIGINAL]
        known, asked = ([_row_of(d) for d in documents] for documents in (originals, heldout))
        labels, right = ([_label_of(d) for d in documents] for documents in (originals, heldout))
        names, ones = tuple(document.name for document in heldout), np.ones(len(heldout))
        return [
            score_of(method, QualityMeasure(self.task.metric, names, hits.astype(np.float64), ones))
            for method, answers in answers_of(known, labels, asked)
            for hits in [answers == np.array(right)]
        ]


def _heldout(table: TypedRows, share: float, seed: int) -> frozenset[int]:
    """Places of rows: of each class those with the smallest hashes, at most the share of them."""
    by_class: dict[str, list[tuple[float, int]]] = {}
    for place, (_, row, label) in enumerate(table.rows):
        number = share_of(seed, label, canonical_json(row))
        by_class.setdefault(label, []).append((number, place))
    held: set[int] = set()
    for rows in by_class.values():
        rows.sort()
        most = int(share * len(rows))
        limit = rows[most][0]
        held |= {place for number, place in rows if number < limit}
    return frozenset(held)


def _row_of(document: Document) -> Mapping[str, Cell]:
    row: Mapping[str, Cell] = document.parts[0].value
    return row


def _label_of(document: Document) -> str:
    return next(str(part.value) for part in document.parts if part.codec == LABEL)


FIELD = TableField()
