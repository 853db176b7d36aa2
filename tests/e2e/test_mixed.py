"""Two fields in one recipe: notes and handwritten digits, trained on by share, each scored."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.stages.plan.conftest import machine
from tests.stages.train.test_damage import PressCtrlC
from whorl.core.errors import Interrupted, SpecError
from whorl.core.records import Record
from whorl.core.rows import RowSet
from whorl.testing.corpus import tiny_texts
from whorl.verbs import Session

pytest.importorskip("torch", reason="needs the extra train")
pytest.importorskip("sklearn", reason="needs the extra train")

STEPS, ROWS, SHARES = 30, 4, (0.7, 0.3)
Open = Callable[..., Session]


@pytest.fixture(scope="module")
def open_session(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A session of the recipe in the home of this name, on a machine that exists on paper."""
    folder = tmp_path_factory.mktemp("mixed")
    (folder / "notes").mkdir()
    texts = tiny_texts(400)
    for number in range(20):
        (folder / "notes" / f"{number}.txt").write_text("\n\n".join(texts[20 * number :][:20]))
    recipe = {
        "name": "mixed",
        "data": [
            {"source": str(folder / "notes"), "share": SHARES[0]},
            {"source": "sklearn:digits", "field": "digits", "share": "30%"},
        ],
        "prepare": {"vocab_size": 400},
        "model": {"layers": 1, "width": 32, "heads": 1, "kv_heads": 1, "head_dim": 32},
        "train": {"seq_len": 64, "batch_tokens": ROWS * 64, "steps": STEPS, "threads": 1},
    }

    def opened(home: str, *overrides: str, workers: int = 1) -> Session:
        sets = ("train.checkpoint_every_steps=5", *overrides)
        return Session.open(recipe, overrides=sets, home=folder / home, workers=workers)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("whorl.launch.calibrate.this_machine", lambda home: machine())
        yield opened


@pytest.fixture(scope="module")
def trained(open_session: Open) -> tuple[Session, Record]:
    session = open_session("first")
    return session, session.train()


def test_each_source_has_its_share_of_the_trained_tokens(
    trained: tuple[Session, Record],
) -> None:
    session, record = trained
    rows = RowSet.open(session.prepare())
    notes, digits = rows.index.sources
    assert (notes.field, digits.field) == ("text", "digits")
    counted, drawn = np.zeros(2), np.zeros(2)
    for step in range(STEPS):
        numbers = rows.rows_of_step(step, ROWS, seed=0)
        masks = rows.read(numbers).loss_mask
        for number, mask in zip(numbers.tolist(), masks, strict=True):
            source = int(number >= digits.first_row)
            counted[source] += mask.sum()
            drawn[source] += 1
    assert np.all(np.abs(counted - np.array(SHARES) * counted.sum()) <= 64)
    assert counted.sum() == record.metrics["trained_tokens"]
    epochs = drawn / [notes.num_rows, digits.num_rows]
    assert record.metrics["epochs_by_source"] == pytest.approx(epochs.tolist())
    planned = session.planned.predictions
    for number, found in enumerate(epochs):
        assert planned[f"epochs_of_data_{number}"].value == pytest.approx(found, rel=0.2)
    assert "digits 30.0% of the trained tokens" in session.planned.reasons["data.share"]


def test_one_contract_holds_the_codecs_of_both(trained: tuple[Session, Record]) -> None:
    prepared = trained[0].prepare()
    contract = json.loads(prepared.file("tokens/contract.json").read_bytes())
    assert {codec["name"] for codec in contract["codecs"]} == {"image", "label", "text"}
    fields = [source["field"] for source in prepared.metrics["sources"]]
    assert fields == ["text", "digits"] and not prepared.metrics["all_text"]


def test_neither_workers_nor_restarts_change_the_model(
    trained: tuple[Session, Record], open_session: Open
) -> None:
    session = open_session("second", workers=2)
    assert session.prepare().digest == trained[0].prepare().digest
    assert session.prepare().files == trained[0].prepare().files
    session.plan()
    session.progress = PressCtrlC(7)
    with pytest.raises(Interrupted):
        session.train()
    again = open_session("second", workers=2).train()
    assert again.digest == trained[1].digest and again.files == trained[1].files


def test_a_source_too_small_for_its_share_is_refused(open_session: Open) -> None:
    with pytest.raises(SpecError, match=r"data.0 \(field text\).*at most 0.01 \(train.max_rep"):
        open_session("third", "train.max_repeats=0.01").plan()


def test_each_field_is_scored_by_its_task_and_served(
    trained: tuple[Session, Record], open_session: Open
) -> None:
    session = open_session("first", "compress=none")
    report = session.up()
    scores = {(row["field"], row["metric"]): row for row in report["scores"]}
    assert set(scores) == {("text", "bits_per_byte"), ("digits", "accuracy")}
    names = [row["name"] for row in report["scores"] if row["field"] == "digits"]
    assert names == ["hf f32", "SVC(gamma=0.001) on pixels", "commonest label"]
    texts = [row["name"] for row in report["scores"] if row["field"] == "text"]
    assert texts[0] == "hf f32" and any("xz" in name for name in texts)
    assert all(row["num_documents"] == 360 for row in report["scores"] if row["field"] == "digits")
    grams = [row for row in report["scores"] if "all training tokens" in row["name"]]
    rows = RowSet.open(session.prepare())
    of_text = sum(source.trained_tokens for source in rows.index.sources[:1])
    assert [row["field"] for row in grams] == ["text"]
    assert int(grams[0]["note"].split()[0].replace(",", "")) <= 1.2 * of_text
    asked = {row["field"] for row in report["serve"]["completions"]}
    assert asked == {"text", "digits"}
    assert all(line.startswith(("text: ", "digits: ")) for line in report["losses_to"])
    assert Record.load(trained[1].path).digest == session.train().digest


def test_a_variant_is_measured_in_every_field(open_session: Open) -> None:
    pytest.importorskip("openvino_genai", reason="needs the extra openvino")
    record = open_session("first", "compress.max_bpb_increase=1").compress()
    rows = [(row["name"], row["field"]) for row in record.metrics["variants"]]
    assert rows == [(f"openvino {w}", f) for w in ("f32", "int8") for f in ("text", "digits")]
