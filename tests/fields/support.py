"""What tests of fields share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.stages.plan.conftest import machine
from whorl.core.ports import Document, Field, Source

__all__ = ["miniature", "read_all"]


def read_all(field: Field, source: Source) -> tuple[list[Document], Counter[str]]:
    """(documents of a source, how often each reason was told)."""
    reasons: Counter[str] = Counter()
    documents = [
        document
        for item in field.items(source)
        for document in field.read(source, item, lambda reason: reasons.update([reason]))
    ]
    return documents, reasons


def miniature(
    patch: pytest.MonkeyPatch,
    home: Path,
    entry: Mapping[str, Any],
    tokens: tuple[int, int],
    steps: int,
    *,
    layers: int = 2,
    heads: int = 2,
    rate: float | None = None,
    embedding_rate: float | None = None,
    **others: Any,
) -> Any:
    """A session of a tiny model of one entry of data, in one thread of one process.

    tokens: of a row and of a step. heads: of 16 elements. rate: of learning, embeddings
    too unless theirs is another. others: groups of the recipe.
    """
    from whorl.verbs import Session

    patch.setattr("whorl.launch.calibrate.this_machine", lambda home: machine())
    train = {"seq_len": tokens[0], "batch_tokens": tokens[1], "steps": steps, "threads": 1}
    rates = {"learning_rate": rate, "embedding_learning_rate": embedding_rate or rate}
    recipe = {
        "name": "miniature",
        "data": [{**entry, "source": str(entry["source"])}],
        "model": {
            **{"layers": layers, "width": 16 * heads, "head_dim": 16},
            **{"heads": heads, "kv_heads": heads},
        },
        "train": train | (rates if rate else {}),
        "compress": "none",
        **others,
    }
    return Session.open(recipe, home=home, workers=1)
