"""Models, rows of pairs, and the same in transformers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tests.stages.train.work import VOCAB_SIZE, tiny_shape
from whorl.codecs.contract import Tokens
from whorl.core.heldout import write_heldout
from whorl.core.records import Record, RecordKey, RecordStore
from whorl.core.rows import RowsIndex, RowWriter
from whorl.model.families import family_of
from whorl.model.hf import save_model_folder
from whorl.model.transformer import Transformer
from whorl.testing.corpus import tiny_texts, tiny_tokens

SEQ_LEN = 40
Document = tuple[NDArray[np.int64], NDArray[np.bool_]]  # ids, what is trained


def random_model(seed: int = 0, **changes: Any) -> Transformer:
    torch.manual_seed(seed)
    model = Transformer(tiny_shape(**changes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.15).add_(1.0 if parameter.ndim == 1 else 0.0)
    return model


def in_transformers(model: Transformer) -> Any:
    """The same model as transformers computes it, with the same weights."""
    from transformers import AutoConfig, AutoModelForCausalLM

    family = family_of(model.shape)
    values = family.config(model.shape)
    config = AutoConfig.for_model(values.pop("model_type"), **values)
    theirs = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    state = {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
    found = theirs.load_state_dict(family.to_disk(state), strict=False)
    assert not found.unexpected_keys and set(found.missing_keys) <= {"lm_head.weight"}
    theirs.tie_weights()
    return theirs


def pairs_of_answers(count: int, seed: int = 0) -> list[tuple[Document, Document]]:
    """Each a prompt with two answers of several lengths; the chosen ones hold even ids alone."""
    chooser = np.random.default_rng(seed)
    pairs = []
    for _ in range(count):
        prompt = chooser.integers(10, VOCAB_SIZE, chooser.integers(2, 7))
        chosen = 2 * chooser.integers(10, VOCAB_SIZE // 2, chooser.integers(2, 12))
        rejected = 2 * chooser.integers(10, VOCAB_SIZE // 2, chooser.integers(2, 12)) - 1
        pair = []
        for answer in (chosen, rejected):
            ids = np.concatenate((prompt, answer))
            pair.append((ids, np.arange(len(ids)) >= len(prompt)))
        pairs.append((pair[0], pair[1]))
    return pairs


def pair_record(
    store: RecordStore,
    pairs: Sequence[tuple[Document, Document]],
    heldout: Sequence[tuple[Document, Document]] = (),
    per_row: int = 1,
) -> Record:
    """Rows of pairs side by side, as prepare leaves them."""
    key = RecordKey("prepare", {"pairs": len(pairs), "per_row": per_row})
    with store.write(key) as writer:
        _write_rows(writer.path, _by_row(pairs, per_row), _by_row(heldout or pairs, per_row))
    record = store.find(key)
    assert record is not None
    return record


def _by_row(pairs: Sequence[tuple[Document, Document]], per_row: int) -> Iterable[list[Document]]:
    for begin in range(0, len(pairs), per_row):
        yield [document for pair in pairs[begin : begin + per_row] for document in pair]


def _write_rows(
    folder: Path, rows: Iterable[list[Document]], heldout: Iterable[list[Document]]
) -> None:
    tokens: Tokens = tiny_tokens(VOCAB_SIZE, tiny_texts(20))
    pad = tokens.contract.pad_id
    train = RowWriter(folder, "rows/train", SEQ_LEN, VOCAB_SIZE, pad, 5)
    held = RowWriter(folder, "heldout/heldout", SEQ_LEN, VOCAB_SIZE, pad, None)
    for into, found in ((train, rows), (held, heldout)):
        for documents in found:
            for ids, mask in documents:
                into.add(ids, mask)
            into.end_row()
        into.close()
    ids, mask = np.arange(5), np.ones(5, np.bool_)
    write_heldout(folder, ["one"], [ids], [mask], [5], ["text"])
    RowsIndex(
        seq_len=SEQ_LEN,
        vocab_size=VOCAB_SIZE,
        num_rows=train.num_rows,
        dtype="<u2",
        shards=tuple(train.shards),
        trained_tokens=train.trained_tokens,
        heldout_rows=held.shards[0],
        heldout_trained_tokens=held.trained_tokens,
    ).save(folder)
    tokens.save(folder / "tokens")


def saved_model(store: RecordStore, prepared: Record, model: Transformer) -> Record:
    """A record with a model folder of the rows' tokens, as an import leaves it."""
    key = RecordKey("import", {}, {"source": prepared.digest})
    if (found := store.find(key)) is not None:
        return found
    with store.write(key) as writer:
        tokens = Tokens.load(prepared.folder("tokens"))
        weights = dict(model.named_parameters())
        save_model_folder(writer.path / "model", weights, model.shape, tokens, {})
    record = store.find(key)
    assert record is not None
    return record
