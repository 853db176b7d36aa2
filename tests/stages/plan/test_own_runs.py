"""Residuals of own runs correct the next plan of the same machine and kind of job."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.stages.plan.conftest import machine, recipe, text_facts
from whorl.core.context import StageContext
from whorl.core.digests import write_sealed
from whorl.core.records import RecordKey, RecordStore
from whorl.spec.train_keys import LoraKeys
from whorl.stages.plan.hardware import Machine
from whorl.stages.plan.law import shipped_law
from whorl.stages.plan.own_runs import NO_RUNS, OwnRuns, corrected
from whorl.stages.plan.plan import PLAN_FILE, Plan
from whorl.stages.plan.run import LOGIC_VERSION, run
from whorl.stages.plan.situation import Situation
from whorl.stages.plan.step_time import fit_level

FIXED = (
    *("model.layers=2", "model.width=128", "prepare.vocab_size=1024", "train.seq_len=256"),
    *("train.batch_tokens=2048", "train.steps=200", "train.checkpoint_every_steps=50"),
    "budget.train_time=null",
)


def plan_of(
    home: Path, name: str, *said: str, on: Machine | None = None, minutes: int = 1, data: int = 0
) -> Plan:
    context = StageContext(RecordStore(home, name))
    asked = recipe(f"budget.train_time={minutes}min", *said)
    return Plan.load(run(context, asked, on or machine(), text_facts(digest=f"{data:064d}")))


def train(
    home: Path, name: str, plan: Plan, time: float, memory: float = 1.0, data: int = 0
) -> None:
    """A run of a plan that took so many times what was planned."""
    store = RecordStore(home, name)
    config = plan.decisions.train.model_dump(mode="json", exclude_none=True)
    key = RecordKey("train", {"shape": name, "train": config}, {"prepare": f"{data:064d}"}, 1)
    ratios = {"step_s": time, "peak_bytes": memory}
    rows = {n: {"predicted": plan.predictions[n].value, "ratio": r} for n, r in ratios.items()}
    with store.write(key) as writer:
        writer.run.update({"plan_vs_actual": rows})


def own_runs(home: Path, *said: str, on: Machine | None = None, logic: int = LOGIC_VERSION,
             **others: Any) -> OwnRuns:  # fmt: skip
    """What corrects a plan of a recipe that says so."""
    here = on or machine()
    level = fit_level(here.calibration)
    situation = Situation(recipe(*said), here, level, text_facts(), shipped_law(), **others)
    return corrected(RecordStore(home, "x"), situation, logic)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Three runs of as many recipes, which took 1.3, 1.2 and 1.1 of their planned time."""
    for name, time in (("a", 1.3), ("b", 1.2), ("c", 1.1)):
        train(tmp_path, name, plan_of(tmp_path, name, minutes=ord(name) - 94), time, memory=0.9)
    return tmp_path


def test_the_median_of_three_runs_corrects_time_and_memory(home: Path, tmp_path: Path) -> None:
    plan = plan_of(home, "d", *FIXED)
    alone = plan_of(home / "elsewhere", "d", *FIXED)
    found, before = plan.predictions["step_s"], alone.predictions["step_s"]
    assert found.value and before.value and found.low and found.high
    assert plan.decisions.shape == alone.decisions.shape
    assert found.value == pytest.approx(1.2 * before.value, rel=0.02)
    assert "corrected by 3 own runs" in found.note and "corrected" not in before.note
    assert "x 1.20, memory x 0.90" in found.note
    assert plan.machine["corrected"] == {"runs": 3, "step_s": 1.2, "peak_bytes": 0.9}
    assert "corrected" not in alone.machine


def test_fewer_than_three_runs_say_nothing(tmp_path: Path) -> None:
    for name in ("a", "b"):
        train(tmp_path, name, plan_of(tmp_path, name), 2.0)
    assert own_runs(tmp_path) == NO_RUNS
    assert "corrected" not in plan_of(tmp_path, "x", minutes=9).machine


