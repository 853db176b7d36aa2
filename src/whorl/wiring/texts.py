"""Some training documents as ids, spread over all rows: what smaller weights are fitted on."""

from __future__ import annotations

import numpy as np

from whorl.codecs.contract import Tokens
from whorl.core.records import Record
from whorl.core.rounding import Texts
from whorl.core.rows import RowSet

__all__ = ["training_texts"]

TEXTS, TOKENS_EACH = 64, 256


def training_texts(prepared: Record, count: int = TEXTS, max_tokens: int = TOKENS_EACH) -> Texts:
    """Of evenly spaced training rows the longest piece of a document each; never held-out ones."""
    rows = RowSet.open(prepared)
    pad_id = Tokens.load(prepared.folder("tokens")).contract.pad_id
    numbers = np.unique(np.linspace(0, rows.num_rows - 1, min(count, rows.num_rows)).astype(int))
    batch = rows.read(numbers)
    kept = ~batch.is_padding(pad_id)
    texts = []
    for ids, starts, used in zip(batch.ids, batch.segment_starts, kept, strict=True):
        pieces = np.split(ids[used], np.flatnonzero(starts[used])[1:])
        texts.append(max(pieces, key=len)[:max_tokens].tolist())
    return texts
