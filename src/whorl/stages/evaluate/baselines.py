"""What other methods make of the same held-out documents: the tokens and texts they are given.

An n-gram model is trained on the very token rows the model was trained on, and once more on all
of them if the model did not see them all. The field adds its own methods.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from whorl.codecs.contract import Tokens
from whorl.codecs.parts import decode_parts
from whorl.core.errors import DataError, RecordError
from whorl.core.ports import Document, HeldoutDocument
from whorl.core.rows import RowSet
from whorl.stages.evaluate.ngram import KneserNey

__all__ = [
    "MAX_TOKENS",
    "TokenDocuments",
    "TokenStream",
    "decoded",
    "document_of",
    "ngram_nats",
    "read_stream",
    "rows_of_field",
    "rows_seen",
]

MAX_TOKENS = 12_000_000  # of an n-gram model: 1.4 GB and 15 s
ROWS_AT_ONCE = 4_096

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class TokenStream:
    """Ids [n] of rows, and where pieces of documents begin [n]."""

    ids: Ints
    starts: NDArray[np.bool_]


def rows_of_field(rows: RowSet, field: str) -> Ints:
    """Numbers of the rows of a field's sources, ascending."""
    ranges = [
        np.arange(source.first_row, source.first_row + source.num_rows)
        for source in rows.index.sources
        if source.field == field
    ]
    return np.concatenate([np.empty(0, np.int64), *ranges])


def rows_seen(rows: RowSet, steps: int, rows_per_step: int, seed: int) -> Ints:
    """Numbers of the rows in a training run's batches, ascending, each once."""
    if not rows.num_rows:
        raise RecordError("there are no training rows")
    seen = np.zeros(rows.num_rows, np.bool_)
    for step in range(steps):
        seen[rows.rows_of_step(step, rows_per_step, seed)] = True
        if seen.all():
            break
    return np.flatnonzero(seen)


def read_stream(
    rows: RowSet, tokens: Tokens, numbers: Ints | None = None, max_tokens: int = MAX_TOKENS
) -> TokenStream:
    """The ids of rows (ascending numbers; None: all), padding left out, pieces joined again.

    A row that continues the one before it is joined to it without the id that was repeated.
    Beyond max_tokens, evenly spaced rows are taken.
    """
    wanted = np.arange(rows.num_rows) if numbers is None else numbers
    if len(wanted) * rows.seq_len > max_tokens:
        count = max(1, max_tokens // rows.seq_len)
        wanted = wanted[np.linspace(0, len(wanted) - 1, count).astype(np.int64)]
    contract = tokens.contract
    ids, starts = [np.empty(0, np.int64)], [np.empty(0, np.bool_)]
    previous, previous_id = -2, -1
    for begin in range(0, len(wanted), ROWS_AT_ONCE):
        part = wanted[begin : begin + ROWS_AT_ONCE]
        batch = rows.read(part)
        follows = np.diff(part, prepend=previous) == 1
        before = np.concatenate([[previous_id], batch.ids[:-1, -1]])
        joins = follows & (batch.ids[:, 0] == before)
        begins = batch.segment_starts.copy()
        begins[joins, 0] = False
        kept = ~batch.is_padding(contract.pad_id)
        kept[joins, 0] = False
        ids.append(batch.ids[kept])
        starts.append(begins[kept])
        previous, previous_id = int(part[-1]), int(batch.ids[-1, -1])
    return TokenStream(np.concatenate(ids), np.concatenate(starts))


def ngram_nats(
    stream: TokenStream, tokens: Tokens, documents: Sequence[HeldoutDocument]
) -> list[NDArray[np.float64]]:
    """The log-probability of each document's trained ids by an n-gram model of the stream."""
    contract = tokens.contract
    num_targets = 1 + sum(entry.id_end - entry.id_start for entry in contract.codecs)
    model = KneserNey.fit(stream.ids, stream.starts, contract.vocab_size, num_targets)
    begins = np.cumsum([0, *(len(document.ids) for document in documents)])
    ids = np.concatenate([document.ids for document in documents]).astype(np.int64)
    starts = np.zeros(len(ids), np.bool_)
    starts[begins[:-1]] = True
    nats = np.split(-np.log(2) * model.bits(ids, starts), begins[1:-1])
    return [found[document.mask] for found, document in zip(nats, documents, strict=True)]


# ------------------------------------------------------------------ documents of ids


@dataclass(frozen=True)
class TokenDocuments(Sequence[Document]):
    """The documents of a stream (pieces, if rows are missing), decoded when asked for.

    Their names are numbers and every part counts as trained: rows keep neither.
    """

    stream: TokenStream
    tokens: Tokens

    @functools.cached_property
    def _begins(self) -> Ints:
        return np.append(np.flatnonzero(self.stream.starts), len(self.stream.ids))

    def __len__(self) -> int:
        return len(self._begins) - 1

    @overload
    def __getitem__(self, number: int) -> Document: ...

    @overload
    def __getitem__(self, number: slice) -> list[Document]: ...

    def __getitem__(self, number: int | slice) -> Document | list[Document]:
        if isinstance(number, slice):
            return [self[place] for place in range(*number.indices(len(self)))]
        place = range(len(self))[number]
        begin, end = self._begins[place : place + 2]
        name = f"train-{place}"
        try:
            return document_of(name, self.stream.ids[begin:end], self.tokens)
        except DataError:  # a piece that begins in the middle of an image says nothing
            return Document(name, ())


def decoded(documents: Sequence[HeldoutDocument], tokens: Tokens) -> list[Document]:
    """Held-out documents under their own names."""
    return [document_of(document.name, document.ids, tokens) for document in documents]


def document_of(name: str, ids: NDArray[Any], tokens: Tokens) -> Document:
    """A document of the parts its ids say, less what starts, ends and pads it; exact for text."""
    contract, inside = tokens.contract, np.asarray(ids, np.int64).tolist()
    start = list(contract.start_ids)
    padding = {contract.pad_id} & tokens.special_texts.keys()  # else it may end a text
    while inside and inside[-1] in padding.union(contract.end_ids):
        inside.pop()
    if inside[: len(start)] == start:
        del inside[: len(start)]
    return Document(name, tuple(decode_parts(tokens, inside)))
