"""This machine among the devices: what a recipe's plan says of a step, `--device here` says too."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from tests.stages.plan.conftest import choices, compiling, machine, recipe, text_facts
from tests.stages.plan.test_choose import chosen, situation
from tests.stages.plan.test_given import BASE, facts
from whorl import planning
from whorl.core.errors import PlanError, SpecError
from whorl.launch import calibrate
from whorl.spec.recipe import Budget
from whorl.stages.plan.candidate import Candidate, load_of, make_candidate
from whorl.stages.plan.candidate import fits as recipe_fits
from whorl.stages.plan.cluster.devices import device
from whorl.stages.plan.cluster.here import here
from whorl.stages.plan.cluster.job import Layout, Lora, TrainingJob
from whorl.stages.plan.cluster.learning import Learning
from whorl.stages.plan.cluster.memory import fits, rank_memory
from whorl.stages.plan.cluster.step import step_time
from whorl.stages.plan.hardware import Machine
from whorl.stages.plan.output.schema import ClusterPlan, MemoryReport, ServingAnswer
from whorl.stages.plan.output.text import render

ASKED = {"--model": "smollm2-135m", "--device": "here", "--seq": "256"}
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
    "on",
    [machine(), two_lanes(), machine(speed=4), compiling(machine(), 0.3, compiling_s=1.0)],
    ids=["one", "two", "fast", "compiled"],
)
@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_a_job_here_is_what_a_recipe_plans(on: Machine, optimizer: str) -> None:
    data = text_facts(document_bytes=300)
    asked = recipe("train.seq_len=256", f"train.optimizer={optimizer}")
    best = chosen(asked, on, data)
    job = job_of(best, on, optimizer=optimizer)
    assert best.compiled == bool(on.calibration.settings["compiled"])
    step, memory = step_time(job), rank_memory(job)
    assert step.step_s == pytest.approx(best.step_s)
    assert sum(step.parts_s.values()) == pytest.approx(step.step_s)
    assert step.low_s < step.step_s < step.high_s
    pages = 2 * min(best.tokens, data.unique_tokens(best.shape.vocab_size))
    assert memory.peak_bytes + pages == pytest.approx(best.peak_bytes, abs=1)
    assert sum(memory.parts.values()) == memory.peak_bytes


def test_what_a_recipe_refuses_for_its_memory_does_not_fit_here() -> None:
    """Between the peak and the high end of its interval, and beyond that."""
    peak = rank_memory(job_of(chosen(recipe()), machine())).peak_bytes
    for share in (0.98, 1.1, 1.2):
        on = machine(memory_bytes=round(share * peak))
        best = chosen(recipe())
        by_recipe = recipe_fits(situation(recipe(), on), load_of(situation(recipe()), best))
        assert fits(job_of(best, on)) == by_recipe == (share > 1.15)


def test_lanes_that_do_not_fit_are_halved_as_a_recipe_halves_them() -> None:
    asked, on = recipe("train.seq_len=256", "train.optimizer=muon"), two_lanes()
    wide = chosen(asked, on)
    both = rank_memory(job_of(wide, on)).high_bytes
    facts = on.facts.model_copy(update={"memory_bytes": round(0.99 * both)})
    small = on.model_copy(update={"facts": facts})
    asked = asked.model_copy(update={"budget": Budget(tokens=wide.tokens)})
    best = make_candidate(situation(asked, small), wide.shape, 256)
    job = job_of(replace(best, micro_batch_rows=wide.micro_batch_rows), small, document_tokens=0)
    assert rank_memory(job).high_bytes < both
    assert best.micro_batch_rows == wide.micro_batch_rows
    assert step_time(job).step_s == pytest.approx(best.step_s)


@pytest.mark.parametrize("lora", [None, Lora(rank=1, targets="all")])
def test_a_reference_is_what_a_recipe_of_dpo_plans(lora: Lora | None) -> None:
    keys = ("model.base=smollm2", "train.objective=dpo", "budget.train_time=null")
    keys += ("train.steps=50", "train.seq_len=256", "train.batch_tokens=2048")
    asked = recipe(*keys, *(() if lora is None else ("train.lora.rank=1",)))
    tokens = facts().tokens[0].model_copy(update={"trained_share": 1.0})  # as a flag's job has it
    data = facts().model_copy(update={"tokens": (tokens,)})
    given = replace(situation(asked, machine(), data), base=BASE)
    best = make_candidate(given, BASE.shape, 256)
    job = job_of(best, machine(), optimizer="adamw", task="lora" if lora else "sft", lora=lora)
    other = "model" if lora is None else "adapters"
    job = replace(job, learning=Learning(kind="dpo", other=other), per_example=2)  # type: ignore[arg-type]
    mixed = replace(job, document_tokens=100)
    assert step_time(mixed).step_s == pytest.approx(best.step_s, rel=1e-6)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"stack": "hf"}, "--stack hf"),
        ({"precision": "fp16"}, "--precision fp16"),
        ({"optimizer": "adamw_8bit"}, "adamw_8bit"),
        ({"lora": Lora(base="int4"), "task": "lora"}, "int4"),
        ({"layout": Layout(2)}, "a layout of 2 devices"),
        ({"layout": Layout(1, recompute="full")}, "--layout recompute=full"),
        ({"flash_attention": False}, "--attention eager"),
        ({"loss": "fused"}, "--loss fused"),
        ({"step_in_backward": True}, "--step-in-backward"),
        ({"pure_low_precision": True}, "weights in 2 bytes"),
        ({"learning": Learning(kind="dpo", other="stored"), "per_example": 2}, "reference=stored"),
        ({"learning": Learning(kind="dpo", other="model")}, "sequences=1"),
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


def printed(found: planning.Answer) -> str:
    with (console := Console(width=200)).capture() as said:
        console.print(render(found))
    return said.get()


def test_what_is_served_here_is_what_whorl_serves_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibrate, "this_machine", lambda home: machine())
    asked = {"--model": "smollm2-135m", "--device": "here"}
    for users in (1, 2):
        served = planning.answer(
            {**asked, "--serve": f"users={users},ttft=60s,tokens_per_s=0.1,output=8"}
        )
        assert isinstance(served, ServingAnswer)
        assert served.serving.quantisation in ("fp32", "int8")  # what compress tries by itself
        figure = served.serving.replicas
        assert (figure.value, figure.low, figure.high) == (1, 1, 1)
        assert "fp8" not in printed(served) and "$" not in printed(served)
    for word in ("format", "quantization", "quantisation"):
        with pytest.raises(SpecError, match=r"fp8.*expected: fp32, int8, int4"):
            planning.answer({**asked, "--serve": f"{word}=fp8"})
        four = planning.answer({**asked, "--serve": f"{word}=int4,ttft=60s,tokens_per_s=0.1"})
        assert isinstance(four, ServingAnswer) and four.serving.quantisation == "int4"
    with pytest.raises(SpecError, match=r"one machine.*tp=3"):
        planning.answer({**asked, "--serve": "tp=3"})
    with pytest.raises(PlanError, match=r"such machines would; do: --serve users=\d+") as many:
        planning.answer({**asked, "--serve": "users=900,ttft=60s,tokens_per_s=0.5,output=8"})
    most = str(many.value).rpartition("users=")[2].partition(",")[0]
    again = f"users={most},ttft=60s,tokens_per_s=0.5,output=8"
    assert isinstance(planning.answer({**asked, "--serve": again}), ServingAnswer)
    with pytest.raises(PlanError, match=r"do: --serve rate=") as often:
        planning.answer({**asked, "--serve": "rate=100,ttft=60s,tokens_per_s=0.5,output=8"})
    most = str(often.value).rpartition("rate=")[2].partition(",")[0]
    again = f"rate={most},ttft=60s,tokens_per_s=0.5,output=8"
    assert isinstance(planning.answer({**asked, "--serve": again}), ServingAnswer)
    with pytest.raises(PlanError) as slow:
        planning.answer({**asked, "--serve": "users=1,tokens_per_s=100000,format=fp32"})
    assert "fp8" not in str(slow.value) and "nvfp4" not in str(slow.value)


def test_what_a_machine_costs_and_draws_is_not_said_where_nobody_knows_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(calibrate, "this_machine", lambda home: machine())
    plan = planning.answer({**ASKED, "--serve": "users=1,ttft=60s,tokens_per_s=1"})
    told = printed(plan)
    for words in ("$", "0 W", "0 USD", "kWh", "Wh"):
        assert words not in told, words
    assert "its price is not known, so no money is reckoned: --usd-per-device-hour" in told
    free = printed(planning.answer({**ASKED, "--usd-per-device-hour": "0", "--serve": "users=1"}))
    assert "money" in free and "$0.00" in free and "0 USD per device and hour" in free
    assert "price is not known" not in free and "draws is not known" in free
    priced = printed(planning.answer({**ASKED, "--usd-per-device-hour": "0.5"}))
    assert "money" in priced and "0.5 USD per device and hour" in priced and "Wh" not in priced
    known = printed(planning.answer({**ASKED, "--device": "h100-sxm", "--count": "1"}))
    assert "money" in known and "Wh" in known


def test_what_is_missing_is_said_for_one_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibrate, "this_machine", lambda home: machine())
    asked = {"--model": "smollm2-135m", "--device": "here"}
    with pytest.raises(SpecError, match="--seq, --global-batch-tokens") as caught:
        planning.answer(asked)
    told = str(caught.value)
    assert "--count" not in told and "8192" not in told
    words = told.partition("such as ")[2].partition(";")[0].split()
    hint = dict(zip(words[::2], words[1::2], strict=True))
    assert isinstance(planning.answer({**asked, **hint}), ClusterPlan)
    with pytest.raises(SpecError, match=r"such as --count 64 --seq 8192"):
        planning.answer({"--model": "smollm2-135m", "--device": "h100-sxm"})


def test_here_may_serve_and_train_in_one_question(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibrate, "this_machine", lambda home: machine())
    serve = {"--serve": "users=1,ttft=60s,tokens_per_s=1"}
    for named, expected in (("", "here"), (",device=h100", "h100-sxm"), (",device=HERE", "here")):
        plan = planning.answer({**ASKED, "--serve": serve["--serve"] + named})
        assert isinstance(plan, ClusterPlan) and plan.serving is not None
        assert plan.serving.device == expected
    alone = {"--model": "smollm2-135m", "--device": "h100", **serve}
    alone["--serve"] += ",device=here"
    served = planning.answer(alone)
    assert isinstance(served, ServingAnswer) and served.device.name == "here"


def test_here_is_known_by_any_spelling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibrate, "this_machine", lambda home: machine())
    plan = planning.answer({**ASKED, "--device": " Here"})
    assert isinstance(plan, ClusterPlan) and plan.device.name == "here"
    with pytest.raises(SpecError, match="did you mean here"):
        device("heer")


@pytest.mark.parametrize("flag", [{"--measured": "mbs=1,step=1s"}, {"--tables": True}])
def test_steps_measured_elsewhere_do_not_go_with_here(
    flag: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibrate, "this_machine", lambda home: machine())
    with pytest.raises(SpecError, match="measured on it"):
        planning.answer({**ASKED, **flag})


@pytest.mark.parametrize("taken", ["fp32", "bf16"])
def test_the_precision_is_that_which_the_calibration_took(
    taken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """bf16 was timed on both machines."""
    update = {"choices": choices(1, precision=taken)}
    found = machine().calibration.model_copy(update=update)
    on = machine().model_copy(update={"calibration": found})
    assert {rate.precision for rate in found.matmuls} == {"fp32", "bf16"}
    monkeypatch.setattr(calibrate, "this_machine", lambda home: on)
    plan = planning.answer(ASKED)
    assert isinstance(plan, ClusterPlan) and plan.question.precision == taken


def test_a_busy_machine_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibrate, "this_machine", lambda home: machine(noise=0.4))
    plan = planning.answer(ASKED)
    assert isinstance(plan, ClusterPlan) and any("was busy" in line for line in plan.warnings)


def test_what_is_too_large_here_is_told_how_to_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    large = {**ASKED, "--model": "qwen3-0.6b"}
    small = machine(memory_bytes=4 * 2**30)
    monkeypatch.setattr(calibrate, "this_machine", lambda home: small)
    with pytest.raises(PlanError, match="on 1 here fits"):
        planning.answer({**large, "--global-batch-tokens": "64k"})
    tuned = planning.answer({**large, "--tune": "lora", "--base-format": "int8"})
    assert isinstance(tuned, ClusterPlan) and tuned.chosen.memory.peak_bytes < 4 * 2**30
