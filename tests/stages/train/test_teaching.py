"""Whole trainings of adapters, pairs and a teacher: they learn, go on to the same bits, and leave
a merged model beside the adapter."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.stages.train.teaching import (
    SEQ_LEN,
    in_transformers,
    pair_record,
    pairs_of_answers,
    random_model,
    saved_model,
)
from tests.stages.train.work import config, make_prepared, tiny_shape
from whorl.core.context import StageContext
from whorl.core.errors import DivergedError, SpecError
from whorl.core.records import Record, RecordStore
from whorl.stages.train import session
from whorl.stages.train.checkpoints.local import LocalCheckpoints
from whorl.stages.train.run import run

LORA = {
    "lora": {"rank": 4, "dropout": 0.1, "dora": True, "base": "int8"},
    "learning_rate": 0.01,
    "objective": "sft",
}
ROWS = {"seq_len": SEQ_LEN, "batch_tokens": 4 * SEQ_LEN, "learning_rate": 0.005}


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Record, Record]]:
    """(home, prepared, trained) of adapters on a tiny base."""
    home = tmp_path_factory.mktemp("taught")
    prepared = make_prepared(home)
    yield home, prepared, teach(home, prepared)


def teach(home: Path, prepared: Record) -> Record:
    store = RecordStore(home, "tiny")
    base = saved_model(store, prepared, random_model())
    return run(StageContext(store), tiny_shape(), config(**LORA), prepared, {}, base=base)


def test_adapters_learn_and_are_merged(taught: tuple[Path, Record, Record]) -> None:
    """By transformers and PEFT: model/ is a plain model, adapter/ loads over its base."""
    from transformers import AutoModelForCausalLM

    _, _, record = taught
    losses = [json.loads(line) for line in (record.path / "loss.jsonl").read_text().splitlines()]
    steps = [line["loss"] for line in losses if "loss" in line]
    assert steps[-1] < 0.98 * steps[0]
    metrics = record.metrics
    assert metrics["merge"]["equal_tokens"] == metrics["merge"]["golden_tokens"] > 0
    assert metrics["merge"]["max_logit_difference"] < 1e-4
    assert metrics["trained_parameters"] < 0.5 * metrics["parameters"]
    theirs, info = AutoModelForCausalLM.from_pretrained(
        record.folder("model"), output_loading_info=True
    )
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert theirs.num_parameters() == metrics["parameters"]
    tensors = load_file(record.folder("adapter") / "adapter_model.safetensors")
    assert sum(t.numel() for t in tensors.values()) == metrics["trained_parameters"]
    said = json.loads((record.folder("adapter") / "adapter_config.json").read_text())
    assert (said["r"], said["use_dora"], said["lora_dropout"]) == (4, True, 0.1)


def test_stopped_adapters_go_on_to_the_same_bits(
    taught: tuple[Path, Record, Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint holds the adapters and their optimiser's state, and nothing of the base."""
    _, _, record = taught
    real = session.TrainingRun._step
    store = RecordStore(tmp_path, "tiny")

    def step(self: session.TrainingRun) -> None:
        if self.done == 7:
            raise KeyboardInterrupt
        real(self)

    monkeypatch.setattr(session.TrainingRun, "_step", step)
    again = make_prepared(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        teach(tmp_path, again)
    monkeypatch.undo()
    (folder,) = tmp_path.glob("tiny/train/*.run")
    saved = LocalCheckpoints.of(folder, print).newest(folder.name.removesuffix(".run"))
    assert saved is not None and saved[0].step == 6
    assert {name.rpartition(".")[2] for name in saved[0].model} == {
        "lora_A",
        "lora_B",
        "magnitude",
    }
    trained = sum(tensor.numel() for tensor in saved[0].model.values())
    assert trained == record.metrics["trained_parameters"]
    state = sum(tensor.numel() for tensor in saved[0].optimizer.values())
    assert state == 2 * trained + len(saved[0].model)  # AdamW's moments, and a count of each
    finished = teach(tmp_path, again)
    assert finished.files == record.files and finished.metrics == record.metrics
    assert store.newest("train") is not None


def learn(home: Path, prepared: Record, **settings: Any) -> Record:
    context = StageContext(RecordStore(home, "tiny"))
    made = config(**(ROWS | settings))
    return run(context, tiny_shape(), made, prepared, {})


@pytest.mark.parametrize("lora", [None, {"rank": 4}])
def test_preferences_are_learned(lora: dict[str, Any] | None, isolated_home: Path) -> None:
    """Of pairs that differ by a rule, held-out ones are told apart."""
    pairs = pairs_of_answers(60)
    prepared = pair_record(RecordStore(isolated_home, "tiny"), pairs[:50], pairs[50:])
    record = learn(
        isolated_home,
        prepared,
        objective="dpo",
        dpo={"beta": 1.0},
        steps=24,
        lora=lora,
        optimizer="adamw",
        max_repeats=100.0,
    )
    assert record.metrics["heldout_loss"] < 0.65
    assert record.metrics["heldout_bits_per_byte"] is None


def test_a_teacher_is_followed(isolated_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And stopped, it goes on to the same bits, though rows are asked about again."""
    store = RecordStore(isolated_home, "tiny")
    prepared = pair_record(store, pairs_of_answers(30))
    teacher = saved_model(store, prepared, random_model(4))
    context = StageContext(store)
    settings = {"objective": "distil", "distil": {"teacher": "it", "top_k": 20}}
    made = config(**ROWS | settings | {"steps": 20, "optimizer": "adamw"})
    real = session.TrainingRun._step

    def step(self: session.TrainingRun) -> None:
        if self.done == 7:
            raise KeyboardInterrupt
        real(self)

    record = run(context, tiny_shape(), made, prepared, {}, teacher=teacher)
    lines = [json.loads(line) for line in (record.path / "loss.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses[-1] < 0.9 * losses[0]
    files, inputs = record.files, record.inputs
    assert inputs["teacher"] == teacher.digest
    shutil.rmtree(record.path)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(session.TrainingRun, "_step", step)
        run(context, tiny_shape(), made, prepared, {}, teacher=teacher)
    assert run(context, tiny_shape(), made, prepared, {}, teacher=teacher).files == files


def test_a_teacher_of_other_tokens_is_refused(isolated_home: Path) -> None:
    store = RecordStore(isolated_home, "tiny")
    prepared, other = pair_record(store, pairs_of_answers(8)), make_prepared(isolated_home)
    teacher = saved_model(store, other, random_model(4))
    made = config(**ROWS | {"objective": "distil", "distil": {"teacher": "it"}})
    with pytest.raises(SpecError, match=r"train.distil.teacher has other tokens"):
        run(StageContext(store), tiny_shape(), made, prepared, {}, teacher=teacher)


def test_what_cannot_be_taught_is_refused(isolated_home: Path) -> None:
    store = RecordStore(isolated_home, "tiny")
    prepared = pair_record(store, pairs_of_answers(8))
    same = {"objective": "dpo", "learning_rate": 1e-9, "lora": {"rank": 2}, "steps": 2}
    with pytest.raises(DivergedError, match="no better than the one it began with"):
        learn(isolated_home, prepared, **same)
    nothing = {"objective": "sft", "learning_rate": 1e-12, "lora": {"rank": 2}, "steps": 2}
    with pytest.raises(DivergedError, match=r"changed nothing|learned nothing"):
        learn(isolated_home, prepared, **nothing)
    with pytest.raises(ValueError, match="another objective is trained"):
        config(objective="sft", dpo={"beta": 1.0})
    with pytest.raises(ValueError, match="cannot be compiled"):
        config(lora={}, compiled=True)


SLOW = dict.fromkeys(
    ("learning_rate", "embedding_learning_rate", "head_learning_rate", "norm_learning_rate"), 1e-9
)


def test_a_base_that_learns_nothing_is_no_new_model(isolated_home: Path) -> None:
    """It is far better than uniform before the first step; what it began with says transformers."""
    store = RecordStore(isolated_home, "tiny")
    prepared = make_prepared(isolated_home)
    context, usual = StageContext(store), {"optimizer": "adamw", "validate_rows": 1000}
    first = run(context, tiny_shape(), config(steps=40, **usual), prepared, {})
    assert first.metrics["train_loss"] < 0.9 * math.log(tiny_shape().vocab_size)
    assert "heldout_loss_before" not in first.metrics
    with pytest.raises(DivergedError, match="no better than the one it began with") as caught:
        run(context, tiny_shape(), config(steps=4, **usual | SLOW), prepared, {}, base=first)
    assert "raise train.learning_rate (1e-09)" in str(caught.value)
    fast = config(steps=4, **usual | {"learning_rate": 3.0, "embedding_learning_rate": 3.0})
    with pytest.raises(DivergedError, match="no better than the one") as caught:
        run(context, tiny_shape(), fast, prepared, {}, base=first)
    assert "lower train.learning_rate (3)" in str(caught.value)


def test_what_a_base_said_before(isolated_home: Path) -> None:
    """The held-out loss of step 0 is the base's, by transformers, document by document."""
    store, base = RecordStore(isolated_home, "tiny"), random_model(3)
    heldout = pairs_of_answers(6, seed=1)
    prepared = pair_record(store, pairs_of_answers(20), heldout)
    made = config(**ROWS | {"objective": "sft", "steps": 12, "validate_rows": 6})
    record = run(
        StageContext(store), tiny_shape(), made, prepared, {},
        base=saved_model(store, prepared, base),
    )  # fmt: skip
    theirs, nats, count = in_transformers(base), 0.0, 0
    for ids, trained in (document for pair in heldout for document in pair):
        row = torch.from_numpy(ids)[None]
        with torch.no_grad():
            said = torch.log_softmax(theirs(row).logits[0, :-1].double(), dim=-1)
        chosen = -said.gather(1, row[0, 1:, None])[:, 0]
        nats, count = nats + float(chosen[trained[1:]].sum()), count + int(trained[1:].sum())
    assert record.metrics["heldout_loss_before"] == pytest.approx(nats / count, rel=1e-5)
    lines = [json.loads(line) for line in (record.path / "loss.jsonl").read_text().splitlines()]
    assert lines[0]["step"] == 0
    assert lines[0]["heldout_loss"] == record.metrics["heldout_loss_before"]
    assert record.metrics["heldout_loss"] < record.metrics["heldout_loss_before"]


def test_adapters_are_of_one_process(isolated_home: Path) -> None:
    class Several:
        is_main, num_lanes = True, 1

    prepared = make_prepared(isolated_home)
    context = StageContext(RecordStore(isolated_home, "tiny"))
    with pytest.raises(SpecError, match="by one process"):
        run(context, tiny_shape(), config(lora={}), prepared, {}, Several())  # type: ignore[arg-type]
    assert torch.get_num_threads() == 1
