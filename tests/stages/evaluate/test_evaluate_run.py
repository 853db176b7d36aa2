"""The stage: what it writes, that comparisons are paired, that it is done once, what it refuses."""

from __future__ import annotations

import json
from math import log
from pathlib import Path

import numpy as np
import pytest

from tests.stages.evaluate.fakes import (
    ScoringEngine,
    context_in,
    model_folder,
    prepared_corpus,
    tiny_tokens,
)
from whorl.codecs.contract import Tokens
from whorl.core.errors import DataError, RecordError, SpecError
from whorl.core.heldout import HeldoutDocuments
from whorl.core.metrics import BITS_PER_BYTE
from whorl.core.ports import Engine, Score
from whorl.core.records import Record, RecordKey
from whorl.core.rows import RowSet
from whorl.core.variants import Variant
from whorl.fields.text import FIELD, TextField
from whorl.spec.resolved import EvaluateConfig
from whorl.stages.evaluate.run import evaluate_key, run

INT8, F32 = Variant("openvino", "int8"), Variant("openvino", "f32")
FIELDS = {"text": FIELD}
CONFIG = EvaluateConfig(max_bytes=4_000, window=32, bootstrap_samples=200)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Record:
    folder = tmp_path_factory.mktemp("prepared")
    return prepared_corpus(folder / "home", folder / "data")


class Engines:
    """Opens engines whose every id costs `bits[variant]` bits, a tenth more for odd ids."""

    def __init__(self, digest: str, **bits: float) -> None:
        self.digest, self.bits = digest, bits
        self.opened: list[ScoringEngine] = []

    def __call__(self, folder: Path, variant: Variant) -> Engine:
        cost = self.bits[variant.weights] * log(2)
        engine = ScoringEngine(self.digest, lambda ids: -cost * (1 + 0.1 * (np.array(ids[1:]) % 2)))
        self.opened.append(engine)
        return engine


def setup(prepared: Record, tmp_path: Path):
    tokens = Tokens.load(prepared.folder("tokens"))
    models = {
        INT8: model_folder(tmp_path / "a", tokens),
        F32: model_folder(tmp_path / "b", tokens, "2"),
    }
    return models, Engines(tokens.contract.digest, int8=2.02, f32=2.0), context_in(tmp_path)


def test_scores_of_models_and_baselines_on_the_same_documents(
    prepared: Record, tmp_path: Path
) -> None:
    models, engines, context = setup(prepared, tmp_path)
    record = run(context, CONFIG, FIELDS, prepared, models, engines)
    written = json.loads(record.file("scores.json").read_bytes())
    names = [score["name"] for score in written["scores"]]
    assert names[:2] == ["openvino int8", "openvino f32"]
    assert names[2] == "5-gram Kneser-Ney, all training tokens"
    assert [name for name in names if "xz" in name] == names[3:] and len(names) == 6
    assert [score["kind"] for score in written["scores"]] == ["model"] * 2 + ["baseline"] * 4
    (asked,) = written["fields"]
    count = asked["num_documents"]
    assert 5 < count < asked["num_heldout_documents"] and asked["field"] == "text"
    assert {score["num_documents"] for score in written["scores"]} == {count}
    told = [score["variant"] for score in written["scores"]]
    assert told[:2] == [{"format": "openvino", "weights": name} for name in ("int8", "f32")]
    assert set(told[2:]) == {None}
    for score in written["scores"]:
        assert score["metric"] == "bits_per_byte"
        assert score["low"] < score["value"] < score["high"]
    assert all(engine.closed for engine in engines.opened) and len(engines.opened) == 2
    assert record.metrics["scores"]["text"]["openvino f32"] == written["scores"][1]["value"]


def test_per_document_sums_are_the_scores(prepared: Record, tmp_path: Path) -> None:
    models, engines, context = setup(prepared, tmp_path)
    record = run(context, CONFIG, FIELDS, prepared, models, engines)
    written = json.loads(record.file("scores.json").read_bytes())
    documents = json.loads(record.file("per_document.json").read_bytes())["text"]
    held = HeldoutDocuments.open(prepared)
    sizes = dict(zip(held.names, held.all_num_bytes.tolist(), strict=True))
    assert documents["denominator"] == [sizes[name] for name in documents["documents"]]
    for score in written["scores"]:
        total = sum(documents["numerators"][score["name"]])
        assert total / sum(documents["denominator"]) == pytest.approx(score["value"])


def test_comparisons_are_paired(prepared: Record, tmp_path: Path) -> None:
    models, engines, context = setup(prepared, tmp_path)
    record = run(context, CONFIG, FIELDS, prepared, models, engines)
    written = json.loads(record.file("scores.json").read_bytes())
    values = {score["name"]: score["value"] for score in written["scores"]}
    assert [pair["second"] for pair in written["comparisons"]] == list(values)[1:]
    for pair in written["comparisons"]:
        assert pair["first"] == "openvino int8"
        difference = values["openvino int8"] - values[pair["second"]]
        assert pair["difference"] == pytest.approx(difference)
        assert pair["low"] <= pair["difference"] <= pair["high"]
        sides = ("openvino int8" if pair["high"] < 0 else None, pair["second"])
        assert pair["better"] == (sides[1] if pair["low"] > 0 else sides[0])
    assert written["comparisons"][0]["better"] == "openvino f32"
    one_percent = written["comparisons"][0]  # int8 against f32: the same documents, 1% apart
    score = written["scores"][0]
    assert one_percent["high"] - one_percent["low"] < (score["high"] - score["low"]) / 10


