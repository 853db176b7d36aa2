"""A tiny prepared record, made without the prepare stage, and what to train on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from whorl.arch.dense import dense_shape
from whorl.arch.shape import ModelShape
from whorl.codecs.contract import Tokens
from whorl.core.context import StageContext
from whorl.core.heldout import write_heldout
from whorl.core.ports import Document, Part, Progress
from whorl.core.records import Record, RecordKey, RecordStore
from whorl.core.rows import RowsIndex, RowWriter
from whorl.spec.resolved import TrainConfig
from whorl.testing.corpus import tiny_texts, tiny_tokens

SEQ_LEN, VOCAB_SIZE, HELDOUT = 32, 300, 10


def make_prepared(home: Path, num_documents: int = 60, seq_len: int = SEQ_LEN) -> Record:
    """A record as prepare leaves it."""
    texts = tiny_texts(num_documents)
    tokens = tiny_tokens(VOCAB_SIZE, texts)
    store = RecordStore(home, "tiny")
    key = RecordKey("prepare", {"documents": num_documents, "seq_len": seq_len})
    with store.write(key) as writer:
        writer.metrics.update(fill_rows(writer.path, texts, tokens, seq_len))
        tokens.save(writer.path / "tokens")
    record = store.find(key)
    assert record is not None
    return record


def encode(tokens: Tokens, text: str) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    ids, mask = tokens.encode_document(Document("", (Part("text", text),)))
    return np.array(ids), np.array(mask)


def fill_rows(folder: Path, texts: list[str], tokens: Tokens, seq_len: int) -> dict[str, int]:
    pad = tokens.contract.pad_id
    train = RowWriter(folder, "rows/train", seq_len, VOCAB_SIZE, pad, 50)
    heldout = RowWriter(folder, "heldout/heldout", seq_len, VOCAB_SIZE, pad, None)
    documents = [encode(tokens, text) for text in texts]
    for number, (ids, mask) in enumerate(documents):
        (heldout if number < HELDOUT else train).add(ids, mask)
    train.close()
    heldout.close()
    num_bytes = [len(text.encode()) for text in texts]
    ids, masks = zip(*documents[:HELDOUT], strict=True)
    names = [f"document {number}" for number in range(HELDOUT)]
    write_heldout(folder, names, ids, masks, num_bytes[:HELDOUT], ["text"] * HELDOUT)
    RowsIndex(
        seq_len=seq_len,
        vocab_size=VOCAB_SIZE,
        num_rows=train.num_rows,
        dtype="<u2",
        shards=tuple(train.shards),
        trained_tokens=train.trained_tokens,
        heldout_rows=heldout.shards[0],
        heldout_trained_tokens=heldout.trained_tokens,
    ).save(folder)
    return {"train_bytes": sum(num_bytes[HELDOUT:]), "heldout_bytes": sum(num_bytes[:HELDOUT])}


def tiny_shape(**changes: Any) -> ModelShape:
    sizes: dict[str, Any] = {
        "layers": 2,
        "width": 32,
        "heads": 2,
        "kv_heads": 1,
        "head_dim": 16,
        "ffn_width": 64,
        "vocab_size": VOCAB_SIZE,
        "max_seq_len": 64,
    }
    return dense_shape(**(sizes | changes))


def config(**changes: Any) -> TrainConfig:
    values: dict[str, Any] = {
        "seq_len": SEQ_LEN,
        "batch_tokens": 4 * SEQ_LEN,
        "micro_batch_rows": 3,
        "steps": 12,
        "learning_rate": 0.02,
        "embedding_learning_rate": 0.008,
        "warmup_steps": 2,
        "decay_steps": 6,
        "threads": 1,
        "checkpoint_every_steps": 2,
        "validate_every_steps": 3,
        "validate_rows": 4,
    }
    return TrainConfig(**(values | changes))


def train(
    home: Path,
    prepared: Record,
    settings: Mapping[str, Any] | None = None,
    log: Callable[[str], None] = lambda line: None,
    progress: Progress | None = None,
) -> Record:
    """Train in this process."""
    from whorl.stages.train.run import run

    context = StageContext(RecordStore(home, "tiny"), log=log)
    if progress is not None:
        context = StageContext(context.store, progress, log)
    return run(context, tiny_shape(), config(**(settings or {})), prepared, {})
