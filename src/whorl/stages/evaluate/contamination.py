"""How much of the evaluated text was in the training rows: runs of ids that both hold.

An id of a held-out document counts as seen when it lies within NGRAM ids in a row that stand
somewhere in the training rows (as 2307.09288, appendix A.6, with one length). What deduplication
takes for near copies is gone by then; this counts what is left: quotations, licences, boilerplate.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whorl.codecs.contract import Tokens
from whorl.core.ports import HeldoutDocument
from whorl.core.rows import RowSet
from whorl.stages.evaluate.baselines import read_stream

__all__ = ["NGRAM", "seen_shares", "summary_of"]

NGRAM = 13  # ids in a row
MOSTLY = 0.8  # of a document's ids: from here on it is mostly seen
IDS_AT_ONCE = 2**22  # some of 64 bits are held for each
FACTOR, MIXER = 0x9E3779B97F4A7C15, 0xD6E8FEB86659FD93  # odd numbers without a pattern
FILTER_BITS = 22
NUM_WORST = 5  # documents named

Hashes = NDArray[np.uint64]


def seen_shares(
    rows: RowSet, tokens: Tokens, documents: Sequence[HeldoutDocument]
) -> list[float | None]:
    """Of each document's ids the share that was seen; None of one that is no text, or too short."""
    inner = set(tokens.contract.special.values())
    texts = [np.asarray(d.ids, np.int64) if d.num_bytes else np.empty(0, int) for d in documents]
    texts = [ids[~np.isin(ids, list(inner))] for ids in texts]
    hashes = [_hashes(ids) for ids in texts]
    wanted = np.unique(np.concatenate([np.empty(0, np.uint64), *hashes]))
    if not len(wanted):
        return [None] * len(documents)
    found = np.zeros(len(wanted), np.bool_)
    maybe = np.zeros(2**FILTER_BITS, np.bool_)
    shift = np.uint64(64 - FILTER_BITS)
    maybe[wanted >> shift] = True
    for stream in _streams(rows, tokens):
        there = _hashes(stream)
        there = there[maybe[there >> shift]]
        places = np.searchsorted(wanted, there).clip(max=len(wanted) - 1)
        found[places[wanted[places] == there]] = True
    return [
        _covered(ids, found[np.searchsorted(wanted, of)])
        for ids, of in zip(texts, hashes, strict=True)
    ]


def _streams(rows: RowSet, tokens: Tokens) -> Iterator[NDArray[np.int64]]:
    """All ids, a part at a time; parts share a row, so that nothing is lost between them."""
    inner = np.array(sorted(tokens.contract.special.values()))
    rows_at_once = max(1, IDS_AT_ONCE // (rows.seq_len + 1))
    for begin in range(0, rows.num_rows, rows_at_once):
        end = min(rows.num_rows, begin + rows_at_once)
        numbers = np.arange(max(0, begin - 1), end)
        most = len(numbers) * (rows.seq_len + 1)
        ids = read_stream(rows, tokens, numbers, max_tokens=most).ids
        yield ids[~np.isin(ids, inner)]


def _hashes(ids: NDArray[np.int64]) -> Hashes:
    """One of every NGRAM ids in a row: sums of ids times powers of FACTOR, modulo 2^64."""
    if len(ids) < NGRAM:
        return np.empty(0, np.uint64)
    mixed = (ids.astype(np.uint64) + np.uint64(1)) * np.uint64(MIXER)
    mixed ^= mixed >> np.uint64(32)
    powers = np.array([pow(FACTOR, n, 2**64) for n in range(NGRAM)], np.uint64)
    total = np.zeros(len(ids) - NGRAM + 1, np.uint64)
    for place, power in enumerate(powers):
        total += mixed[place : place + len(total)] * power
    return total


def _covered(ids: NDArray[np.int64], is_seen: NDArray[np.bool_]) -> float | None:
    """The share of ids inside any n-gram that was seen."""
    if not len(is_seen):
        return None
    edges = np.zeros(len(ids) + 1, np.int64)
    np.add.at(edges, np.flatnonzero(is_seen), 1)
    np.add.at(edges, np.flatnonzero(is_seen) + NGRAM, -1)
    return float((np.cumsum(edges)[:-1] > 0).mean())


def summary_of(
    documents: Sequence[HeldoutDocument], shares: Sequence[float | None]
) -> dict[str, Any]:
    """Plain values: how many documents were touched, and which most."""
    known = [
        (share, document.name)
        for share, document in zip(shares, documents, strict=True)
        if share is not None
    ]
    worst = sorted(known, key=lambda item: (-item[0], item[1]))[:NUM_WORST]
    return {
        "ngram": NGRAM,
        "documents": len(known),
        "touched": sum(share > 0 for share, _ in known),
        "mostly_seen": sum(share >= MOSTLY for share, _ in known),
        "mean_share": sum(share for share, _ in known) / len(known) if known else None,
        "worst": [{"name": name, "share": share} for share, name in worst if share > 0],
    }
