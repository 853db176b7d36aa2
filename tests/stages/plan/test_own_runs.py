"""Residuals of own runs correct the next plan of the same machine and kind of job."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.stages.plan.conftest import machine, recipe, text_facts
from whorl.core.context import StageContext
from whorl.core.records import RecordKey, RecordStore
from whorl.stages.plan.hardware import Machine
from whorl.stages.plan.own_runs import NO_RUNS, corrected
from whorl.stages.plan.plan import Plan
from whorl.stages.plan.run import run

Trained = Callable[..., None]


def plan_of(home: Path, name: str, on: Machine | None = None, minutes: int = 1) -> Plan:
    context = StageContext(RecordStore(home, name))
    asked = recipe(f"budget.train_time={minutes}min")
    return Plan.load(run(context, asked, on or machine(), text_facts()))


def train(home: Path, name: str, plan: Plan, time: float, memory: float = 1.0) -> None:
    """A run of a plan that took so many times what was planned."""
    store = RecordStore(home, name)
    config = plan.decisions.train.model_dump(mode="json", exclude_none=True)
    key = RecordKey("train", {"shape": name, "train": config}, {"prepare": "0" * 64}, 1)
    rows = {"step_s": {"ratio": time}, "peak_bytes": {"ratio": memory}}
    with store.write(key) as writer:
        writer.run.update({"plan_vs_actual": rows})


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Three runs of as many recipes, which took 1.3, 1.2 and 1.1 of their planned time."""
    for name, time in (("a", 1.3), ("b", 1.2), ("c", 1.1)):
        train(tmp_path, name, plan_of(tmp_path, name, minutes=ord(name) - 94), time, memory=0.9)
    return tmp_path


def test_the_median_of_three_runs_corrects_time_and_memory(home: Path, tmp_path: Path) -> None:
    plan = plan_of(home, "d", minutes=9)
    alone = plan_of(home / "elsewhere", "d", minutes=9)
    found, before = plan.predictions["step_s"], alone.predictions["step_s"]
    assert found.value and before.value and found.low and found.high
    if plan.decisions.shape == alone.decisions.shape:  # a slower step may call for a smaller model
        assert found.value == pytest.approx(1.2 * before.value, rel=0.02)
    assert "corrected by 3 own runs" in found.note and "corrected" not in before.note
    assert "x 1.20, memory x 0.90" in plan.reasons["train.steps"]
    assert plan.machine["corrected"] == {"runs": 3, "step_s": 1.2, "peak_bytes": 0.9}
    assert "corrected" not in alone.machine


def test_fewer_than_three_runs_say_nothing(tmp_path: Path) -> None:
    for name in ("a", "b"):
        train(tmp_path, name, plan_of(tmp_path, name), 2.0)
    store = RecordStore(tmp_path, "x")
    assert corrected(store, machine().facts.identity, recipe(), False) == NO_RUNS
    assert "corrected" not in plan_of(tmp_path, "x", minutes=9).machine


def test_a_run_of_a_corrected_plan_is_not_corrected_twice(home: Path) -> None:
    """Planned at 1.2 and run as planned, it was 1.2 of what the model says, not 1.0."""
    for name in ("d", "e", "f", "g"):
        plan = plan_of(home, name, minutes=ord(name) - 94)
        train(home, name, plan, 1.0)
        assert plan.machine["corrected"]["step_s"] == pytest.approx(1.2)


def test_runs_of_other_machines_and_kinds_do_not_count(home: Path) -> None:
    store, facts = RecordStore(home, "d"), machine().facts
    assert corrected(store, facts.identity, recipe(), False).runs == 3
    assert corrected(store, "another", recipe(), False) == NO_RUNS
    assert corrected(store, facts.identity, recipe(), True) == NO_RUNS
    taught = recipe("train.objective=sft")
    assert corrected(store, facts.identity, taught, False) == NO_RUNS


def test_damaged_records_and_runs_without_a_plan_are_passed_over(home: Path) -> None:
    (manifest,) = (home / "a" / "train").glob("*/manifest.json")
    manifest.write_text("{")
    facts = machine().facts
    assert corrected(RecordStore(home, "d"), facts.identity, recipe(), False) == NO_RUNS


def test_the_newest_nine_count(home: Path) -> None:
    for number in range(9):
        plan = plan_of(home / "other", f"r{number}", minutes=number + 2)
        train(home / "other", f"r{number}", plan, 2.0 if number else 50.0)
    found = corrected(RecordStore(home / "other", "x"), machine().facts.identity, recipe(), False)
    assert found.runs == 9 and found.step_s >= 2.0
