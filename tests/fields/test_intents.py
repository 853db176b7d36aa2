"""Intents: sentences mean what hassil says, templates are held out whole, answers are graded."""

from __future__ import annotations

import importlib.util
import json
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.stages.evaluate.fakes import context_in
from tests.stages.prepare.support import prepare
from whorl.codecs.contract import Tokens
from whorl.core.digests import digest_bytes
from whorl.core.errors import DataError
from whorl.core.heldout import HeldoutDocuments
from whorl.core.metrics import ACCURACY, SLOT_F1
from whorl.core.ports import GenerateRequest, Source
from whorl.core.rows import RowSet
from whorl.core.tasks import WritingTask
from whorl.core.variants import Variant
from whorl.fields.chat import FIELD as CHAT_FIELD
from whorl.fields.intent_sentences import Templates, grammar_answers
from whorl.fields.intents import FIELD, graded
from whorl.spec.resolved import EvaluateConfig
from whorl.stages.evaluate.measure import measure
from whorl.stages.evaluate.of_field import FieldEvaluation
from whorl.stages.prepare.pool import is_sendable
from whorl.testing.engine import FakeEngine

SPEC = importlib.util.find_spec("home_assistant_intents")
FILE = Path(((SPEC and SPEC.submodule_search_locations) or ["."])[0], "data", "en.json")
DATA: dict[str, Any] = json.loads(FILE.read_bytes())


def test_hassil_understands_what_is_drawn() -> None:
    """It is told the sentences alone, and finds intents and slots by its own search."""
    examples = list(Templates(DATA).examples(3000, 2, seed=3))
    assert len({example.text for example in examples}) == len(examples) > 2000
    assert {example.intent for example in examples} == DATA["intents"].keys()
    some = random.Random(0).sample(examples, 150)
    found = grammar_answers(DATA, [example.text for example in some])
    wrong = [
        (example.text, example.answer, answer)
        for example, answer in zip(some, found, strict=True)
        if answer != {"intent": example.intent, "slots": dict(example.slots)}
    ]
    assert len(wrong) <= 3, wrong  # where two templates say the same of different things


@pytest.mark.parametrize("num_sentences", [100, 5000])
def test_what_is_held_out_stays_held_out(num_sentences: int) -> None:
    """The very sentences that were scored on 29 November 2026, however many are trained on."""
    examples = list(Templates(DATA).examples(num_sentences, 2, seed=0))
    held = [example.text for example in examples if example.is_heldout]
    assert len(held) == 355 and not {*held} & {e.text for e in examples if not e.is_heldout}
    assert digest_bytes("\n".join(held).encode())[:16] == "d10727633888ecff"


def small() -> dict[str, Any]:
    """Five templates of one intent, each with words of its own, and one of another."""
    words = ["apple", "pear", "plum", "fig", "lime"]
    lists = {"count": {"range": {"from": 1, "to": 50}}}
    blocks = [{"sentences": [f"(take|get) {{count}} {word}[s] [now]"]} for word in words]
    other = [{"sentences": ["stop [<it>]"], "slots": {"all": "yes"}}]
    return {
        "language": "en",
        "intents": {"Take": {"data": blocks}, "Stop": {"data": other}},
        "lists": lists,
        "expansion_rules": {"it": "(it|this|that)"},
    }


@pytest.mark.parametrize("seed", range(4))
def test_whole_templates_are_held_out(seed: int) -> None:
    examples = list(Templates(small()).examples(60, 3, seed))
    held = {e.text.split()[2].removesuffix("s") for e in examples if e.is_heldout}
    trained = {e.text.split()[2].removesuffix("s") for e in examples if e.intent == "Take"} - held
    assert len(held) == 1 and len(trained) == 4
    assert not [e for e in examples if not e.is_heldout and any(w in e.text for w in held)]
    assert {e.intent for e in examples if not e.is_heldout} == {"Take", "Stop"}
    assert Counter(e.is_heldout for e in examples)[True] == 3
    for example in examples:
        value = json.loads(example.answer)
        if example.intent == "Take":
            assert value["slots"] == {"count": int(example.text.split()[1])}
        else:
            assert value == {"intent": "Stop", "slots": {"all": "yes"}}
    assert examples == list(Templates(small()).examples(60, 3, seed))
    assert examples != list(Templates(small()).examples(60, 3, seed + 1))


RIGHT = json.dumps({"intent": "On", "slots": {"area": "attic", "level": 5}})


