"""A ladder on the tiny corpus through plan, prepare and train; killed and run again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.stages.plan.conftest import machine
from whorl.core.errors import PlanError
from whorl.core.records import Record
from whorl.stages.plan.hardware import Machine
from whorl.testing.corpus import write_corpus

pytest.importorskip("torch", reason="needs the extra train")

RUNGS = 4


@pytest.fixture(autouse=True)
def paper_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine's facts with figures from paper: nothing is measured."""
    from whorl.launch.machine import machine_facts

    facts, paper = machine_facts(), machine()
    calibration = paper.calibration.model_copy(update={"identity": facts.identity, "threads": 1})
    found = Machine(facts=facts, calibration=calibration)
    monkeypatch.setattr("whorl.launch.calibrate.this_machine", lambda home: found)


def recipe(folder: Path) -> dict[str, Any]:
    path = write_corpus(folder, 150)
    return {
        "name": "tiny",
        "data": [{"source": str(path)}],
        "budget": {"tokens": 30_720},
        "prepare": {"vocab_size": 512},
        "model": {"layers": 4, "width": 128},
        "train": {"seq_len": 64, "threads": 1},
    }


def counted_trainings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of train records as they are made."""
    from whorl.stages.train.session import TrainingRun as Training

    made: list[str] = []
    original = Training.train

    def train(self: Any, stop: Any) -> Any:
        if len(made) == 2 and "killed" not in made:
            made.append("killed")
            raise KeyboardInterrupt
        made.append(self.folder.name)
        return original(self, stop)

    monkeypatch.setattr(Training, "train", train)
    return made


def test_a_killed_ladder_goes_on_and_predicts_its_last_rung_and_the_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from whorl.ladders import ladder, read_ladder
    from whorl.verbs import Session

    made, told = counted_trainings(monkeypatch), list[str]()
    options: dict[str, Any] = {"home": tmp_path / "home", "workers": 1, "log": told.append}

    def climb() -> Record:
        return ladder(Session.open(recipe(tmp_path / "data"), **options), 600.0, RUNGS)

    with pytest.raises(KeyboardInterrupt):
        climb()
    record = climb()
    trained = [name for name in made if name != "killed"]
    assert len(trained) == len(set(trained)) == RUNGS  # none twice, killed or not
    assert climb().path == record.path and len(made) == RUNGS + 1

    outcome = read_ladder(record)
    assert len(list((tmp_path / "home/tiny/prepare").glob("*/manifest.json"))) == 1
    rows = outcome["rungs"]
    assert [row["predicted"] is None for row in rows] == [True, True, True, False]
    before = next(i for i, line in enumerate(told) if "predicted" in line)
    after = next(i for i, line in enumerate(told) if f"{rows[-1]['loss']:.4f}" in line)
    assert before < after  # told before it was run
    for row in rows:
        trained_record = Record.load(tmp_path / "home/tiny/train" / row["record"])
        assert row["loss"] == trained_record.metrics["heldout_bits_per_byte"]
        steps = trained_record.config["train"]["steps"]
        assert row["tokens"] == steps * trained_record.config["train"]["batch_tokens"]
    target = outcome["target"]
    assert target["params"] > rows[-1]["params"] and outcome["unit"] == "bits/byte"
    predicted = target["predicted"]
    assert 0 < predicted["low"] < predicted["value"] < predicted["high"] < 10

    with pytest.raises(PlanError, match="--budget"):
        ladder(Session.open(recipe(tmp_path / "data"), **options), 0.5, RUNGS)
    check_command(tmp_path, record)


def check_command(tmp_path: Path, record: Record) -> None:
    """The command finds the same record, prints it, draws it."""
    from whorl.cli.main import build_app

    path = tmp_path / "tiny.yaml"
    path.write_text(json.dumps(recipe(tmp_path / "data")))
    home = str(tmp_path / "home")
    arguments = ["ladder", str(path), "--budget", "10min", "--home", home, "--workers", "1"]
    drawn = tmp_path / "ladder.svg"
    done = CliRunner().invoke(build_app(), [*arguments, "--json", "--plot", str(drawn)])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["record"] == str(record.path)
    assert drawn.read_text("utf-8").lstrip().startswith("<?xml")
    shown = CliRunner().invoke(build_app(), arguments, env={"COLUMNS": "160"})
    assert "predicted" in shown.stdout and "measured" in shown.stdout  # heads may wrap
    refused = CliRunner().invoke(build_app(), [*arguments, "--plot", "ladder.txt"])
    assert refused.exit_code != 0
