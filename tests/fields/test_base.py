"""Registry of fields; a package from outside adds one that every stage can use."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from whorl.core.context import StageContext
from whorl.core.errors import SpecError
from whorl.core.plugins import part_names
from whorl.core.ports import Source
from whorl.core.records import RecordStore
from whorl.fields.base import BUILT_IN, GROUP, find_field
from whorl.spec.resolved import EvaluateConfig, PrepareConfig, TrainConfig

# A whole field of another package: which letter does a word begin with?
OUTSIDE = '''
"""First letters of words."""
import random
from whorl.codecs.label import LabelCodec
from whorl.core.ports import Document, Part, Score
from whorl.core.tasks import ChoiceTask

LETTERS = "abcd"


class FirstLetter:
    name = "first-letter"
    task = ChoiceTask()
    logic_version = 1
    options = {}

    def items(self, source):
        return [0, 1]

    def read(self, source, item, reject):
        for number in range(150):
            chooser = random.Random(1000 * item + number)
            word = "".join(chooser.choice(LETTERS) for _ in range(12))
            parts = tuple(Part("letter", letter, trained=False) for letter in word)
            answer = (Part("special", "<|answer|>", trained=False), Part("answer", word[0]))
            yield Document(f"{item}-{number}", (*parts, *answer))

    def fit_codecs(self, documents, options):
        return {name: LabelCodec(list(LETTERS), name) for name in ("letter", "answer")}

    def baselines(self, train, heldout, rows):
        return [Score("one letter for all", self.task.metric, 0.25)]


FIELD = FirstLetter()
'''


def install(folder: Path, package: str, entry: str, text: str) -> None:
    """What pip leaves of a package: a module and its entry points."""
    (folder / f"{package}.py").write_text(text)
    info = folder / f"{package}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[whorl.fields]\n{entry}\n")


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    importlib.invalidate_caches()
    yield folder
    for name in ("outside_field", "broken_field", "twin_field"):
        sys.modules.pop(name, None)


def test_built_in_fields_are_found() -> None:
    assert {"text", "code", "digits"} <= set(part_names(GROUP, BUILT_IN))
    names = ("text", "code", "digits")
    assert tuple(find_field(name).name for name in names) == names
    metrics = [find_field(name).task.metric.name for name in names]
    assert metrics == ["bits_per_byte", "bits_per_byte", "accuracy"]
    assert find_field("code") is find_field("code")


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(SpecError, match="did you mean digits"):
        find_field("digit")
    with pytest.raises(SpecError, match=r"entry point group whorl\.fields"):
        find_field("weather")


def test_what_is_broken_is_named_and_leaves_the_others(outside: Path) -> None:
    install(outside, "broken_field", "broken = broken_field:FIELD", "raise RuntimeError('no')")
    importlib.invalidate_caches()
    with pytest.raises(SpecError, match="broken_field:FIELD"):
        find_field("broken")
    assert find_field("text").name == "text"


def test_what_is_no_field_or_takes_a_name_is_refused(outside: Path) -> None:
    install(outside, "twin_field", "text = twin_field:FIELD\nodd = twin_field:FIELD", "FIELD = 3")
    importlib.invalidate_caches()
    with pytest.raises(SpecError, match="two packages bring a field text"):
        find_field("text")


def test_a_number_is_no_field(outside: Path) -> None:
    install(outside, "twin_field", "odd = twin_field:FIELD", "FIELD = 3")
    importlib.invalidate_caches()
    with pytest.raises(SpecError, match="odd is not a field; found: int without name, task"):
        find_field("odd")


def test_a_field_from_outside_is_prepared_trained_and_evaluated(
    outside: Path, tmp_path: Path
) -> None:
    """Nothing of whorl is changed for it: prepare, train, evaluate through an engine."""
    pytest.importorskip("torch", reason="needs the extra train")
    from whorl.arch.dense import dense_shape
    from whorl.core.variants import Variant
    from whorl.engines.open import open_engine
    from whorl.stages.evaluate.run import run as evaluate
    from whorl.stages.prepare.run import run as prepare
    from whorl.stages.train.run import run as train

    install(outside, "outside_field", "first-letter = outside_field:FIELD", OUTSIDE)
    importlib.invalidate_caches()
    field = find_field("first-letter")
    sources = (Source("nowhere", field.name),)
    context = StageContext(RecordStore(tmp_path / "home", "letters"))
    config = PrepareConfig(vocab_size=32, seq_len=30, heldout_share=0.2)
    prepared = prepare(context, config, {field.name: field}, sources, "0" * 64, 1)
    shape = dense_shape(
        layers=2,
        width=32,
        heads=2,
        kv_heads=2,
        head_dim=16,
        ffn_width=64,
        vocab_size=32,
        max_seq_len=30,
    )
    schedule = TrainConfig(
        seq_len=30,
        batch_tokens=16 * 30,
        micro_batch_rows=16,
        steps=120,
        learning_rate=0.02,
        embedding_learning_rate=0.01,
        warmup_steps=10,
        decay_steps=60,
        threads=1,
    )
    trained = train(context, shape, schedule, prepared, {})
    record = evaluate(
        context,
        EvaluateConfig(window=30, bootstrap_samples=200),
        {field.name: field},
        prepared,
        {Variant("hf", "f32"): trained.path / "model"},
        open_engine,
        trained,
    )
    model, baseline = json.loads(record.file("scores.json").read_bytes())["scores"]
    assert model["metric"] == "accuracy" and model["value"] > 0.6 > baseline["value"]
    assert model["num_documents"] > 30
