"""plan.json: complete, reused, explained; the same whatever the machine was measured at."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.outside import install
from tests.stages.plan.conftest import compiling, machine, recipe, text_facts
from whorl.core.context import StageContext
from whorl.core.errors import PlanError, RecordError, SpecError
from whorl.core.records import Record
from whorl.spec.load import known_keys
from whorl.spec.recipe import Recipe
from whorl.stages.plan.data import DataFacts, TokenFacts
from whorl.stages.plan.hardware import Machine
from whorl.stages.plan.plan import Plan
from whorl.stages.plan.run import (
    PlanInputs,
    find_or_consider,
    find_or_make,
    plan_key,
    run,
    trial_vocab_sizes,
)
from whorl.stages.plan.table import format_value, render

EXACT = ("parameters", "train_tokens", "train_flops", "weight_bytes", "optimizer_bytes")
ESTIMATED = ("step_s", "train_s", "peak_bytes", "heldout_bpb")


# left open for later stages to resolve
OF_OTHERS = {"hardware", "serve.engine", "compress.search", "compress.formats"}


def plan_of(context: StageContext, asked: Recipe, on: Machine | None = None) -> Plan:
    return Plan.load(run(context, asked, on or machine(), text_facts()))


def auto_keys(value: Mapping[str, Any], prefix: str = "") -> set[str]:
    found: set[str] = set()
    for key, item in value.items():
        if isinstance(item, Mapping):
            found |= auto_keys(item, f"{prefix}{key}.")
        elif item == "auto":
            found.add(f"{prefix}{key}")
    return found


def test_every_auto_value_is_resolved_with_a_reason(context: StageContext) -> None:
    asked = recipe()
    plan = plan_of(context, asked)
    open_keys = auto_keys(asked.model_dump()) - OF_OTHERS
    assert open_keys == set(plan.reasons)
    assert all(plan.resolved[key] not in (None, "auto") for key in open_keys)
    assert set(plan.reasons) <= set(known_keys())


def test_keys_of_recipes_without_hardware_and_money_stay_as_they_were() -> None:
    facts = machine().facts
    config = plan_key(recipe(), facts, "data").config
    assert config["hardware"] == "auto"
    assert set(config["budget"]) == {"train_time", "tokens", "flops"}
    priced = {"hardware": {"usd_per_device_hour": 3}, "budget": {"usd": 0.3}}
    keys = [
        plan_key(recipe(*change, "budget.train_time=null", **priced), facts, "data").digest
        for change in ((), ("budget.usd=0.4",), ("hardware.usd_per_device_hour=4",))
    ]
    assert len(set(keys)) == 3


def test_given_values_have_no_reason_of_plan(context: StageContext) -> None:
    plan = plan_of(context, recipe("train.learning_rate=0.003", "train.seq_len=128"))
    assert "train.learning_rate" not in plan.reasons and "train.seq_len" not in plan.reasons
    assert plan.decisions.train.learning_rate == 0.003
    assert plan.decisions.train.seq_len == plan.decisions.prepare.seq_len == 128
    assert plan.decisions.evaluate.window == plan.decisions.shape.max_seq_len == 128


def test_figures_have_intervals(context: StageContext) -> None:
    predictions = plan_of(context, recipe()).predictions
    for name in EXACT:
        assert predictions[name].low == predictions[name].high == predictions[name].value
    for name in ESTIMATED:
        item = predictions[name]
        assert item.low is not None and item.high is not None and item.value is not None
        assert item.low < item.value < item.high


def test_a_token_s_cache_is_of_the_numbers_asked_for(context: StageContext) -> None:
    """At most those of the export: also where the choice of sizes is an earlier one."""
    plain = plan_of(context, recipe())
    small = plan_of(context, recipe("compress.cache=int8"))
    assert small.chosen_from == plain.chosen_from
    a = plain.decisions.shape
    numbers = 2 * a.layers * a.attention.kv_heads * a.attention.head_dim
    item = plain.predictions["kv_cache_bytes_per_token"]
    assert (item.low, item.value, item.high, item.note) == (*[4 * numbers] * 3, "")
    item = small.predictions["kv_cache_bytes_per_token"]
    assert a.attention.head_dim >= 32  # numbers of 8 bits, and 64 bits for every 32 of them
    assert (item.low, item.value, item.high) == (numbers * 5 / 4, numbers * 5 / 4, 4 * numbers)
    assert "if compress accepts it" in item.note


def test_decisions_fit_each_other(context: StageContext) -> None:
    decisions = plan_of(context, recipe()).decisions
    train = decisions.train
    assert train.batch_tokens % train.seq_len == 0
    assert decisions.shape.vocab_size == decisions.prepare.vocab_size
    assert 0 < train.warmup_steps < train.steps and 0 < train.decay_steps <= train.steps
    assert 1 <= train.micro_batch_rows <= train.batch_tokens // train.seq_len
    assert train.checkpoint_every_steps > 0 and 0 < train.validate_every_steps <= train.steps


def test_measuring_again_makes_no_other_plan(context: StageContext) -> None:
    first = run(context, recipe(), machine(), text_facts())
    again = run(context, recipe(), machine(speed=0.5), text_facts())
    assert again.digest == first.digest
    assert Plan.load(again).machine["calibration"] == machine().calibration.digest


def never(machine: Machine) -> Machine:
    raise AssertionError("compiled blocks are timed for a long training only")


def test_compiled_blocks_are_timed_for_a_long_training(context: StageContext) -> None:
    """And taken where they save more than compiling takes."""
    here, data = machine(), text_facts(num_bytes=3_000_000_000)
    hour, minutes = (recipe(f"budget.train_time={time}") for time in ("1h", "4min"))
    asked: list[float] = []

    def time_them(found: Machine) -> Machine:
        asked.append(1)
        return compiling(found, saved=0.08)

    long = Plan.load(run(context, hour, here, data, time_them))
    short = Plan.load(run(context, minutes, here, data, never))
    assert asked == [1] and long.decisions.train.compiled and not short.decisions.train.compiled
    assert "compiled blocks taken" in long.reasons["train.compiled"]
    assert "not timed" in short.reasons["train.compiled"]


@pytest.mark.parametrize(
    ("saved", "compiling_s", "change", "compiled"),
    [
        (0.1, 10.0, "train.compiled=auto", True),
        (0.1, 30.0, "train.compiled=auto", False),
        (0.02, 0.1, "train.compiled=auto", False),
        (0.1, 30.0, "train.compiled=true", True),
        (0.1, 10.0, "train.compiled=false", False),
    ],
)
def test_compiling_must_save_more_than_it_takes(
    context: StageContext, saved: float, compiling_s: float, change: str, compiled: bool
) -> None:
    """In four minutes a tenth is 24 s."""
    here, data = compiling(machine(), saved, compiling_s), text_facts(num_bytes=3_000_000_000)
    plan = Plan.load(run(context, recipe(change), here, data, never))
    assert plan.decisions.train.compiled == compiled
    usual = Plan.load(run(context, recipe("train.compiled=false"), here, data))
    steps, step_s = plan.decisions.train.steps, plan.predictions["step_s"].value
    assert step_s is not None and steps * step_s + compiled * compiling_s < 240
    if compiled and change.endswith("auto"):
        assert steps > usual.decisions.train.steps


def test_a_plan_that_is_there_needs_no_measuring_and_no_reading(context: StageContext) -> None:
    here, data = machine(), text_facts()
    asked: list[str] = []

    def measure() -> Machine:
        asked.append("machine")
        return here

    def gather() -> DataFacts:
        asked.append("data")
        return data

    def of(which: Recipe) -> PlanInputs:
        return PlanInputs(which, here.facts, data.digest, measure, gather, never)

    first, second = (find_or_make(context, of(recipe())) for _ in range(2))
    assert first.digest == second.digest and asked == ["machine", "data"]
    served = recipe("serve.port=9001")  # chosen from the same things
    third = find_or_make(context, of(served))
    other = recipe("serve.port=9002")
    fourth = find_or_consider(context, of(other))
    assert third.digest != first.digest and asked == ["machine", "data"]
    assert Plan.load(third).decisions.train == Plan.load(first).decisions.train
    assert fourth.decisions.serve.port == 9002


def test_what_passes_through_changes_no_choice(context: StageContext) -> None:
    """Another port, another tolerance: the same sizes and steps, though the machine is slower."""
    first = plan_of(context, recipe())
    changes = ("serve.port=9001", "compress.max_bpb_increase=2%", "evaluate.baselines=false")
    second = plan_of(context, recipe(*changes), machine(speed=0.5))
    assert second.decisions.train == first.decisions.train
    assert second.decisions.shape == first.decisions.shape
    assert second.decisions.serve.port == 9001
    assert second.decisions.compress.max_bpb_increase == 0.02
    assert not second.decisions.evaluate.baselines
    slower = plan_of(context, recipe("seed=1"), machine(speed=0.5))
    assert slower.decisions.train.steps < first.decisions.train.steps


@pytest.mark.parametrize("change", ["seed=1", "budget.train_time=5min", "model.layers=3"])
def test_another_recipe_is_another_plan(change: str) -> None:
    facts = machine().facts
    keys = {plan_key(asked, facts, "d" * 64).digest for asked in (recipe(), recipe(change))}
    assert len(keys) == 2
    assert plan_key(recipe(), facts, "e" * 64).digest not in keys


def test_the_name_and_place_of_data_do_not_matter() -> None:
    moved = recipe(name="other", data=[{"source": "elsewhere/notes.txt"}])
    facts = machine().facts
    assert plan_key(moved, facts, "d" * 64).digest == plan_key(recipe(), facts, "d" * 64).digest


def test_accuracy_is_not_predicted_and_says_why(context: StageContext) -> None:
    tokens = TokenFacts(
        vocab_size=512,
        used_ids=58,
        tokens_per_document=20,
        trained_share=0.1,
        bytes_per_token=None,
        document_tokens=(20,) * 50,
    )
    facts = text_facts(
        metric="accuracy", num_bytes=0, xz_bits_per_byte=None, num_documents=40_000
    ).model_copy(update={"tokens": (tokens,)})
    plan = Plan.load(run(context, recipe(), machine(), facts))
    quality = plan.predictions["heldout_bpb"]
    assert quality.value is None and "no law predicts accuracy" in quality.note
    assert quality.low is None and quality.high is None
    assert plan.law == {"used": False, "reason": "no law predicts accuracy"}
    assert plan.decisions.prepare.vocab_size == 64
    assert plan.decisions.train.seq_len <= 128
    assert plan.predictions["step_s"].value is not None


def test_warnings_reach_the_log(context: StageContext) -> None:
    lines: list[str] = []
    talking = StageContext(context.store, log=lines.append)
    run(talking, recipe(), machine(noise=0.8), text_facts())
    assert any("busy when it was measured" in line for line in lines)


def test_a_refusal_leaves_no_record(context: StageContext) -> None:
    with pytest.raises(PlanError):
        run(context, recipe("budget.train_time=2s", "model.width=768"), machine(), text_facts())
    assert list(context.store.all("plan")) == []


def test_a_damaged_plan_is_not_loaded(context: StageContext) -> None:
    record = run(context, recipe(), machine(), text_facts())
    path = record.path / "plan.json"
    path.write_text(path.read_text().replace("muon", "moon"))
    with pytest.raises(RecordError, match="damaged"):
        Plan.load(Record.load(record.path))


def test_the_table_shows_figures_reasons_and_warnings(context: StageContext) -> None:
    plan = plan_of(context, recipe(), machine(noise=0.8))
    out = io.StringIO()
    Console(file=out, width=160).print(render(plan))
    text = out.getvalue()
    steps = plan.decisions.train.steps
    for expected in (f"{steps:,} steps", "held-out bits per byte", "warning:", "train.steps"):
        assert expected in text
    assert not [name for name in plan.predictions if "_" in name and name in text]
    asked_first = ("held-out bits per byte", "training time", "time per step", "peak memory")
    places = [text.index(f"\n{title} ") for title in (*asked_first, "memory: weights")]
    assert places == sorted(places)


def test_values_are_written_as_people_write_them() -> None:
    assert format_value(0.1234, "s") == "123 ms"
    assert format_value(239.0, "s") == "3:59 min"
    assert format_value(3 * 2**30, "bytes") == "3.0 GiB"
    assert format_value(None, "bits/byte") == "—"
    assert format_value(1.2345, "bits/byte") == "1.234"


def test_trial_vocabularies() -> None:
    assert trial_vocab_sizes(recipe("prepare.vocab_size=3000"), 10**9) == (3000,)
    assert trial_vocab_sizes(recipe(), 100_000) == (512,)
    assert trial_vocab_sizes(recipe(), 30_000_000)[-1] == 4096


class Keeping:
    """What a package says of its optimiser."""

    matrix_moments: object


def keeping(moments: object, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """A recipe whose optimiser a package brings, which says this of itself."""
    install(folder, {"whorl.optimizers": {"keeping": f"{__name__}:Keeping"}})
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr(Keeping, "matrix_moments", moments, raising=False)
    return recipe("train.optimizer=keeping", "train.learning_rate=0.01")


@pytest.mark.parametrize("moments", [0, 1, 3])
def test_an_optimiser_from_outside_is_planned_with_what_it_keeps(
    context: StageContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moments: int
) -> None:
    plan = plan_of(context, keeping(moments, tmp_path, monkeypatch))
    a, found = plan.decisions.shape, plan.predictions
    matrices = a.layers * (4 * a.width**2 + 3 * a.width * a.ffn_width)
    others = found["parameters"].value - matrices  # AdamW's
    assert found["optimizer_bytes"].value == 4 * (moments * matrices + 2 * others)
    assert found["optimizer_bytes"].note == "keeping"


@pytest.mark.parametrize("moments", [None, -1, "two"])
def test_an_optimiser_that_does_not_say_what_it_keeps_is_refused(
    context: StageContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moments: object
) -> None:
    asked = keeping(moments, tmp_path, monkeypatch)
    with pytest.raises(SpecError, match="keeping does not say what it keeps"):
        plan_of(context, asked)
