"""Rows: every trained token is a target exactly once, and what is written is read."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from whorl.core.errors import DataError, RecordError
from whorl.core.heldout import HeldoutDocuments, write_heldout
from whorl.core.records import FileEntry, Record, RecordKey, RecordStore
from whorl.core.rows import (
    RowBatch,
    RowSet,
    RowsIndex,
    RowWriter,
    ShardEntry,
    SourceRows,
    row_dtype,
)

TRIALS = int(float(os.environ.get("WHORL_TRIALS", "1")) * 25)
PAD = 2
Documents = list[tuple[list[int], list[bool]]]


def numbered(lengths: list[int], masks: list[list[bool]] | None = None) -> Documents:
    """Documents whose ids are all distinct, so that each id tells where it came from."""
    documents, next_id = [], 16
    for place, length in enumerate(lengths):
        mask = masks[place] if masks else [True] * length
        documents.append(
            (list(range(next_id, next_id + length)), [False, *mask[1:length]][:length])
        )
        next_id += length
    return documents


def write_record(
    folder: Path,
    documents: Documents,
    seq_len: int,
    rows_per_shard: int = 5,
    breaks: frozenset[int] = frozenset(),
    vocab_size: int = 100_000,
) -> Record:
    """A record as it lies on disk, without the store's fsyncs."""
    rows = RowWriter(folder, "rows/train", seq_len, vocab_size, PAD, rows_per_shard)
    firsts, tokens = [0], [0]
    for number, (ids, mask) in enumerate(documents):
        if number in breaks:
            rows.end_row()
            firsts.append(rows.num_rows)
            tokens.append(rows.trained_tokens)
        rows.add(np.array(ids), np.array(mask))
    rows.close()
    firsts.append(rows.num_rows)
    sources = tuple(
        SourceRows(
            field="text", first_row=a, num_rows=b - a, trained_tokens=1, share=(1 + number) / 3
        )
        if breaks
        else SourceRows(field="text", first_row=a, num_rows=b - a, trained_tokens=1)
        for number, (a, b) in enumerate(pairwise(firsts))
    )
    RowsIndex(
        seq_len=seq_len,
        vocab_size=vocab_size,
        num_rows=rows.num_rows,
        dtype="<u4",
        shards=tuple(rows.shards),
        trained_tokens=rows.trained_tokens,
        sources=sources,
    ).save(folder)
    names = [*(shard.file for shard in rows.shards), "rows.json"]
    files = {name: FileEntry.of(folder / name) for name in names}
    return Record(folder, "prepare", "0" * 32, {}, {}, files, {})


def all_rows(rows: RowSet) -> RowBatch:
    return rows.read(np.arange(rows.num_rows))


documents_strategy = st.lists(
    st.integers(1, 40).flatmap(
        lambda n: st.tuples(st.just(n), st.lists(st.booleans(), min_size=n, max_size=n))
    ),
    min_size=1,
    max_size=30,
)


@settings(max_examples=TRIALS)
@given(documents_strategy, st.integers(1, 17), st.sampled_from([1, 3, 1000]))
def test_every_trained_token_is_a_target_once(
    tmp_path_factory: pytest.TempPathFactory,
    shapes: list[tuple[int, list[bool]]],
    seq_len: int,
    rows_per_shard: int,
) -> None:
    """Conservation, with ids that tell their place: also the input of each target is right."""
    documents = numbered([n for n, _ in shapes], [mask for _, mask in shapes])
    record = write_record(tmp_path_factory.mktemp("r"), documents, seq_len, rows_per_shard)
    rows = RowSet.open(record)
    batch = all_rows(rows)
    previous = {ids[i]: ids[i - 1] for ids, _ in documents for i in range(1, len(ids))}
    trained = sorted(i for ids, mask in documents for i, m in zip(ids, mask, strict=True) if m)
    targets = batch.ids[batch.loss_mask]
    assert sorted(targets.tolist()) == trained
    assert rows.index.trained_tokens == len(trained)
    row, place = np.nonzero(batch.loss_mask)
    assert (place > 0).all() and not batch.segment_starts[row, place].any()
    inputs = batch.ids[row, place - 1]
    assert [previous[t] for t in targets.tolist()] == inputs.tolist()


