"""The compress stage with a scripted measure, and once with the engine."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from whorl.codecs.contract import Tokens
from whorl.core.context import StageContext
from whorl.core.errors import GateError, RecordError, SpecError
from whorl.core.metrics import ACCURACY, BITS_PER_BYTE, Metric
from whorl.core.ports import QualityMeasure
from whorl.core.records import Record, RecordKey, RecordStore
from whorl.core.variants import Variant
from whorl.engines.open import open_engine
from whorl.engines.openvino_export import EXPORTER
from whorl.model.folder import model_folders, read_card
from whorl.spec.resolved import CompressConfig
from whorl.stages.compress.run import loss_of_quality, run
from whorl.testing.corpus import tiny_texts
from whorl.testing.models import tiny_model_folder

NAMES = tuple(f"document-{i}" for i in range(12))
NUM_BYTES = np.arange(100.0, 1300.0, 100.0)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Record:
    store = RecordStore(tmp_path_factory.mktemp("home"), "tiny")
    key = RecordKey("train", {"steps": 60})
    with store.write(key) as writer:
        tiny_model_folder(writer.path / "model")
    record = store.find(key)
    assert record is not None
    return record


def measured(value: float, spread: float = 0.0, metric: Metric = BITS_PER_BYTE):
    wobble = spread * np.where(np.arange(12) % 2, 1.0, -1.0)
    bits = (value + wobble) * NUM_BYTES
    return QualityMeasure(metric, NAMES, bits, NUM_BYTES)


Measured = dict[str, QualityMeasure]


def scripted(**values: float) -> Callable[[Path, Variant], Measured]:
    def measure(model: Path, variant: Variant) -> Measured:
        assert read_card(model).variant == variant  # a whole, verified folder
        return {"text": measured(values[variant.weights])}

    return measure


def context(tmp_path: Path) -> StageContext:
    return StageContext(RecordStore(tmp_path / "home", "tiny"))


def test_record_holds_servable_folders_and_figures(trained: Record, tmp_path: Path) -> None:
    config = CompressConfig(formats=("int8", "int4"), max_bpb_increase=0.05, search="off")
    measure = scripted(f32=2.0, int8=2.002, int4=2.06)
    record = run(context(tmp_path), config, trained, EXPORTER, measure)
    rows = {row["name"].removeprefix("openvino "): row for row in record.metrics["variants"]}
    assert list(rows) == ["f32", "int8", "int4"]
    assert rows["int8"]["increase"] == pytest.approx(0.001)
    assert rows["int4"]["increase"] == pytest.approx(0.03)
    assert {row["verdict"] for row in rows.values()} == {"parent", "accepted"}
    assert rows["int4"]["bytes"] < rows["int8"]["bytes"] < 0.3 * rows["f32"]["bytes"]
    for name in rows:
        card = read_card(record.folder(f"openvino-{name}"))
        assert card.variant == Variant("openvino", name)
        assert card.quality["text"]["value"] == rows[name]["value"]
        assert card.lineage["train"] == trained.digest and card.lineage["prepare"] == "0" * 32
        assert card.lineage["compress"] == record.digest
    assert record.run["wall_s"] > 0


def test_same_model_same_bytes_and_no_second_run(trained: Record, tmp_path: Path) -> None:
    config = CompressConfig()
    measure = scripted(f32=2.0, int8=2.002)
    first = run(context(tmp_path / "a"), config, trained, EXPORTER, measure)
    second = run(context(tmp_path / "b"), config, trained, EXPORTER, measure)
    assert first.files == second.files and first.metrics == second.metrics

    def never(model: Path, variant: Variant) -> Measured:
        raise AssertionError("measured again")

    assert run(context(tmp_path / "a"), config, trained, EXPORTER, never).digest == first.digest


def test_worse_variant_is_refused(trained: Record, tmp_path: Path) -> None:
    config = CompressConfig(formats=("int8", "int4"), max_bpb_increase=0.01, search="off")
    store = context(tmp_path)
    with pytest.raises(GateError) as caught:
        run(store, config, trained, EXPORTER, scripted(f32=2.0, int8=2.002, int4=2.06))
    message = str(caught.value)
    assert caught.value.exit_code == 10
    for part in ("int4", "+3%", "at most +1%", "['int8']", "compress.max_bpb_increase"):
        assert part in message, message
    assert "int8 +" not in message
    assert list(store.store.all("compress")) == []


def test_a_refused_variant_that_nobody_named_is_left_out_and_told(
    trained: Record, tmp_path: Path
) -> None:
    """`formats: auto`: after hours of training a model is served, in full precision."""
    told: list[str] = []
    store = replace(context(tmp_path), log=told.append)
    config = CompressConfig(leaves_out=True, max_bpb_increase=0.01)
    record = run(store, config, trained, EXPORTER, scripted(f32=2.0, int8=2.06))
    assert [row["verdict"] for row in record.metrics["variants"]] == ["parent", "refused"]
    assert [str(variant) for variant in model_folders(record)] == ["openvino f32"]
    (line,) = [line for line in told if "full precision" in line]
    assert "int8 +3%" in line and "at most +1%" in line


def test_every_field_is_measured_and_one_that_loses_refuses_the_variant(
    trained: Record, tmp_path: Path
) -> None:
    def measure(model: Path, variant: Variant) -> Measured:
        right = (np.arange(12) < (9 if variant.weights == "int4" else 10)).astype(float)
        answers = QualityMeasure(ACCURACY, NAMES, right, np.ones(12))
        return {"text": measured(2.0), "digits": answers}

    record = run(context(tmp_path), CompressConfig(), trained, EXPORTER, measure)
    rows = [(row["name"], row["field"], row["metric"]) for row in record.metrics["variants"]]
    fields = (("text", "bits_per_byte"), ("digits", "accuracy"))
    assert rows == [(f"openvino {w}", *field) for w in ("f32", "int8") for field in fields]
    quality = read_card(record.folder("openvino-int8")).quality
    assert quality["digits"]["value"] == pytest.approx(10 / 12, abs=1e-5)
    config = CompressConfig(formats=("int8", "int4"), search="off")
    with pytest.raises(GateError, match=r"int4 is worse.*accuracy of 12.*int4 \+10%.*\(digits\)"):
        run(context(tmp_path), config, trained, EXPORTER, measure)


def test_measured_figure_decides_and_interval_is_told(trained: Record, tmp_path: Path) -> None:
    def measure(model: Path, variant: Variant) -> Measured:
        found = measured(2.0) if variant.weights == "f32" else measured(2.01, spread=0.05)
        return {"text": found}

    config = CompressConfig(max_bpb_increase=0.01)
    row = run(context(tmp_path), config, trained, EXPORTER, measure).metrics["variants"][1]
    assert row["low"] < 0.01 < row["high"] and row["increase"] < 0.01
    assert row["verdict"].startswith("accepted, uncertain")


def test_loss_of_quality_points_the_right_way() -> None:
    ones = np.ones(200)
    right = (np.arange(200) % 10 != 0).astype(float)  # 90%
    fewer = right * (np.arange(200) % 20 != 1)  # 5 points of it lost

    def accuracy(values: np.ndarray) -> QualityMeasure:
        return QualityMeasure(ACCURACY, tuple(map(str, range(200))), values, ones)

    loss = loss_of_quality(accuracy(fewer), accuracy(right))
    assert loss.value == pytest.approx(0.05 / 0.9)
    assert loss.low is not None and loss.high is not None and 0 < loss.low < loss.value < loss.high
    assert loss_of_quality(accuracy(right), accuracy(fewer)).value < 0
    assert loss_of_quality(accuracy(ones), accuracy(0 * ones)).value == 0.0
    assert loss_of_quality(measured(2.2), measured(2.0)).value == pytest.approx(0.1)
    with pytest.raises(SpecError):
        loss_of_quality(accuracy(right), measured(2.0))


def test_damaged_model_is_refused(trained: Record, tmp_path: Path) -> None:
    path = trained.path / "model/model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    try:
        with pytest.raises(RecordError, match="damaged in chunk 0"):
            run(context(tmp_path), CompressConfig(), trained, EXPORTER, scripted(f32=2.0, int8=2.0))
    finally:
        path.write_bytes(whole)


def test_int8_loses_little_through_the_engine(trained: Record, tmp_path: Path) -> None:
    texts = tiny_texts(20, seed=5)

    def measure(model: Path, variant: Variant) -> Measured:
        engine, tokens = open_engine(model, variant), Tokens.load(model / "tokens")
        scores = engine.score([tokens.encode_prompt(text)[:256] for text in texts])
        engine.close()
        bits = np.array([-score.sum() / math.log(2) for score in scores])
        names = tuple(f"text-{i}" for i in range(len(texts)))
        sizes = np.array([len(text) for text in texts], np.float64)
        return {"text": QualityMeasure(BITS_PER_BYTE, names, bits, sizes)}

    record = run(context(tmp_path), CompressConfig(), trained, EXPORTER, measure)
    parent, int8 = record.metrics["variants"]
    assert 0 < parent["value"] < 3
    assert abs(int8["increase"]) < 0.01 and int8["low"] <= int8["increase"] <= int8["high"]
    assert int8["value"] != parent["value"]
