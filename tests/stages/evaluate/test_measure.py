"""Measures: windows by brute force, bits by hand, answers by scripted engines, refusals."""

from __future__ import annotations

from math import log, log2

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.stages.evaluate.fakes import ScoringEngine, tiny_tokens
from whorl.codecs.contract import Tokens
from whorl.codecs.image import fit_image_codec
from whorl.codecs.label import LabelCodec
from whorl.core.errors import DataError, RecordError, SpecError
from whorl.core.heldout import HeldoutDocuments
from whorl.core.ports import Document, Part, QualityMeasure
from whorl.core.tasks import ChoiceTask, LikelihoodTask
from whorl.stages.evaluate.measure import ask, measure, select_documents, windows_of
from whorl.testing.fakes import RecordingProgress


def heldout(documents: list[list[int]], masks: list[list[bool]], num_bytes: list[int]):
    return HeldoutDocuments(
        tuple(f"d{number}" for number in range(len(documents))),
        ("text",) * len(documents),
        np.cumsum([0, *(len(ids) for ids in documents)]),
        np.array([i for ids in documents for i in ids], np.int32),
        np.array([m for mask in masks for m in mask], np.bool_),
        np.array(num_bytes, np.int64),
    )


def texts(lengths: list[int]) -> HeldoutDocuments:
    """Documents of 0 1 2 3 …: an id is its own place. All but the first are targets."""
    documents = [list(range(length)) for length in lengths]
    masks = [[False] + [True] * (length - 1) for length in lengths]
    return heldout(documents, masks, [3 * length for length in lengths])