@settings(max_examples=TRIALS)
@given(documents_strategy, st.integers(1, 17))
def test_segments_hold_one_document_each(
    tmp_path_factory: pytest.TempPathFactory, shapes: list[tuple[int, list[bool]]], seq_len: int
) -> None:
    """Between starts, ids follow each other within one document; the rest is padding."""
    documents = numbered([n for n, _ in shapes])
    owner = {i: number for number, (ids, _) in enumerate(documents) for i in ids}
    batch = all_rows(RowSet.open(write_record(tmp_path_factory.mktemp("r"), documents, seq_len)))
    assert batch.segment_starts[:, 0].all()
    for ids, starts in zip(batch.ids.tolist(), batch.segment_starts.tolist(), strict=True):
        for at in range(1, len(ids)):
            if starts[at]:
                continue
            same_pad = ids[at] == ids[at - 1] == PAD
            follows = ids[at] == ids[at - 1] + 1 and owner[ids[at]] == owner[ids[at - 1]]
            assert same_pad or follows
    assert not (batch.loss_mask & (batch.ids == PAD)).any()
    assert (batch.ids[:-1] != PAD).all()


def test_a_cut_document_repeats_its_last_id(tmp_path: Path) -> None:
    """Worked by hand: seq_len 3, documents of 6 and 2 ids."""
    rows = RowSet.open(write_record(tmp_path, numbered([6, 2]), seq_len=3))
    batch = all_rows(rows)
    assert batch.ids.tolist() == [[16, 17, 18, 19], [19, 20, 21, 22], [22, 23, PAD, PAD]]
    assert batch.loss_mask.astype(int).tolist() == [[0, 1, 1, 1], [0, 1, 1, 0], [0, 1, 0, 0]]
    starts = batch.segment_starts.astype(int).tolist()
    assert starts == [[1, 0, 0, 0], [1, 0, 0, 1], [1, 0, 1, 0]]
    assert rows.index.trained_tokens == 6


def test_rows_of_which_nothing_is_trained_are_left_out(tmp_path: Path) -> None:
    """Worked by hand: seq_len 3; a prompt of 10 ids fills three rows and begins a fourth."""
    masks = [[False] * 10 + [True], [False] * 2, [False, True]]
    record = write_record(tmp_path, numbered([11, 2, 2], masks), seq_len=3, breaks=frozenset({1}))
    rows = RowSet.open(record)
    batch = all_rows(rows)
    assert batch.ids.tolist() == [[25, 26, PAD, PAD], [27, 28, 29, 30]]
    assert batch.loss_mask.astype(int).tolist() == [[0, 1, 0, 0], [0, 0, 0, 1]]
    writer = RowWriter(tmp_path / "none", "rows", 3, 100, PAD, None)
    writer.add(np.arange(9), np.zeros(9, np.bool_))
    writer.close()
    assert (writer.num_rows, writer.untrained_rows, writer.shards[0].num_rows) == (0, 3, 0)


@settings(max_examples=TRIALS)
@given(documents_strategy, st.integers(1, 17))
def test_padding_is_known_even_if_its_id_ends_documents(
    tmp_path_factory: pytest.TempPathFactory, shapes: list[tuple[int, list[bool]]], seq_len: int
) -> None:
    """Trained documents that end with the padding's id: what is no padding is conserved."""
    documents = [
        ([*ids, PAD], [False, *[True] * len(ids)]) for ids, _ in numbered([n for n, _ in shapes])
    ]
    batch = all_rows(RowSet.open(write_record(tmp_path_factory.mktemp("r"), documents, seq_len)))
    padding = batch.is_padding(PAD)
    is_end = (batch.ids == PAD) & batch.loss_mask
    assert int(is_end.sum()) == len(documents)
    assert (padding == ((batch.ids == PAD) & ~is_end)).all()


