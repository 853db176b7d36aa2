"""Answers that are written: which turn is asked for, what of a question is cut, what is graded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.stages.evaluate.fakes import tiny_tokens
from whorl.core.errors import EngineError, SpecError
from whorl.core.metrics import ACCURACY
from whorl.core.ports import GenerateRequest, HeldoutDocument
from whorl.core.tasks import WritingTask
from whorl.core.variants import Variant
from whorl.engines.kept import open_keeping
from whorl.engines.open import EngineFactory, Openable
from whorl.engines.setup import EngineSetup
from whorl.model.folder import FolderCard
from whorl.stages.evaluate.measure import Asked, measure
from whorl.testing.engine import FakeEngine
from whorl.testing.fakes import RecordingProgress
from whorl.testing.models import tiny_shape

TURNS = [  # (text, whether it is trained)
    [("How many stones? ", False), ("Three.", True)],
    [("Red? ", False), ("No.", True), ("Then green? ", False), ("Yes.", True)],
]
ANSWERS = ["Three.", "Never."]
TASK = WritingTask(
    lambda answer, right: {ACCURACY: (float(answer == right), 1.0)}, name="said", max_tokens=20
)


@pytest.fixture(scope="module")
def asked() -> Asked:
    documents = []
    for number, turns in enumerate(TURNS):
        parts = [(tiny_tokens().encode_prompt(text), is_trained) for text, is_trained in turns]
        ids = [i for part, _ in parts for i in part]
        mask = [is_trained for part, is_trained in parts for _ in part]
        ends = tiny_tokens().contract.end_ids
        ids, mask = [*ids, *ends], [*mask, *(True for _ in ends)]  # as in prepared documents
        documents.append(HeldoutDocument(f"d{number}", np.array(ids), np.array(mask), 40))
    return Asked(TASK, tuple(documents), (None,) * len(documents))


def question_of(asked: Asked, number: int) -> Sequence[int]:
    """All ids before the last answer, by the lengths of the turns."""
    last = len(tiny_tokens().encode_prompt(TURNS[number][-1][0]))
    last += len(tiny_tokens().contract.end_ids)
    return asked.documents[number].ids[:-last].tolist()


def test_the_last_turn_is_asked_for_and_what_does_not_fit_is_counted(asked: Asked) -> None:
    tokens = tiny_tokens()
    questions = [question_of(asked, number) for number in range(2)]
    assert len(questions[0]) < len(questions[1])

    def reply(request: GenerateRequest) -> Sequence[int]:
        number = int(request.request_id.rpartition("-")[2])
        return [*tokens.encode_prompt(ANSWERS[number])[1:], tokens.contract.stop_ids[0]]

    for room, num_cut in ((len(questions[1]), 0), (len(questions[0]), 1), (2, 2)):
        engine = FakeEngine(tokens.contract.digest, reply)
        found = measure(engine, tokens, asked, window=room + TASK.max_tokens)
        engine.close()
        prompts = [request.prompt_ids for request in engine.submitted]
        assert prompts == [tuple(question[-room:]) for question in questions]
        assert asked.num_cut(room + TASK.max_tokens) == num_cut
        assert found.numerator.tolist() == [1.0, 0.0] and found.document_names == ("d0", "d1")


def test_an_answer_that_fails_ends_the_measurement(asked: Asked) -> None:
    tokens = tiny_tokens()
    engine = FakeEngine(tokens.contract.digest, step_s=0.001)
    engine.fail("no memory")
    with pytest.raises(EngineError, match="no memory"):
        measure(engine, tokens, asked, window=512)
    engine.close()


def test_a_window_without_room_for_a_question_is_refused(asked: Asked) -> None:
    tokens = tiny_tokens()
    engine = FakeEngine(tokens.contract.digest)
    with pytest.raises(SpecError, match="a window of 20 for question and answer"):
        measure(engine, tokens, asked, window=TASK.max_tokens)
    engine.close()


def test_right_answers_that_nobody_may_write_are_counted(asked: Asked) -> None:
    """An engine that writes as many ids as it may and no end is right, or is not."""
    tokens = tiny_tokens()
    answers = [tokens.encode_prompt(turns[-1][0]) for turns in TURNS]
    lengths = [len(ids) for ids in answers]
    assert lengths[0] != lengths[1]

    def reply(request: GenerateRequest) -> Sequence[int]:
        return answers[int(request.request_id.rpartition("-")[2])]

    for most, count in ((max(lengths), 0), (min(lengths), 1), (min(lengths) - 1, 2)):
        some = replace(asked, task=replace(TASK, max_tokens=most))
        told = some.too_long(tokens.contract.stop_ids)
        assert told.startswith(f"{count} of 2 right") if count else not told, told
        engine = FakeEngine(tokens.contract.digest, reply)
        found = measure(engine, tokens, some, window=512)
        engine.close()
        assert found.numerator.tolist().count(0.0) == count


def test_only_what_is_new_is_asked_and_shown(asked: Asked, tmp_path: Path) -> None:
    """Compress asks the first of the questions, evaluate all: scores are as if it had asked all."""
    tokens = tiny_tokens()
    card = FolderCard(Variant("hf", "f32"), tokens.contract.digest, tiny_shape(), {})
    said = {tuple(question_of(asked, number)): ANSWERS[number] for number in range(2)}
    first = replace(asked, documents=asked.documents[:1], questions=(None,))
    shown: list[list[object]] = []

    def reply(request: GenerateRequest) -> Sequence[int]:
        answer = tokens.encode_prompt(said[request.prompt_ids])[1:]
        return [*answer, tokens.contract.stop_ids[0]]

    one, other = said
    for what, expected, new in ((first, [1], [one]), (asked, [1, 0], [other]), (asked, [1, 0], [])):
        fake = FakeEngine(tokens.contract.digest, reply)
        opened = [fake]  # what is left is not opened
        factory = EngineFactory(
            "torch", lambda variant: True, lambda *work, left=opened: left.pop()
        )
        engine = open_keeping(Openable(factory, tmp_path, card), EngineSetup(), tmp_path, print)
        progress = RecordingProgress()
        found = measure(engine, tokens, what, window=512, progress=progress)
        assert found.numerator.tolist() == expected
        assert [request.prompt_ids for request in fake.submitted] == new
        assert opened == ([] if new else [fake])
        shown.append([*progress.labels, progress.amount])
        engine.close()
        fake.close()
    assert shown == [
        ["answers of torch", 1.0],
        ["answers of torch, 1 of 2 known from before", 1.0],
        ["answers of torch, 2 of 2 known from before", 0.0],
    ]
