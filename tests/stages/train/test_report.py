"""What a run says of its own time, from lines written by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from whorl.stages.train.report import MetricsFile

LINES = [
    {"startup_s": 9.0},  # of a process that was killed
    {"step": 1, "loss": 3.0, "step_s": 1.0, "data_s": 0.1},
    {"step": 2, "loss": 2.5, "step_s": 50.0, "data_s": 5.0},  # done again below
    {"step": 2, "heldout_loss": 2.6, "validate_s": 70.0},
    {"startup_s": 2.0},
    {"resumed": 1, "checkpoint": "abc"},
    {"step": 2, "loss": 2.5, "step_s": 3.0, "data_s": 0.3},
    {"step": 2, "heldout_loss": 2.6, "validate_s": 0.5},
    {"step": 2, "saved": "def", "save_s": 0.25},
    {"step": 3, "loss": 2.0, "step_s": 2.0, "data_s": 0.2},
    {"step": 3, "heldout_loss": 2.1, "validate_s": 0.5},
    {"step": 3, "saved": "fed", "save_s": 0.75},
    {"publish_s": 1.0},
]


def timings(path: Path) -> dict[str, float]:
    metrics = MetricsFile(path)
    metrics.close()
    return metrics.timings()


def test_the_time_of_training_is_all_that_the_plan_counts(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("\n".join(map(json.dumps, LINES)) + '\n{"step": 4, "step_')
    found = timings(path)
    parts = {"startup_s": 2.0, "steps_s": 6.0, "validations_s": 1.0, "checkpoints_s": 1.0}
    assert {name: found[name] for name in parts} == parts and found["publishing_s"] == 1.0
    assert found["train_s"] == pytest.approx(11.0)
    assert found["step_s"] == pytest.approx(2.0)  # the mean: that is what was planned
    assert found["data_wait_share"] == pytest.approx(0.1)


def test_a_run_without_steps_has_no_times(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"startup_s": 1.0}\n[1, 2]\n"text"\n')
    assert timings(path) == {}
