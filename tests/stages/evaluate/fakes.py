"""A tiny prepared record, model folders without weights, and engines whose scores are known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from whorl.arch.dense import dense_shape
from whorl.codecs.contract import Tokens
from whorl.codecs.text import train_text_codec
from whorl.core.context import StageContext
from whorl.core.ports import Source
from whorl.core.records import Record, RecordStore
from whorl.core.variants import Variant
from whorl.fields.text import FIELD
from whorl.model.folder import FolderCard, prepare_folder, seal_folder
from whorl.spec.resolved import PrepareConfig
from whorl.stages.prepare.run import run as prepare
from whorl.testing.corpus import write_corpus
from whorl.testing.engine import FakeEngine

__all__ = ["ScoringEngine", "context_in", "model_folder", "prepared_corpus", "tiny_tokens"]

Scorer = Callable[[Sequence[int]], np.ndarray]


class ScoringEngine(FakeEngine):
    """An engine whose score of a sequence of n ids is what a function says (n - 1 values)."""

    def __init__(self, contract_digest: str, scorer: Scorer) -> None:
        super().__init__(contract_digest)
        self.scorer = scorer
        self.sequences: list[list[int]] = []
        self.closed = False

    def score(
        self, sequences: Sequence[Sequence[int]], prefix: Sequence[int] = ()
    ) -> list[np.ndarray]:
        whole = [[*prefix, *sequence] for sequence in sequences]
        self.sequences += whole
        first = max(0, len(prefix) - 1)
        return [np.asarray(self.scorer(ids), np.float64)[first:] for ids in whole]

    def close(self) -> None:
        self.closed = True
        super().close()


def context_in(home: Path) -> StageContext:
    return StageContext(RecordStore(home, "tiny"))


def prepared_corpus(home: Path, folder: Path, num_documents: int = 120) -> Record:
    """prepare, run on the tiny corpus with one worker."""
    source = Source(str(write_corpus(folder, num_documents)), "text")
    config = PrepareConfig(vocab_size=400, seq_len=48, heldout_share=0.2)
    return prepare(context_in(home), config, {"text": FIELD}, (source,), "0" * 64, 1)


def tiny_tokens() -> Tokens:
    return Tokens.build({"text": train_text_codec(["some text, more text"], 270)}, 300)


def model_folder(path: Path, tokens: Tokens, lineage: str = "1") -> Path:
    """A folder that verifies, with tokens and a card but no weights."""
    prepare_folder(path)
    tokens.save(path / "tokens")
    shape = dense_shape(
        layers=1,
        width=8,
        heads=1,
        kv_heads=1,
        head_dim=8,
        ffn_width=8,
        vocab_size=tokens.contract.vocab_size,
        max_seq_len=64,
    )
    seal_folder(
        path,
        FolderCard(
            Variant("openvino", "int8"), tokens.contract.digest, shape, {"train": lineage * 32}
        ),
    )
    return path