def test_shards_do_not_change_rows(tmp_path: Path) -> None:
    documents = numbered([7] * 300)
    one, many = (
        RowSet.open(write_record(tmp_path / str(size), documents, 9, size)) for size in (10**6, 7)
    )
    assert len(one.shards) == 1 and len(many.shards) == -(-many.num_rows // 7)
    np.testing.assert_array_equal(all_rows(one).ids, all_rows(many).ids)
    picked = np.array([5, 0, many.num_rows - 1, 5, 8])
    np.testing.assert_array_equal(many.read(picked).ids, all_rows(many).ids[picked])
    assert many.read(np.array([], np.int64)).ids.shape == (0, 10)


@pytest.mark.parametrize(("vocab_size", "size"), [(65_536, 2), (65_537, 4)])
def test_ids_take_two_bytes_while_they_can(tmp_path: Path, vocab_size: int, size: int) -> None:
    assert row_dtype(7, vocab_size).itemsize == 8 * size + 2
    last = vocab_size - 1
    documents: Documents = [([0, last, 1], [False, True, True])]
    rows = RowSet.open(write_record(tmp_path, documents, 3, vocab_size=vocab_size))
    assert all_rows(rows).ids[0].tolist() == [0, last, 1, PAD]


def test_sources_begin_rows_and_are_mixed(tmp_path: Path) -> None:
    documents = numbered([4] * 60)
    rows = RowSet.open(write_record(tmp_path, documents, 9, breaks=frozenset({20})))
    first, second = rows.index.sources
    assert second.first_row == first.num_rows and first.num_rows < second.num_rows
    drawn = np.concatenate([rows.rows_of_step(step, 6, seed=0) for step in range(50)])
    trained = rows.read(drawn).loss_mask.sum(axis=1)
    share = trained[drawn < second.first_row].sum() / trained.sum()
    assert share == pytest.approx(1 / 3, abs=9 / trained.sum())  # to one row of nine
    assert set(drawn.tolist()) == set(range(rows.num_rows))


def test_row_numbers_out_of_range_are_refused(tmp_path: Path) -> None:
    rows = RowSet.open(write_record(tmp_path, numbered([5]), 3))
    for number in (-1, rows.num_rows):
        with pytest.raises(DataError, match="no such row"):
            rows.read(np.array([number]))


def test_a_flipped_bit_is_found(tmp_path: Path) -> None:
    record = write_record(tmp_path, numbered([50]), 9)
    for name in ("rows/train-00000.rows", "rows.json"):
        path = record.path / name
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 4
        path.write_bytes(bytes(data))
        with pytest.raises(RecordError, match=f"{name}.* damaged in chunk 0"):
            RowSet.open(record)
        data[len(data) // 2] ^= 4
        path.write_bytes(bytes(data))
    assert RowSet.open(record).num_rows > 0


def test_no_heldout_rows_is_said(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="no held-out rows"):
        RowSet.heldout(write_record(tmp_path, numbered([5]), 3))


def test_heldout_documents_round_trip(tmp_path: Path) -> None:
    key = RecordKey("prepare", {})
    ids = [np.array([0, 5, 70_000, 1]), np.array([0, 1])]
    masks = [np.array([False, True, False, True]), np.array([False, True])]
    with RecordStore(tmp_path, "test").write(key) as writer:
        write_heldout(writer.path, ["a/é.txt", "b@9"], ids, masks, [11, 0], ["text", "digits"])
        rows = RowWriter(writer.path, "heldout/heldout", 3, 70_001, PAD, None)
        for document in zip(ids, masks, strict=True):
            rows.add(*document)
        rows.close()
        assert rows.shards == [ShardEntry(file="heldout/heldout.rows", num_rows=2)]
        RowsIndex(
            seq_len=3,
            vocab_size=70_001,
            num_rows=0,
            dtype="<u4",
            shards=(),
            trained_tokens=0,
            heldout_rows=rows.shards[0],
        ).save(writer.path)
    record = RecordStore(tmp_path, "test").find(key)
    assert record is not None
    documents = HeldoutDocuments.open(record)
    assert documents.names == ("a/é.txt", "b@9") and len(documents) == 2
    for number in range(2):
        np.testing.assert_array_equal(documents.ids(number), ids[number])
        np.testing.assert_array_equal(documents.mask(number), masks[number])
    assert [documents.num_bytes(number) for number in range(2)] == [11, 0]
    assert documents.ids(0).dtype == np.int32
    of_digits = documents.of_field("digits")
    assert of_digits.names == ("b@9",) and of_digits.num_bytes(0) == 0
    np.testing.assert_array_equal(of_digits.ids(0), ids[1])
    np.testing.assert_array_equal(of_digits.mask(0), masks[1])
    assert len(documents.of_field("code")) == 0
    assert RowSet.heldout(record).read(np.array([0])).ids.tolist() == [[0, 5, 70_000, 1]]


def test_shuffled_is_the_order_of_a_hash_whatever_order_they_came_in() -> None:
    def opened(documents: list[list[int]]) -> HeldoutDocuments:
        sizes = [len(ids) for ids in documents]
        ids = np.array([i for document in documents for i in document], np.int32)
        ends = np.cumsum([0, *sizes])
        names = tuple(map(str, documents))
        return HeldoutDocuments(names, names, ends, ids, ids > 0, np.array(sizes))

    documents = [[0, number, 70_000 + number, 1] for number in range(20)]
    found = [opened(documents[::step]).shuffled() for step in (1, -1)]
    orders = [[opened(documents[::step]).names[n] for n in found[step < 0]] for step in (1, -1)]
    assert orders[0] == orders[1] and sorted(found[0]) == list(range(20)) != found[0]
    little_endian = [b"".join(i.to_bytes(4, "little") for i in ids) for ids in documents]
    by_hash = sorted(range(20), key=lambda number: blake3(little_endian[number]).digest())
    assert found[0] == by_hash
