"""A tiny run from rows to a model folder, and what it reports."""

from __future__ import annotations

import json
import math
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from tests.stages.train.test_damage import PressCtrlC, check_resumed_is_whole
from tests.stages.train.work import config, make_prepared, tiny_shape, train
from whorl.core.context import StageContext
from whorl.core.errors import DataError, DivergedError, Interrupted, SpecError
from whorl.core.records import Record, RecordStore
from whorl.core.rows import RowSet
from whorl.model.hf import load_model_folder
from whorl.stages.train.batch import make_batch
from whorl.stages.train.run import run, train_key
from whorl.stages.train.session import check_fit
from whorl.testing.fakes import RecordingProgress

PLAN = {
    "step_s": {"value": 0.02, "low": 0.0, "high": 1e9, "unit": "s"},
    "heldout_bpb": {"value": 3.0, "low": 2.5, "high": 3.5, "unit": "bits per byte"},
    "train_tokens": {"value": 1536, "low": 1536, "high": 1536, "unit": "tokens"},
    "peak_bytes": {"value": 1e6, "low": None, "high": None, "unit": "bytes"},
    "cost_usd": {"value": None, "unit": "$"},
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run") / "home"


@pytest.fixture(scope="module")
def prepared(home: Path) -> Record:
    return make_prepared(home)


@pytest.fixture(scope="module")
def progress() -> RecordingProgress:
    return RecordingProgress()


@pytest.fixture(scope="module")
def trained(home: Path, prepared: Record, progress: RecordingProgress) -> Record:
    context = StageContext(RecordStore(home, "tiny"), progress)
    return run(context, tiny_shape(), config(), prepared, PLAN)


def run_folder(home: Path, prepared: Record, **settings: Any) -> Path:
    key = train_key(tiny_shape(), config(**settings), prepared)
    return RecordStore(home, "tiny").run_folder(key)


def test_loss_lines_are_complete(trained: Record) -> None:
    lines = [json.loads(line) for line in trained.file("loss.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    assert [line["step"] for line in steps] == list(range(1, 13))
    assert [line["step"] for line in lines if "heldout_loss" in line] == [3, 6, 9, 12]
    assert steps[0]["loss"] == pytest.approx(math.log(300), rel=0.01)
    assert steps[-1]["loss"] < 0.8 * steps[0]["loss"]
    assert sum(line["trained_tokens"] for line in steps) == trained.metrics["trained_tokens"]
    assert steps[0]["learning_rate"] == pytest.approx(0.01)
    assert all(line["gradient_norm"] > 0 for line in steps)


def test_reported_heldout_loss_is_that_of_the_folder(trained: Record, prepared: Record) -> None:
    """Full logits of the saved model over all held-out rows, against the bits per byte."""
    model, _, tokens, card = load_model_folder(trained.folder("model"))
    rows = RowSet.heldout(prepared)
    picked = np.linspace(0, rows.num_rows - 1, 4).round().astype(np.int64)
    batch = rows.read(picked)
    nats, count = 0.0, 0
    for ids, mask, starts in zip(batch.ids, batch.loss_mask, batch.segment_starts, strict=True):
        bounds = [*np.flatnonzero(starts), len(ids)]
        for begin, end in zip([0, *bounds[1:-1]], bounds[1:], strict=True):
            if end - begin < 2:
                continue
            part = torch.from_numpy(ids[begin:end])
            with torch.no_grad():
                logits = model.logits(model(part[None, :-1]))[0].double()
            losses = functional.cross_entropy(logits, part[1:], reduction="none")
            trained_here = torch.from_numpy(mask[begin + 1 : end])
            nats += float(losses[trained_here].sum())
            count += int(trained_here.sum())
    assert trained.metrics["heldout_loss"] == pytest.approx(nats / count, rel=1e-5)
    assert card.quality["heldout_loss"] == trained.metrics["heldout_loss"]
    assert card.lineage["prepare"] == prepared.digest
    assert tokens.contract.vocab_size == 300
    per_byte = rows.index.heldout_trained_tokens / prepared.metrics["heldout_bytes"]
    expected = nats / count / math.log(2) * per_byte
    assert trained.metrics["heldout_bits_per_byte"] == pytest.approx(expected, rel=1e-5)


def test_work_done_is_found_again(home: Path, trained: Record, prepared: Record) -> None:
    lines = (run_folder(home, prepared) / "metrics.jsonl").read_bytes()
    assert train(home, prepared) == trained
    assert (run_folder(home, prepared) / "metrics.jsonl").read_bytes() == lines
    assert not (run_folder(home, prepared) / "checkpoints").exists()


def test_timings_and_plan_are_reported(
    home: Path, trained: Record, prepared: Record, progress: RecordingProgress
) -> None:
    report = trained.run
    assert report["step_s"] > 0 and 0 < report["data_wait_share"] < 1
    names = ("startup_s", "steps_s", "validations_s", "checkpoints_s", "publishing_s")
    assert all(report[name] > 0 for name in names)
    assert report["train_s"] == pytest.approx(sum(report[name] for name in names))
    assert report["steps_s"] == pytest.approx(report["step_s"] * trained.metrics["steps"])
    assert report["peak_bytes"]["process"] > 2**26
    assert report["environment"]["threads"] == 1
    plan = report["plan_vs_actual"]
    assert set(plan) == {"step_s", "heldout_bpb", "train_tokens", "peak_bytes"}
    assert plan["train_tokens"] == {
        "predicted": 1536.0,
        "low": 1536,
        "high": 1536,
        "actual": 1536,
        "ratio": 1.0,
        "within": True,
    }
    assert plan["heldout_bpb"]["actual"] == trained.metrics["heldout_bits_per_byte"]
    assert plan["peak_bytes"]["within"] is None
    lines = (run_folder(home, prepared) / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines if "data_s" in line] == [*range(1, 13)]
    assert progress.amount == 12 and "held out" in progress.notes[-1]


def test_picture_of_the_loss(home: Path, trained: Record, prepared: Record) -> None:
    folder = run_folder(home, prepared)
    png, svg = (folder / "loss.png").read_bytes(), (folder / "loss.svg").read_text()
    assert png.startswith(b"\x89PNG") and int.from_bytes(png[16:20], "big") == 960
    assert "</svg>" in svg and trained.metrics["steps"] == 12


def test_same_work_same_bits_whatever_the_clock_says(
    tmp_path: Path, trained: Record, prepared: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A replay in another home with a clock that jumps: every file of the record is equal."""
    chooser = random.Random(3)
    for name in ("perf_counter", "monotonic", "time"):
        monkeypatch.setattr(time, name, lambda: chooser.uniform(-1e9, 1e9))
    torch.manual_seed(99)  # no global generator has a say
    again = train(tmp_path / "again", prepared)
    assert again.files == trained.files and again.metrics == trained.metrics


def test_lanes_go_on_to_the_same_bits(tmp_path: Path, prepared: Record) -> None:
    """Two lanes, stopped after five steps and resumed, beside two lanes that were not stopped."""
    lanes = {"lanes": 2, "threads": 2, "micro_batch_rows": 1}
    check_resumed_is_whole(tmp_path, prepared, lanes, after=5)


def test_second_signal_stops_at_once(tmp_path: Path, trained: Record, prepared: Record) -> None:
    home = tmp_path / "home"
    with pytest.raises(Interrupted, match="at once by a second signal") as caught:
        train(home, prepared, progress=PressCtrlC(5, times=2))
    assert caught.value.exit_code == 130
    lines: list[str] = []
    record = train(home, prepared, log=lines.append)
    assert any(line.startswith("resumed at step 4 ") for line in lines)
    assert record.files == trained.files


def test_divergence_names_step_and_rows(tmp_path: Path, prepared: Record) -> None:
    settings = {"learning_rate": 1e6, "weight_decay": 1e6}  # weights grow by 1e12 a step
    with pytest.raises(DivergedError, match=r"not finite at step \d+ \(rows \d+") as caught:
        train(tmp_path / "home", prepared, settings)
    assert caught.value.exit_code == 11


def test_a_training_that_learned_nothing_leaves_no_model(tmp_path: Path, prepared: Record) -> None:
    """Its weights are finite; asked for again, it is refused again, without a step."""
    home = tmp_path / "home"
    settings = {"learning_rate": 1e6, "embedding_learning_rate": 1e6}
    for _ in range(2):
        with pytest.raises(DivergedError, match="learned nothing in 12 steps"):
            train(home, prepared, settings)
    assert not list(home.glob("*/train/*/manifest.json"))
    assert list(home.glob("*/train/*.run/metrics.jsonl"))


def test_bf16_under_autocast_learns_the_same(
    tmp_path: Path, trained: Record, prepared: Record
) -> None:
    """The CUDA path's precision, run on the CPU."""
    record = train(tmp_path / "home", prepared, {"precision": "bf16"})
    expected = trained.metrics["heldout_loss"]
    assert record.metrics["heldout_loss"] == pytest.approx(expected, rel=0.02)
    weights = load_model_folder(record.folder("model"))[0].state_dict().values()
    assert {weight.dtype for weight in weights} == {torch.float32}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seq_len": 64, "batch_tokens": 128}, "seq_len is not that of the prepared rows"),
        ({"batch_tokens": 100}, "batch_tokens 100 is not a multiple"),
    ],
)
def test_what_does_not_fit_is_refused(
    tmp_path: Path, prepared: Record, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(SpecError, match=message):
        train(tmp_path / "home", prepared, settings)


@pytest.mark.parametrize("key", ["steps", "micro_batch_rows", "validate_every_steps"])
def test_counts_below_one_are_no_config(key: str) -> None:
    with pytest.raises(ValueError, match=key):
        config(**{key: 0})


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_missing_device_is_refused(tmp_path: Path, prepared: Record) -> None:
    with pytest.raises(SpecError, match="device is cuda"):
        train(tmp_path / "home", prepared, {"device": "cuda"})


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_in_bf16_learns_the_same(tmp_path: Path, trained: Record, prepared: Record) -> None:
    record = train(tmp_path / "home", prepared, {"precision": "bf16", "device": "cuda"})
    expected = trained.metrics["heldout_loss"]
    assert record.metrics["heldout_loss"] == pytest.approx(expected, rel=0.02)


def test_rows_of_which_nothing_is_trained_are_refused(home: Path, prepared: Record) -> None:
    """Records made before prepare refused them."""
    rows = RowSet.open(prepared)
    for key in ("trained_tokens", "heldout_trained_tokens"):
        index = rows.index.model_copy(update={key: 0})
        with pytest.raises(DataError, match="the prepared rows have no trained token"):
            check_fit(tiny_shape(), config(), RowSet(index, rows.shards))
    untrained = np.array(rows.shards[0])
    untrained["loss_mask"] = 0
    with pytest.raises(DataError, match=r"would learn nothing.*rows 0, 1"):
        make_batch(RowSet(rows.index, (untrained,)), np.arange(2), 1, torch.device("cpu"))