def test_it_is_done_once_and_keyed_by_content(prepared: Record, tmp_path: Path) -> None:
    models, engines, context = setup(prepared, tmp_path)
    config = CONFIG.model_copy(update={"baselines": False})
    record = run(context, config, FIELDS, prepared, models, engines)
    assert len(json.loads(record.file("scores.json").read_bytes())["scores"]) == 2
    assert run(context, config, FIELDS, prepared, models, engines).digest == record.digest
    assert len(engines.opened) == 2
    tokens = Tokens.load(prepared.folder("tokens"))
    moved = model_folder(tmp_path / "moved", tokens)
    same = {INT8: moved, F32: models[F32]}
    key = evaluate_key(config, FIELDS, prepared, same)
    assert key.digest == record.digest
    assert evaluate_key(config, FIELDS, prepared, same, engine="torch").digest != record.digest
    other = {**models, F32: moved}
    assert evaluate_key(config, FIELDS, prepared, other).digest != record.digest


def test_two_runs_write_the_same_bytes(prepared: Record, tmp_path: Path) -> None:
    files = []
    for place in ("one", "two"):
        models, engines, context = setup(prepared, tmp_path / place)
        record = run(context, CONFIG, FIELDS, prepared, models, engines)
        files.append((record.digest, record.files, record.metrics))
    assert files[0] == files[1]


def trained_record(tmp_path: Path, steps: int) -> Record:
    context = context_in(tmp_path)
    config = {"train": {"batch_tokens": 4 * 48, "seq_len": 48, "steps": steps, "seed": 3}}
    key = RecordKey("train", config)
    with context.store.write(key):
        pass
    record = context.store.find(key)
    assert record is not None
    return record


def test_ngrams_of_the_rows_the_model_saw(prepared: Record, tmp_path: Path) -> None:
    models, engines, context = setup(prepared, tmp_path)
    scores = {}
    for steps in (2, 1_000):
        trained = trained_record(tmp_path, steps)
        record = run(context, CONFIG, FIELDS, prepared, models, engines, trained)
        assert record.inputs["train"] == trained.digest
        written = json.loads(record.file("scores.json").read_bytes())["scores"]
        scores[steps] = {s["name"]: s for s in written if "Kneser" in s["name"]}
    seen, whole = scores[2].values()
    assert "the model saw" in seen["name"] and "all training" in whole["name"]
    assert seen["value"] > whole["value"] + 0.1
    assert seen["note"] < whole["note"] or len(seen["note"]) < len(whole["note"])
    assert list(scores[1_000].values()) == [whole]  # it saw every row: one model is enough
    assert RowSet.open(prepared).num_rows > 8


class OddField(TextField):
    """A field whose baselines have no figures per document, and one name twice if asked."""

    def __init__(self, *names: str) -> None:
        super().__init__(name="odd " + " ".join(names))
        object.__setattr__(self, "names", names)

    def baselines(self, train, heldout, rows):  # type: ignore[no-untyped-def]
        assert rows is not None and rows.shape[1] == 49 and len(train) > 50
        return [Score(name, BITS_PER_BYTE, 1.0) for name in self.names]  # type: ignore[attr-defined]


def test_a_baseline_without_documents_is_shown_but_not_compared(
    prepared: Record, tmp_path: Path
) -> None:
    models, engines, context = setup(prepared, tmp_path)
    record = run(context, CONFIG, {"text": OddField("by others")}, prepared, models, engines)
    written = json.loads(record.file("scores.json").read_bytes())
    assert written["scores"][-1]["name"] == "by others" and written["scores"][-1]["low"] is None
    assert "by others" not in [pair["second"] for pair in written["comparisons"]]
    with pytest.raises(DataError, match="one name"):
        run(context, CONFIG, {"text": OddField("twin", "twin")}, prepared, models, engines)


def test_what_is_refused(prepared: Record, tmp_path: Path) -> None:
    models, engines, context = setup(prepared, tmp_path)
    with pytest.raises(SpecError, match="at least one model"):
        run(context, CONFIG, FIELDS, prepared, {}, engines)
    with pytest.raises(RecordError, match="not a model folder"):
        run(context, CONFIG, FIELDS, prepared, {INT8: tmp_path / "none"}, engines)
    stranger = Engines(tiny_tokens().contract.digest, int8=1.0, f32=1.0)
    with pytest.raises(RecordError, match="other tokens"):
        run(context, CONFIG, FIELDS, prepared, models, stranger)
    assert stranger.opened[0].closed
    assert list(context.store.all("evaluate")) == []