def test_ten_runs_at_twice_their_time_are_planned_at_twice(tmp_path: Path) -> None:
    """Of one recipe whose data changes: every plan tells train the same, some are corrected."""
    alone = plan_of(tmp_path / "elsewhere", "a", *FIXED)
    for number in range(10):
        plan = plan_of(tmp_path, "a", *FIXED, data=number)
        assert plan.decisions.train.model_dump() == alone.decisions.train.model_dump()
        planned, before = plan.predictions["step_s"].value, alone.predictions["step_s"].value
        assert planned and before
        assert planned == pytest.approx(before * (1 if number < 3 else 2), rel=0.02)
        train(tmp_path, "a", plan, 2 * before / planned, data=number)
    assert own_runs(tmp_path).step_s == pytest.approx(2, rel=0.02)
    assert own_runs(tmp_path).runs == 9


def test_ratios_beyond_three_count_as_three(tmp_path: Path) -> None:
    for name in "abc":
        train(tmp_path, name, plan_of(tmp_path, name, *FIXED), 40.0, memory=0.01)
    assert own_runs(tmp_path) == OwnRuns(3, 3.0, 1 / 3)


def test_runs_of_other_machines_figures_and_logic_do_not_count(home: Path) -> None:
    here = machine()
    assert own_runs(home).runs == 3
    facts = here.facts.model_copy(update={"cpu": "another"})
    again = here.calibration.model_copy(update={"took_s": 9.0})
    for other in ({"facts": facts}, {"calibration": again}):
        assert own_runs(home, on=here.model_copy(update=other)) == NO_RUNS
    assert own_runs(home, logic=LOGIC_VERSION + 1) == NO_RUNS


def test_like_is_corrected_by_like(home: Path) -> None:
    assert own_runs(home, "train.optimizer=muon").runs == 3
    for said in ("train.objective=sft", "train.optimizer=adamw", "train.precision=bf16"):
        assert own_runs(home, said) == NO_RUNS
    assert own_runs(home, time_ratio=1.1) == NO_RUNS  # a rehearsed step
    for number, base in enumerate(("none", "none", "none", "int8", "int8")):
        plan = plan_of(home, "e", *FIXED, data=number)
        tuned = LoraKeys(rank=4 + number, base=base)
        config = plan.decisions.train.model_copy(update={"lora": tuned})
        update = {"decisions": plan.decisions.model_copy(update={"train": config})}
        adapted = plan.model_copy(update=update)
        keep(home, "e", adapted, number)
        train(home, "e", adapted, 1.5, data=number)
    lora = ("model.base=one", "train.lora.rank=4", "train.optimizer=muon")
    assert own_runs(home, *lora).runs == 3
    assert own_runs(home, *lora, "train.lora.base=int8") == NO_RUNS


def keep(home: Path, name: str, plan: Plan, number: int) -> None:
    """A plan as if it had been made of a recipe."""
    key = RecordKey("plan", {"number": number}, {}, LOGIC_VERSION)
    with RecordStore(home, name).write(key) as writer:
        write_sealed(writer.path / PLAN_FILE, plan.model_dump(mode="json"))


def test_damaged_records_and_runs_without_a_plan_are_passed_over(home: Path) -> None:
    (manifest,) = (home / "a" / "train").glob("*/manifest.json")
    manifest.write_text("{")
    assert own_runs(home) == NO_RUNS


def test_the_newest_nine_count(home: Path) -> None:
    for number in range(10):
        plan = plan_of(home / "other", f"r{number}", *FIXED)
        before = plan.machine.get("corrected", {"step_s": 1.0})["step_s"]
        train(home / "other", f"r{number}", plan, (2.0 if number else 0.5) / before)
    assert own_runs(home / "other") == OwnRuns(9, 2.0, 1.0)