@given(st.integers(1, 300), st.integers(2, 64))
def test_windows_count_each_id_once_with_enough_context(num_ids: int, window: int) -> None:
    counted = []
    for part in windows_of(num_ids, window):
        assert 0 <= part.start < part.first < part.end <= num_ids
        assert part.end - part.start <= window
        counted += range(part.first, part.end)
        for place in range(part.first, part.end):
            assert place - part.start >= min(place, window - window // 2 - (window == 3))
    assert counted == list(range(1, num_ids))


def test_a_window_of_one_id_is_refused() -> None:
    with pytest.raises(SpecError, match="window"):
        list(windows_of(5, 1))


def run(engine: ScoringEngine, tokens: Tokens, documents: HeldoutDocuments, window: int = 16):
    numbers = list(range(len(documents)))
    return measure(engine, tokens, ask(LikelihoodTask(), tokens, documents, numbers), window=window)


def test_bits_are_those_of_the_counted_ids() -> None:
    """The engine charges id i exactly i nats, whatever window it comes in."""
    tokens = tiny_tokens()
    engine = ScoringEngine(tokens.contract.digest, lambda ids: -np.array(ids[1:], float))
    documents = texts([5, 16, 17, 40, 200])
    found = run(engine, tokens, documents)
    for number, length in enumerate([5, 16, 17, 40, 200]):
        assert found.numerator[number] == pytest.approx(sum(range(length)) / log(2))
        assert found.denominator[number] == 3 * length
    assert max(len(sequence) for sequence in engine.sequences) == 16
    assert found.document_names == documents.names
    engine.close()


def test_only_masked_ids_are_counted() -> None:
    tokens = tiny_tokens()
    engine = ScoringEngine(tokens.contract.digest, lambda ids: np.full(len(ids) - 1, -log(2)))
    documents = heldout([[0, 5, 6, 7, 1]], [[False, False, True, False, True]], [10])
    assert run(engine, tokens, documents).numerator.tolist() == [pytest.approx(2.0)]
    engine.close()


def test_context_is_at_least_half_a_window() -> None:
    """The engine charges one bit where it sees fewer than 8 ids before, else none."""
    tokens = tiny_tokens()

    def by_context(ids: list[int]) -> np.ndarray:
        return np.where(np.arange(1, len(ids)) < 8, -log(2), 0.0)

    engine = ScoringEngine(tokens.contract.digest, by_context)
    found = run(engine, tokens, texts([100, 6]))
    assert found.numerator == pytest.approx([7.0, 5.0])  # only the beginnings of the documents
    engine.close()


def test_the_uniform_model_costs_log2_of_the_vocabulary() -> None:
    tokens = tiny_tokens()
    engine = ScoringEngine(tokens.contract.digest, lambda ids: np.full(len(ids) - 1, -log(300)))
    found = run(engine, tokens, texts([50, 30]))
    assert found.value == pytest.approx(log2(300) * 78 / (3 * 80))
    engine.close()


def question_tokens() -> tuple[Tokens, HeldoutDocuments]:
    """Three pictures with the answers cat, dog, cat."""
    pictures = [np.full((2, 2), value, np.uint8) for value in (0, 8, 16)]
    codecs = {
        "image": fit_image_codec(pictures, 3, 2),
        "label": LabelCodec(["cat", "dog", "fox"]),
    }
    tokens = Tokens.build(codecs, 64)
    encoded = [
        tokens.encode_document(
            Document(
                "d",
                (
                    Part("image", picture, False),
                    Part("special", "<|answer|>", False),
                    Part("label", answer),
                ),
            )
        )
        for picture, answer in zip(pictures, ("cat", "dog", "cat"), strict=True)
    ]
    return tokens, heldout([ids for ids, _ in encoded], [mask for _, mask in encoded], [0] * 3)


def answer(engine: ScoringEngine, tokens: Tokens, documents: HeldoutDocuments) -> QualityMeasure:
    numbers = list(range(len(documents)))
    return measure(engine, tokens, ask(ChoiceTask(), tokens, documents, numbers), window=16)


def test_the_answer_is_the_most_probable_label_after_the_question() -> None:
    tokens, documents = question_tokens()
    image, label = (
        next(e for e in tokens.contract.codecs if e.name == name) for name in ("image", "label")
    )
    preferred = {image.id_start: 0, image.id_start + 1: 1, image.id_start + 2: 2}

    def knows_two_of_three(ids: list[int]) -> np.ndarray:
        scores = np.full(len(ids) - 1, -9.0)
        scores[-1] = -1.0 if ids[-1] == label.id_start + preferred[ids[1]] else -5.0
        return scores

    engine = ScoringEngine(tokens.contract.digest, knows_two_of_three)
    found = answer(engine, tokens, documents)
    assert found.numerator.tolist() == [1.0, 1.0, 0.0] and found.denominator.tolist() == [1.0] * 3
    assert found.value == pytest.approx(2 / 3)
    asked = {tuple(sequence[:-1]) for sequence in engine.sequences}
    assert len(engine.sequences) == 9 and len(asked) == 3
    for sequence in asked:  # <|bos|> picture <|answer|>, and never the answer
        assert (
            sequence[0] == tokens.contract.start_ids[0] and sequence[-1] == 8 and len(sequence) == 3
        )
    engine.close()


def test_documents_without_answer_are_refused() -> None:
    tokens, _ = question_tokens()
    engine = ScoringEngine(tokens.contract.digest, lambda ids: np.zeros(len(ids) - 1))
    none = heldout([[0, 16, 1]], [[False, False, True]], [0])
    with pytest.raises(DataError, match="no answer"):
        answer(engine, tokens, none)
    engine.close()


def test_a_question_needs_an_id_before_its_candidates() -> None:
    """Without one an engine scores from the second id on: nothing of candidates of one id."""
    tokens, documents = question_tokens()  # three ids before the answer
    asked = ask(ChoiceTask(), tokens, documents, [0, 1, 2])
    engine = ScoringEngine(tokens.contract.digest, lambda ids: np.zeros(len(ids) - 1))
    assert [asked.num_cut(window) for window in (4, 3, 1)] == [0, 3, 3]
    measure(engine, tokens, asked, window=2)
    assert {len(sequence) for sequence in engine.sequences} == {2}
    with pytest.raises(DataError, match=r"window of 1.*raise evaluate\.window"):
        measure(engine, tokens, asked, window=1)
    label = next(entry for entry in tokens.contract.codecs if entry.name == "label")
    first = heldout([[label.id_start, 1]], [[True, False]], [0])
    with pytest.raises(DataError, match="start ids"):
        answer(engine, tokens, first)
    engine.close()


def test_other_tokens_no_text_and_broken_scores_are_refused() -> None:
    tokens = tiny_tokens()
    other = ScoringEngine("0" * 64, lambda ids: np.zeros(len(ids) - 1))
    with pytest.raises(RecordError, match="other tokens"):
        run(other, tokens, texts([5]))
    broken = ScoringEngine(tokens.contract.digest, lambda ids: np.full(len(ids) - 1, np.nan))
    with pytest.raises(DataError, match="not finite"):
        run(broken, tokens, texts([5]))
    fine = ScoringEngine(tokens.contract.digest, lambda ids: np.zeros(len(ids) - 1))
    with pytest.raises(DataError, match="needs text"):
        run(fine, tokens, heldout([[0, 5]], [[False, True]], [0]))
    for engine in (other, broken, fine):
        engine.close()


def test_progress_counts_documents() -> None:
    tokens = tiny_tokens()
    engine = ScoringEngine(tokens.contract.digest, lambda ids: np.zeros(len(ids) - 1))
    progress = RecordingProgress()
    asked = ask(LikelihoodTask(), tokens, texts([5, 100, 3]), [0, 1, 2])
    measure(engine, tokens, asked, window=8, progress=progress)
    assert progress.amount == pytest.approx(3) and progress.notes == [""]
    engine.close()


@given(st.lists(st.integers(2, 60), min_size=1, max_size=30), st.integers(1, 400))
def test_selection_is_whole_documents_within_the_bytes(lengths: list[int], limit: int) -> None:
    documents = texts(lengths)
    chosen = select_documents(documents, limit)
    assert len(set(chosen)) == len(chosen) >= 1
    total = sum(documents.num_bytes(number) for number in chosen)
    assert total <= limit or len(chosen) == 1
    left = set(range(len(lengths))) - set(chosen)
    assert all(total + documents.num_bytes(number) > limit for number in left)
    assert len(select_documents(documents, 10**9, 3)) == min(3, len(lengths))


def test_selection_does_not_depend_on_the_order_of_documents() -> None:
    lengths = [5, 9, 12, 20, 31, 44]
    forward, backward = texts(lengths), texts(lengths[::-1])
    chosen = {lengths[number] for number in select_documents(forward, 150)}
    assert chosen == {lengths[::-1][number] for number in select_documents(backward, 150)}


def test_no_heldout_documents_is_an_error() -> None:
    with pytest.raises(DataError, match="held-out"):
        select_documents(heldout([], [], []), 100)
