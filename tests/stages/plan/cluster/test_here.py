"""This machine among the devices: what a recipe's plan says of a step, `--device here` says too."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from tests.stages.plan.conftest import choices, machine, recipe, text_facts
from tests.stages.plan.test_choose import chosen
from whorl import planning
from whorl.core.errors import PlanError, SpecError
from whorl.launch import calibrate
from whorl.stages.plan.candidate import Candidate
from whorl.stages.plan.cluster.here import here
from whorl.stages.plan.cluster.job import Layout, Lora, TrainingJob
from whorl.stages.plan.cluster.learning import Learning
from whorl.stages.plan.cluster.memory import needed_for, rank_memory
from whorl.stages.plan.cluster.step import step_time
from whorl.stages.plan.hardware import Machine
from whorl.stages.plan.output.schema import ClusterPlan, MemoryReport, ServingAnswer
from whorl.stages.plan.output.text import render

ASKED = {"--model": "qwen3-0.6b", "--device": "here", "--seq": "256"}
ASKED |= {"--global-batch-tokens": "4k", "--tokens": "1M"}


def two_lanes() -> Machine:
    found = machine().calibration.model_copy(update={"choices": choices(2)})
    return machine().model_copy(update={"calibration": found})


def job_of(best: Candidate, on: Machine, **changes: Any) -> TrainingJob:
    """The candidate as a job of the other planner, its documents shorter than its rows."""
    layout = Layout(1, shard="none", micro_batch=best.micro_batch_rows)
    batch = best.batch_tokens // best.seq_len
    job = TrainingJob(best.shape, here(on), layout, best.seq_len, batch, precision="fp32")
    changes = {"optimizer": "muon", "document_tokens": 64, **changes}
    return replace(job, stack="whorl", **changes)


@pytest.mark.parametrize(
    "on", [machine(), two_lanes(), machine(speed=4)], ids=["one", "two", "fast"]
)
@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_a_job_here_is_what_a_recipe_plans(on: Machine, optimizer: str) -> None:
    data = text_facts(document_bytes=300)
    asked = recipe("train.seq_len=256", f"train.optimizer={optimizer}")
    best = chosen(asked, on, data)
    job = job_of(best, on, optimizer=optimizer)
    step, memory = step_time(job), rank_memory(job)
    assert step.step_s == pytest.approx(best.step_s)
    assert sum(step.parts_s.values()) == pytest.approx(step.step_s)
    assert step.low_s < step.step_s < step.high_s
    pages = 2 * min(best.tokens, data.unique_tokens(best.shape.vocab_size))
    assert memory.peak_bytes + pages == pytest.approx(best.peak_bytes, abs=1)
    assert sum(memory.parts.values()) == memory.peak_bytes == needed_for(job)


def test_a_reference_is_read_and_held() -> None:
    """Of DPO: a third more FLOPs a step, the weights twice."""
    on = machine()
    job = job_of(chosen(recipe()), on)
    of_dpo = replace(job, learning=Learning(kind="dpo", other="model"))
    with_reference = step_time(of_dpo).step_s / step_time(job).step_s
    assert with_reference == pytest.approx(4 / 3, rel=0.01)
    held = [rank_memory(each).parts["weights"] for each in (of_dpo, job)]
    assert held[0] == 2 * held[1]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"stack": "hf"}, "--stack hf"),
        ({"precision": "fp16"}, "--precision fp16"),
        ({"optimizer": "adamw_8bit"}, "adamw_8bit"),
        ({"lora": Lora(base="int4"), "task": "lora"}, "int4"),
        ({"layout": Layout(2)}, "more than one device"),
        ({"learning": Learning(kind="grpo", completion_tokens=8)}, "grpo"),
    ],
)
def test_what_is_not_done_here_is_refused(changes: dict[str, Any], named: str) -> None:
    job = job_of(chosen(recipe()), machine())
    with pytest.raises(SpecError, match=named):
        step_time(replace(job, **changes))


def test_the_command_answers_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibrate, "this_machine", lambda home: machine())
    plan = planning.answer(ASKED)
    assert isinstance(plan, ClusterPlan)
    assert (plan.device.name, plan.device.memory_bytes) == ("here", machine().facts.memory_bytes)
    assert plan.question.count == 1 and plan.question.stack == "whorl"
    assert any("calibration of this machine" in line for line in plan.warnings)
    again = ClusterPlan.model_validate_json(plan.model_dump_json())
    assert again.chosen == plan.chosen
    found = planning.answer({**ASKED, "--why-oom": True})
    assert isinstance(found, MemoryReport) and found.fits and found.elsewhere == []
    with (console := Console(width=200)).capture() as said:
        console.print(render(found))
    assert "resident memory" in said.get() and "nvidia" not in said.get()
    asked = {"--model": "smollm2-135m", "--device": "here"}
    served = planning.answer({**asked, "--serve": "users=1,ttft=20s,tokens_per_s=1"})
    assert isinstance(served, ServingAnswer) and served.device.name == "here"
    assert served.serving.engine == "cpu"


def test_a_busy_machine_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibrate, "this_machine", lambda home: machine(noise=0.4))
    plan = planning.answer(ASKED)
    assert isinstance(plan, ClusterPlan) and any("was busy" in line for line in plan.warnings)


def test_what_is_too_large_here_is_told_how_to_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    small = machine(memory_bytes=4 * 2**30)
    monkeypatch.setattr(calibrate, "this_machine", lambda home: small)
    with pytest.raises(PlanError, match="on 1 here fits"):
        planning.answer({**ASKED, "--global-batch-tokens": "64k"})
    tuned = planning.answer({**ASKED, "--tune": "lora", "--base-format": "int8"})
    assert isinstance(tuned, ClusterPlan) and tuned.chosen.memory.peak_bytes < 4 * 2**30
