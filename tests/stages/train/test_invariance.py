"""The loss and its gradient do not depend on micro-batches or on how documents are packed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.stages.train.work import config, encode, tiny_shape
from whorl.core.records import RecordKey, RecordStore
from whorl.core.rows import RowSet, RowsIndex, RowWriter
from whorl.model.transformer import Transformer
from whorl.stages.train.batch import Batch, make_batch
from whorl.stages.train.trainer import Trainer
from whorl.testing.corpus import tiny_texts, tiny_tokens

VOCAB_SIZE = 300
LIMITS = {torch.float64: 1e-10, torch.float32: 1e-5}


def pack(home: RecordStore, seq_len: int, one_each: bool, reverse: bool) -> RowSet:
    """Ten short documents, whole, as rows: one a row, or as many as fit, in either order."""
    tokens = tiny_tokens(VOCAB_SIZE, tiny_texts(40))
    texts = [text[:90] for text in tiny_texts(10)]
    with home.write(RecordKey("prepare", {"how": [seq_len, one_each, reverse]})) as writer:
        rows = RowWriter(writer.path, "rows/train", seq_len, VOCAB_SIZE, 2, None)
        used = 0
        for text in reversed(texts) if reverse else texts:
            ids, mask = encode(tokens, text)
            mask[::5] = False  # some context that is not trained
            used = len(ids) if one_each else used + len(ids)
            if one_each or used > seq_len + 1:
                rows.end_row()
                used = len(ids)
            rows.add(ids, mask)
        rows.close()
        RowsIndex(
            seq_len=seq_len,
            vocab_size=VOCAB_SIZE,
            num_rows=rows.num_rows,
            dtype="<u2",
            shards=tuple(rows.shards),
            trained_tokens=rows.trained_tokens,
        ).save(writer.path)
    record = home.newest("prepare")
    assert record is not None
    return RowSet.open(record)


def trainer(dtype: torch.dtype, precision: str = "fp32", lanes: int = 1) -> Trainer:
    torch.manual_seed(0)
    model = Transformer(tiny_shape(max_seq_len=512))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.15).add_(1.0 if parameter.ndim == 1 else 0.0)
    return Trainer(model.to(dtype), config(precision=precision, lanes=lanes, threads=lanes))


def all_rows(rows: RowSet, micro_batch_rows: int) -> Batch:
    numbers = np.arange(rows.num_rows)
    return make_batch(rows, numbers, micro_batch_rows, torch.device("cpu"))


def loss_and_gradient(who: Trainer, batch: Batch) -> tuple[float, torch.Tensor]:
    loss = who.gradients(batch, batch.trained_tokens)
    return loss, torch.cat([p.grad.flatten().double() for p in who.parameters])  # type: ignore[union-attr]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_loss_and_gradient_are_invariant(dtype: torch.dtype, isolated_home: object) -> None:
    store = RecordStore(isolated_home, "tiny")  # type: ignore[arg-type]
    who = trainer(dtype)
    packings = [(80, True, False), (180, False, True), (512, False, False)]  # the last in blocks
    results = []
    for seq_len, one_each, reverse in packings:
        rows = pack(store, seq_len, one_each, reverse)
        for micro_batch_rows in (1, 2, 3, 100):
            results.append(loss_and_gradient(who, all_rows(rows, micro_batch_rows)))
    losses = [loss for loss, _ in results]
    reference = results[0][1]
    assert len(results) == 12
    assert max(losses) - min(losses) < LIMITS[dtype] * losses[0]
    for _, gradient in results[1:]:
        assert (gradient - reference).norm() < 10 * LIMITS[dtype] * reference.norm()


@pytest.mark.parametrize("lanes", [2, 3, 40])  # 40: more than micro-batches and parameters
def test_lanes_change_nothing_but_rounding(lanes: int, isolated_home: object) -> None:
    """Against one lane; and again with the same bits, however the threads are scheduled."""
    rows = pack(RecordStore(isolated_home, "tiny"), 120, False, False)  # type: ignore[arg-type]
    batch = all_rows(rows, 1)
    assert 3 < len(batch.micro_batches) < 16
    one, several = trainer(torch.float64), trainer(torch.float64, lanes=lanes)
    loss, gradient = loss_and_gradient(one, batch)
    found = [loss_and_gradient(several, batch) for _ in range(4)]
    assert found[0][0] == pytest.approx(loss, rel=1e-12)
    assert (found[0][1] - gradient).norm() < 1e-10 * gradient.norm()
    assert all(again == found[0][0] for again, _ in found)
    assert all(torch.equal(again, found[0][1]) for _, again in found)
    assert several.heldout_loss([batch]) == pytest.approx(one.heldout_loss([batch]), rel=1e-12)
    assert several.clip() == pytest.approx(float(gradient.norm()), rel=1e-10)


def test_plain_rows_come_first(isolated_home: object) -> None:
    store = RecordStore(isolated_home, "tiny")  # type: ignore[arg-type]
    rows = pack(store, 120, False, False)
    batch = all_rows(rows, 100)
    (micro,) = batch.micro_batches
    crossing = rows.read(np.arange(rows.num_rows)).segment_starts[:, 1:-1].any(axis=1)
    lengths = micro.segments.lengths
    assert lengths is not None
    plain = [len(row) == 1 for row in lengths]
    assert plain == sorted(plain, reverse=True)
    assert sum(plain) == (~crossing).sum() < rows.num_rows
    assert batch.trained_tokens == rows.index.trained_tokens
    assert sorted(batch.row_numbers) == list(range(rows.num_rows))


def test_bf16_autocast_is_near_float32(isolated_home: object) -> None:
    store = RecordStore(isolated_home, "tiny")  # type: ignore[arg-type]
    rows = pack(store, 120, False, False)
    exact = loss_and_gradient(trainer(torch.float32), all_rows(rows, 4))
    near = loss_and_gradient(trainer(torch.float32, "bf16"), all_rows(rows, 4))
    assert near[0] == pytest.approx(exact[0], rel=5e-3)
    cosine = torch.nn.functional.cosine_similarity(near[1], exact[1], dim=0)
    assert cosine > 0.99
