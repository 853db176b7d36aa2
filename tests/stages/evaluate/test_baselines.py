"""Baselines' material: rows joined to documents again, the rows a run saw, exact texts back."""

from __future__ import annotations

import numpy as np
import pytest

from tests.stages.evaluate.fakes import prepared_corpus
from whorl.codecs.contract import OWN_RULES, Tokens
from whorl.codecs.image import fit_image_codec
from whorl.codecs.label import LabelCodec
from whorl.core.heldout import HeldoutDocuments
from whorl.core.ports import Document, Part
from whorl.core.records import Record
from whorl.core.rows import RowSet
from whorl.core.tasks import LikelihoodTask
from whorl.stages.evaluate.baselines import (
    TokenDocuments,
    TokenStream,
    decoded,
    document_of,
    ngram_nats,
    read_stream,
    rows_seen,
)
from whorl.stages.evaluate.measure import ask
from whorl.stages.evaluate.ngram import KneserNey
from whorl.testing.corpus import tiny_texts, tiny_tokens


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Record:
    folder = tmp_path_factory.mktemp("prepared")
    return prepared_corpus(folder / "home", folder / "data")


@pytest.fixture(scope="module")
def tokens(prepared: Record) -> Tokens:
    return Tokens.load(prepared.folder("tokens"))


def test_rows_become_the_documents_they_were_made_of(prepared: Record, tokens: Tokens) -> None:
    stream = read_stream(RowSet.open(prepared), tokens)
    documents = TokenDocuments(stream, tokens)
    held = HeldoutDocuments.open(prepared)
    everything = [held.document(number) for number in range(len(held))]
    held_texts = {document.text for document in decoded(everything, tokens)}
    train_texts = [document.text for document in documents]
    assert len(documents) == len(set(train_texts))
    assert set(train_texts) | held_texts == set(tiny_texts(120))
    assert not set(train_texts) & held_texts
    again = [tokens.encode_document(document)[0] for document in documents]
    assert [i for ids in again for i in ids] == stream.ids.tolist()
    assert documents[-1].text == train_texts[-1] and documents[2:4][1].text == train_texts[3]
    with pytest.raises(IndexError):
        documents[len(documents)]


def test_some_rows_are_pieces_and_lose_no_id(prepared: Record, tokens: Tokens) -> None:
    rows = RowSet.open(prepared)
    numbers = np.array([0, 1, 4, 7, 8, rows.num_rows - 1])
    stream = read_stream(rows, tokens, numbers)
    assert stream.starts[0]
    batch = rows.read(numbers)
    trained = batch.ids[batch.loss_mask]
    assert stream.ids[~stream.starts].tolist() == trained.tolist()
    every = np.arange(rows.num_rows)
    whole, same = read_stream(rows, tokens), read_stream(rows, tokens, every)
    assert whole.ids.tolist() == same.ids.tolist()


def test_too_many_tokens_are_evenly_spaced_rows(prepared: Record, tokens: Tokens) -> None:
    rows = RowSet.open(prepared)
    stream = read_stream(rows, tokens, max_tokens=rows.seq_len * 10)
    assert len(stream.ids) <= 10 * (rows.seq_len + 1)


def test_rows_seen_are_those_of_the_batches(prepared: Record) -> None:
    rows = RowSet.open(prepared)
    for steps in (1, 5, 10_000):
        batches = [rows.rows_of_step(step, 4, 7) for step in range(min(steps, rows.num_rows))]
        expected = sorted({int(number) for batch in batches for number in batch})
        assert rows_seen(rows, steps, 4, 7).tolist() == expected
    assert len(rows_seen(rows, 10_000, 4, 7)) == rows.num_rows


def test_ngram_measure_counts_the_masked_ids(prepared: Record, tokens: Tokens) -> None:
    stream = read_stream(RowSet.open(prepared), tokens)
    held = HeldoutDocuments.open(prepared)
    numbers = [3, 0, 5]
    asked = ask(LikelihoodTask(), tokens, held, numbers)
    found = asked.judged(ngram_nats(stream, tokens, asked.documents))
    num_targets = 1 + tokens.codecs["text"].num_ids
    model = KneserNey.fit(stream.ids, stream.starts, tokens.contract.vocab_size, num_targets)
    for place, number in enumerate(numbers):
        ids = held.ids(number).astype(np.int64)
        starts = np.zeros(len(ids), np.bool_)
        starts[0] = True
        by_itself = model.bits(ids, starts)[held.mask(number)].sum()
        assert found.numerator[place] == pytest.approx(by_itself)
        assert found.denominator[place] == held.num_bytes(number)
        assert found.document_names[place] == held.names[number]
    assert 0.2 < found.value < 3.0  # far below the 8 bits of a byte: the grammar is simple


def test_documents_of_several_codecs_come_back() -> None:
    pictures = [np.full((4, 4), value, np.uint8) for value in (0, 9)]
    codecs = {"image": fit_image_codec(pictures, 2, 2), "label": LabelCodec(["cat", "dog"])}
    tokens = Tokens.build(codecs, 64)
    parts = (
        Part("image", pictures[1]),
        Part("special", "<|answer|>"),
        Part("label", "dog"),
    )
    ids, _ = tokens.encode_document(Document("d", parts))
    found = document_of("d", np.array([*ids[:-1], 63, ids[-1], 2]), tokens)
    assert [part.codec for part in found.parts] == ["image", "special", "label", "special"]
    assert (found.parts[0].value == pictures[1]).all()
    assert [part.value for part in found.parts[1:]] == ["<|answer|>", "dog", "<|unused_63|>"]
    assert document_of("empty", np.array([0, 1]), tokens).parts == ()


def test_ids_that_start_end_or_pad_are_kept_inside_of_a_text() -> None:
    """Padding may be an ordinary id, and turns of a chat end as documents do."""
    own = tiny_tokens(512)
    text = "a shell grows"
    ids = own.encode_parts([Part("text", text)])
    rules = OWN_RULES.model_copy(update={"pad_id": ids[-1], "end_ids": ()})
    tokens = Tokens.build(own.codecs, 512, rules)
    whole, _ = tokens.encode_document(Document("d", (Part("text", text),)))
    assert document_of("d", np.array(whole), tokens).text == text
    inside = document_of("d", np.array([0, *ids, 1, 0, *ids, 1, 2]), own)
    assert [part.value for part in inside.parts] == [text, "<|eos|>", "<|bos|>", text]


def test_a_piece_that_begins_inside_an_image_is_an_empty_document() -> None:
    images = np.random.default_rng(0).integers(0, 256, (20, 4, 4)).astype(np.float32)
    codec = fit_image_codec(images, 4 * 4, 2, by_place=True, white=255.0)
    tokens = Tokens.build({"image": codec}, 40)
    whole = np.array(tokens.encode_parts([Part("image", images[0])]))
    ids = np.concatenate([whole, whole[2:]])
    stream = TokenStream(ids, np.arange(len(ids)) % len(whole) == 0)
    first, piece = TokenDocuments(stream, tokens)
    assert [part.codec for part in first.parts] == ["image"] and piece.parts == ()
    assert tokens.decode(whole[-1:].tolist()).startswith("<|image_")