@pytest.mark.parametrize(
    ("answer", "accuracy", "f1"),
    [
        (RIGHT, 1, 1),
        ('{"slots": {"level": "5", "area": "Attic "}, "intent": "On"}', 1, 1),
        ('{"intent": "On", "slots": {"area": "attic", "level": 5.0}}', 1, 1),
        ('{"intent": "On", "slots": {"area": "attic", "level": 5.000001}}', 1, 1 / 2),
        (f'{{"intent": "On", "slots": {{"area": "attic", "level": 5{"0" * 400}}}}}', 1, 1 / 2),
        ('{"intent": "On", "slots": {"area": "attic", "level": Infinity}}', 1, 1 / 2),
        ('{"intent": "On", "slots": {"area": "attic"}}', 1, 2 / 3),
        ('{"intent": "Off", "slots": {"area": "attic", "level": 6}}', 0, 1 / 2),
        ('{"intent": "On", "slots": {}}', 1, 0),
        ('{"intent": "On", "slots": []}', 1, 0),
        ('{"intent": ["On"]}', 0, 0),
        ('{"intent": "On", "slots": {"area": "attic"', 0, 0),
        ("[" * 100_000, 0, 0),
        ("the attic", 0, 0),
        ("", 0, 0),
    ],
)
def test_answers_are_graded(answer: str, accuracy: float, f1: float) -> None:
    found = graded(answer, RIGHT)
    assert found[ACCURACY] == (accuracy, 1) and found[SLOT_F1] == (pytest.approx(f1), 1)
    none = json.dumps({"intent": "Hi", "slots": {}})
    assert graded(none, none)[SLOT_F1] == (1, 1)


def test_another_file_is_refused(tmp_path: Path) -> None:
    for text, said in (('{"a": 1}', "no file of intents"), ("{", "cannot be read")):
        (tmp_path / "x.json").write_text(text)
        source = Source(str(tmp_path / "x.json"), "intents")
        (item,) = FIELD.items(source)
        with pytest.raises(DataError, match=said):
            list(FIELD.read(source, item, pytest.fail))


def test_answers_are_written_through_the_engine_and_compared(tmp_path: Path) -> None:
    """A model that answers right, one that says nothing useful, a linear model, and hassil."""
    options = {**FIELD.options, "sentences": "600", "heldout_per_template": "1"}
    source = Source(str(FILE), "intents", options=options)
    prepared = prepare(tmp_path / "home", source, fields={"intents": FIELD}, seq_len=200)
    tokens, heldout = Tokens.load(prepared.folder("tokens")), HeldoutDocuments.open(prepared)
    assert prepared.metrics["dropped"].keys() <= {"exact duplicate"} and len(heldout) > 120
    rights: dict[tuple[int, ...], list[int]] = {}
    for number in range(len(heldout)):
        ids, mask = heldout.ids(number), heldout.mask(number)
        rights[tuple(ids[~mask].tolist())] = ids[mask].tolist()

    def right(request: GenerateRequest) -> list[int]:
        return rights[request.prompt_ids]

    config = EvaluateConfig(window=256, bootstrap_samples=200, max_bytes=3_000)
    whole = FieldEvaluation.of(context_in(tmp_path), config, "intents", FIELD, heldout, tokens)
    parts = whole.with_further()
    assert [(part.name, part.metric) for part in parts] == [
        ("intents", ACCURACY),
        ("intents/slot_f1", SLOT_F1),
    ]
    digest = tokens.contract.digest
    good, bad = FakeEngine(digest, right), FakeEngine(digest, lambda request: [20, 21])
    bad.unable = frozenset({"grammar"})
    try:
        for part in parts:
            assert part.score_model(good, Variant("openvino", "int8")).value == 1
            assert part.score_model(bad, Variant("openvino", "int4")).value == 0
        assert len(good.submitted) == len(whole.asked.documents) > 25, "asked once for both metrics"
        base = parts[0].score_base(bad, Variant("openvino", "int8"), "pypi:a-base==1")
        assert (base.value, base.variant, base.name) == (0, None, "its base, openvino int8")
        assert {request.grammar for request in bad.submitted} == {None}
        assert isinstance(FIELD.task, WritingTask)
        assert {request.grammar for request in good.submitted} == {FIELD.task.grammar}
        found = measure(good, tokens, whole.asked, window=256)
        assert found.metric == ACCURACY and found.value == 1
    finally:
        good.close()
        bad.close()
    rows = RowSet.open(prepared)
    (linear, grammar), (slots,) = (part.baselines(rows, None) for part in parts)
    assert 0.5 < linear.value < 1 and linear.metric == ACCURACY
    assert grammar.value > 0.98 < slots.value and slots.metric == SLOT_F1
    assert replace(slots, metric=ACCURACY).name == grammar.name


def test_fields_go_to_worker_processes() -> None:
    """A field that cannot is read by one process, however many there are."""
    for each in (FIELD, CHAT_FIELD):
        assert is_sendable(each)
