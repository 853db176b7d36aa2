"""Guesses measured in a process of their own, on questions of held-out documents."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.stages.evaluate.fakes import prepared_corpus
from whorl.codecs.contract import Tokens
from whorl.core.heldout import HeldoutDocuments
from whorl.core.ports import HeldoutDocument
from whorl.core.variants import Variant
from whorl.engines.openvino_export import export_openvino
from whorl.model.folder import TOKENS
from whorl.testing.models import tiny_model_folder
from whorl.wiring.guesses import GUESSES, _beginning, heldout_questions, measure_guesses


def test_questions_are_beginnings_of_held_out_documents(tmp_path: Path) -> None:
    prepared = prepared_corpus(tmp_path / "home", tmp_path / "data")
    documents = HeldoutDocuments.open(prepared)
    asked = heldout_questions(prepared, ("text",), 64)
    assert len(asked) == min(16, len(documents))
    whole = [documents.document(number).ids.tolist() for number in range(len(documents))]
    for ids in asked:
        assert 1 <= len(ids) <= 16  # 48 ids of 64 are left for the answer
        assert any(document[: len(ids)] == list(ids) for document in whole)


def test_an_answer_is_not_part_of_its_question() -> None:
    ids = np.arange(20)
    asked = HeldoutDocument("asked", ids, ids >= 12, 0)
    assert _beginning(asked, 100) == [*range(12)]
    assert _beginning(asked, 5) == [7, 8, 9, 10, 11]
    text = HeldoutDocument("text", ids, ids >= 1, 0)
    assert _beginning(text, 100) == [*range(10)] and _beginning(text, 4) == [0, 1, 2, 3]


def test_figures_are_of_both_and_answers_are_the_same(tmp_path: Path) -> None:
    pytest.importorskip("openvino_genai")
    tiny_model_folder(tmp_path / "hf")
    export_openvino(tmp_path / "hf", tmp_path / "f32")
    tokens = Tokens.load(tmp_path / "hf" / TOKENS)
    ids = tokens.encode_prompt("the cat sat on the mat. the cat sat on the mat. the cat")
    found = measure_guesses(tmp_path / "f32", Variant("openvino", "f32"), [ids], ())
    assert [each.guesses for each in found] == list(GUESSES)
    for each in found:
        assert 1 <= each.ids_per_step <= each.guesses + 1 and each.alone > 0
        assert (each.together is not None) == (each.alone > 1)
        assert each.num_answers == each.num_same == (1 if each.together is None else 17)
    assert max(each.ids_per_step for each in found) > 1.2  # what it says stood there already
