"""Plans of a given shape: a base is taken as it is, and what is open follows from data and time."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from tests.stages.plan.conftest import GIB, machine, recipe, text_facts
from whorl.arch.dense import dense_shape
from whorl.arch.shape_counts import count_shape
from whorl.core.context import StageContext
from whorl.core.errors import PlanError, SpecError
from whorl.core.records import RecordStore
from whorl.spec.load import parse_recipe
from whorl.spec.resolved import TrainConfig
from whorl.stages.plan.data import DataFacts
from whorl.stages.plan.given import GivenBase, NotRehearsed, Rehearsal, adapters_of, seq_lens
from whorl.stages.plan.memory import peak_memory
from whorl.stages.plan.plan import Plan
from whorl.stages.plan.run import run
from whorl.stages.plan.step_time import Load

SMOLLM2 = dense_shape(
    family="llama",
    layers=30,
    width=576,
    heads=9,
    kv_heads=3,
    head_dim=64,
    ffn_width=1536,
    vocab_size=49_152,
    max_seq_len=8_192,
)
BASE = GivenBase("smollm2", "b" * 64, SMOLLM2)


def facts(num_tokens: int = 200_000) -> DataFacts:
    """Documents of 100 tokens each, under the base's vocabulary."""
    found = text_facts()
    tokens = found.tokens[0].model_copy(
        update={
            "vocab_size": SMOLLM2.vocab_size,
            "tokens_per_document": 100.0,
            "document_tokens": tuple(range(50, 150)),
        }
    )
    update = {
        "tokens": (tokens,),
        "num_documents": num_tokens // 100,
        "digest": f"{num_tokens:064d}",
    }
    return found.model_copy(update=update)


@pytest.fixture
def planned(context: StageContext) -> Any:
    def made(
        *overrides: str, base: GivenBase = BASE, data: DataFacts | None = None, **on: Any
    ) -> Plan:
        asked = recipe("model.base=smollm2", *overrides)
        return Plan.load(run(context, asked, machine(**on), data or facts(), None, base))

    return made


@pytest.fixture
def context(tmp_path: Any) -> StageContext:
    return StageContext(RecordStore(tmp_path, "taught"))


def test_the_base_keeps_its_shape_and_tokens(planned: Any) -> None:
    plan = planned("budget.train_time=30min")
    assert plan.decisions.shape == SMOLLM2
    assert plan.decisions.prepare.vocab_size == 49_152
    assert plan.predictions["parameters"].value == count_shape(SMOLLM2).total == 134_515_008
    assert plan.predictions["heldout_bpb"].value is None
    train = plan.decisions.train
    assert train.optimizer == "adamw" and train.lanes == 1
    rates = (train.learning_rate, train.embedding_learning_rate, train.norm_learning_rate)
    assert set(rates) == {1e-4}  # not the 0.01 of norms that are trained from nothing
    assert train.warmup_steps + train.decay_steps == train.steps
    assert plan.reasons["model.layers"] == "smollm2 has it"


def test_a_base_is_asked_with_its_own_context_not_with_the_length_of_rows(planned: Any) -> None:
    """Rows of 64 tokens left no room for a question beside an answer of 64."""
    decisions = planned("train.seq_len=64").decisions
    assert (decisions.train.seq_len, decisions.evaluate.window) == (64, 512)


def test_without_a_budget_three_passes_are_planned(planned: Any) -> None:
    plan = planned("budget.train_time=null")
    assert plan.predictions["epochs"].value == pytest.approx(3, rel=0.02)
    few = planned("budget.train_time=null", data=facts(500))
    assert few.decisions.train.steps == 10  # fewer teach nothing


def test_a_budget_is_kept_and_small_data_end_before_it(planned: Any) -> None:
    plan = planned("budget.train_time=30min")
    assert 0.9 * 1800 < plan.predictions["train_s"].value <= 1800
    short = planned("budget.train_time=30min", data=facts(20_000))
    assert short.predictions["epochs"].value == pytest.approx(3, rel=0.05)
    assert short.predictions["train_s"].value < 900


def test_what_a_rehearsal_found_is_what_is_planned(planned: Any) -> None:
    asked: list[TrainConfig] = []

    def rehearse(shape: Any, config: TrainConfig, *rows: Any) -> Rehearsal:
        asked.append(config)
        step_s = 1.0 + config.batch_tokens / 256  # not in proportion: a ratio would not do
        return Rehearsal(step_s=step_s, peak_bytes=5 * GIB, took_s=20.0)

    plan = planned("budget.train_time=60min", base=replace(BASE, rehearse=rehearse))
    train = plan.decisions.train
    step_s = 1.0 + train.batch_tokens / 256
    assert plan.predictions["step_s"].value == pytest.approx(step_s, rel=0.05)
    assert plan.predictions["peak_bytes"].value == pytest.approx(5 * GIB, rel=0.03)
    assert plan.predictions["train_s"].value <= 3600
    assert asked[-1].batch_tokens == train.batch_tokens and len(asked) <= 2


def test_what_merging_took_is_part_of_the_training(planned: Any) -> None:
    def train_s(ending_s: float) -> float:
        found = Rehearsal(step_s=2.0, peak_bytes=GIB, took_s=9.0, ending_s=ending_s)
        base = replace(BASE, rehearse=lambda *load: found, digest=f"{ending_s:064.0f}")
        fixed = ("budget.train_time=null", "train.steps=30", "train.batch_tokens=2048")
        return planned(*fixed, base=base).predictions["train_s"].value

    assert train_s(21.0) - train_s(0.0) == pytest.approx(21.0)


def test_a_step_that_could_not_be_rehearsed_is_told(planned: Any) -> None:
    def told(rehearse: Any, digest: str, *asked: str) -> str:
        base = replace(BASE, rehearse=rehearse, digest=digest * 64)
        plan = planned("budget.train_time=60min", *asked, base=base)
        return " ".join(each for each in plan.warnings if "was not rehearsed" in each)

    def later(shape: Any, config: TrainConfig, *rows: Any) -> Rehearsal | NotRehearsed:
        """The first batch is done, and calls for another one, which is not."""
        done.append(config)
        if len(done) > 1:
            return NotRehearsed(reason="the disk is gone")
        return Rehearsal(step_s=40.0, peak_bytes=GIB, took_s=9.0)

    done: list[TrainConfig] = []
    failed = NotRehearsed(reason="not enough memory: you tried to allocate 9 bytes")
    assert "(not enough memory: you tried to allocate 9 bytes)" in told(lambda *load: failed, "c")
    assert not told(lambda *load: Rehearsal(step_s=2.0, peak_bytes=GIB, took_s=9.0), "d")
    assert "(the disk is gone)" in (found := told(later, "e")) and "of another batch" in found
    slow = told(lambda *load: failed, "f", "train.batch_tokens=16384", "train.seq_len=128")
    assert "(a step takes about " in slow


def test_what_does_not_fit_is_refused_before_it_is_rehearsed(planned: Any) -> None:
    def rehearse(*load: Any) -> Rehearsal:
        raise AssertionError("a load that does not fit was tried")

    small = replace(BASE, rehearse=rehearse)
    with pytest.raises(PlanError, match="does not fit into the memory"):
        planned("budget.train_time=60min", base=small, memory_bytes=2 * GIB)


def test_a_base_too_large_is_told_of_lighter_ways_not_of_other_sizes(planned: Any) -> None:
    """What is advised is what then fits."""
    memory = {"memory_bytes": round(3.6 * GIB)}
    with pytest.raises(PlanError, match=r"do: .*train\.lora\.rank=16") as caught:
        planned("budget.train_time=60min", **memory)
    assert "model." not in str(caught.value)
    planned("budget.train_time=60min", "train.lora.rank=16", **memory)


def test_what_reads_beside_the_trained_model_is_counted(planned: Any) -> None:
    """A third of a step for dpo's reference, half for adapters, whose backward is half; and a
    teacher three times as deep."""
    fixed = ("train.steps=50", "train.seq_len=256", "train.batch_tokens=2048")
    open_ended = ("budget.train_time=null", "prepare.vocab_size=auto")

    def costs(*overrides: str, **on: Any) -> tuple[float, float]:
        found = planned(*fixed, *open_ended, *overrides, **on).predictions
        return found["step_s"].value or 0, found["peak_bytes"].value or 0

    (sft_s, sft), (dpo_s, dpo) = costs("train.objective=sft"), costs("train.objective=dpo")
    assert dpo_s / sft_s == pytest.approx(4 / 3, rel=0.02)
    assert dpo - sft == pytest.approx(4 * 134_515_008, rel=0.01)
    lora = "train.lora.rank=1"
    low_s, low = costs(lora, "train.objective=sft")
    both_s, both = costs(lora, "train.objective=dpo")
    assert both_s / low_s == pytest.approx(3 / 2, rel=0.03) and both == low
    teacher = replace(SMOLLM2, layers=90)
    asked = replace(BASE, find_teacher=lambda: teacher)
    distil = ("train.objective=distil", "train.distil.teacher=big", "train.distil.top_k=10")
    taught_s, taught = costs(*distil, base=asked)
    assert 1 + 1.5 / 3 < taught_s / sft_s < 1 + 3 / 3
    assert taught - sft == pytest.approx(4 * count_shape(teacher).total, rel=0.01)


def test_a_teacher_is_asked_about_each_row_once(planned: Any) -> None:
    """Half the steps of two passes hear of nothing new; a budget buys as many more."""
    asked = replace(BASE, find_teacher=lambda: SMOLLM2)
    distil = ("train.objective=distil", "train.distil.teacher=big", "prepare.vocab_size=auto")
    rows = ("train.seq_len=256", "train.batch_tokens=2048", "train.lora.rank=1")
    data = facts(100 * 2048)

    def steps(count: int, *overrides: str, **on: Any) -> Plan:
        fixed = ("budget.train_time=null", f"train.steps={count}")
        return planned(*fixed, *rows, *overrides, data=data, **on)

    own_s = steps(100, "train.objective=sft").predictions["step_s"].value
    once_s = steps(100, *distil, base=asked).predictions["step_s"].value
    twice_s = steps(200, *distil, base=asked).predictions["step_s"].value
    assert once_s / own_s == pytest.approx(3 / 2, rel=0.03)  # forwards of two, a backward of one
    assert twice_s - own_s == pytest.approx((once_s - own_s) / 2, rel=0.02)
    time_s = steps(200, *distil, base=asked).predictions["train_s"].value
    budget = f"budget.train_time={math.ceil(time_s)}s"
    found = planned(budget, *rows, *distil, base=asked, data=data)
    assert abs(found.decisions.train.steps - 200) <= 2
    assert found.predictions["train_s"].value <= math.ceil(time_s)


def test_what_an_import_leaves_in_the_process_is_counted(planned: Any) -> None:
    """With a rehearsal, whose process imported nothing, and without."""

    def rehearse(*load: Any) -> Rehearsal:
        return Rehearsal(step_s=2.0, peak_bytes=2 * GIB, took_s=9.0)

    for base in (BASE, replace(BASE, rehearse=rehearse, digest="c" * 64)):
        peaks = []
        for left_bytes in (0, GIB // 4):
            of = replace(base, left_bytes=left_bytes, digest=base.digest[:-1] + f"{left_bytes % 7}")
            plan = planned("budget.train_time=60min", "train.batch_tokens=2048", base=of)
            peaks.append(plan.predictions["peak_bytes"].value)
        assert peaks[1] - peaks[0] == pytest.approx(GIB // 4, rel=0.01)


def test_validations_of_adapters_are_dearer_beside_a_step(planned: Any) -> None:
    """A forward is a third of a step of every weight, and half of one of adapters alone."""

    def rest_s(*overrides: str) -> tuple[float, float]:
        fixed = ("budget.train_time=null", "train.steps=10", "train.seq_len=256")
        batch = ("train.batch_tokens=2048", "train.validate_rows=8000")
        found = planned(*fixed, *batch, *overrides).predictions
        step_s = found["step_s"].value
        return step_s, found["train_s"].value - 10 * step_s

    (full_s, full), (low_s, low) = rest_s(), rest_s("train.lora.rank=1")
    assert (low / low_s) / (full / full_s) == pytest.approx(3 / 2, rel=0.05)


def test_another_base_is_another_plan(context: StageContext) -> None:
    asked = recipe("model.base=x", "budget.train_time=30min")
    records = [
        run(context, asked, machine(), facts(), None, replace(BASE, digest=digest * 64))
        for digest in "ab"
    ]
    assert records[0].digest != records[1].digest
    assert [record.inputs["base"][0] for record in records] == ["a", "b"]


def test_what_is_said_counts_though_it_is_the_default(planned: Any) -> None:
    """Of a base other values are usual; both plans are of one home."""
    usual = planned("budget.train_time=30min").decisions
    assert (usual.train.validate_rows, usual.train.norm_learning_rate) == (4, 1e-4)
    assert usual.evaluate.max_bytes == 60_000
    said = planned(
        "budget.train_time=30min",
        "train.validate_rows=32",
        "train.norm_learning_rate=0.01",
        "evaluate.max_bytes=600k",
    ).decisions
    assert (said.train.validate_rows, said.train.norm_learning_rate) == (32, 0.01)
    assert said.evaluate.max_bytes == 600_000


@pytest.mark.parametrize(
    ("lengths", "longest", "expected"),
    [
        ((30,) * 100, 8192, [64]),
        ((300,) * 100, 8192, [512, 256]),
        ((30,) * 99 + (9000,), 8192, [64]),
        ((9000,) * 100, 8192, [256]),
        ((300,) * 100, 128, [128]),
    ],
)
def test_rows_hold_documents_whole(
    lengths: tuple[int, ...], longest: int, expected: list[int]
) -> None:
    assert list(seq_lens(lengths, longest)) == expected


def test_rows_longer_than_the_base_reads_are_refused(planned: Any) -> None:
    with pytest.raises(SpecError, match=r"longer than smollm2 reads.*at most 8192"):
        planned("budget.train_time=30min", "train.seq_len=8193")


@pytest.mark.parametrize("key", ["model.layers=2", "model.width=64", "prepare.vocab_size=300"])
def test_sizes_beside_a_base_are_refused(key: str) -> None:
    with pytest.raises(SpecError, match=rf"{key.partition('=')[0]} beside model.base"):
        recipe("model.base=smollm2", key)


def test_nothing_is_forgotten_without_a_base() -> None:
    source = {"name": "x", "data": [{"source": "x"}], "budget": {"tokens": 1000}}
    with pytest.raises(SpecError, match=r"evaluate\.max_forgetting needs model\.base"):
        parse_recipe({**source, "evaluate": {"max_forgetting": "5%"}})


def test_muon_needs_a_rate_of_its_own(planned: Any) -> None:
    with pytest.raises(SpecError, match="no learning rate is known for going on"):
        planned("train.optimizer=muon", "budget.train_time=30min")
    plan = planned("train.optimizer=muon", "budget.train_time=30min", "train.learning_rate=0.001")
    assert plan.decisions.train.learning_rate == 0.001
    assert plan.decisions.train.norm_learning_rate == 1e-4


def test_adapters_take_the_memory_of_adapters() -> None:
    """PEFT counts 4,884,480 parameters of rank 16 beside every linear layer of SmolLM2-135M."""
    asked = recipe("model.base=smollm2", "train.lora.rank=16")
    adapters = adapters_of(asked.train.lora, SMOLLM2, 256)
    assert adapters is not None and adapters.parameters == 4_884_480
    full = Load(SMOLLM2, 256, 2, optimizer="adamw")
    low = replace(full, adapters=adapters)
    assert low.state.weights == 4 * (134_515_008 + 4_884_480)
    assert low.state.gradients == 4 * 4_884_480
    assert low.state.optimizer_state == 8 * 4_884_480
    # Gradients and two moments of 130M weights less, and no gradient of the head's 28M.
    saved = peak_memory(full, 0).total - peak_memory(low, 0).total
    assert saved > 12 * (134_515_008 - 4_884_480)
    assert adapters_of(None, SMOLLM2, 256) is None


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("targets=[q_proj,query]", r"no linear layer.*found: query; expected: all, or.*v_proj"),
        ("targets=[lm_head]", r"no linear layer.*do: the head is a layer of its own only"),
        ("last_layers=31", r"last_layers is more than the model has.*at most 30"),
    ],
)
def test_adapters_that_the_base_has_no_place_for_are_refused(
    planned: Any, key: str, message: str
) -> None:
    """Before anything is measured or prepared."""
    with pytest.raises(SpecError, match=message):
        planned("budget.train_time=30min", f"train.lora.{key}")


def test_a_disturbed_rehearsal_counts_what_its_threads_did(planned: Any) -> None:
    def rehearse(shape: Any, config: TrainConfig, *rows: Any) -> Rehearsal:
        """Two threads that worked 4.2 s each of the 10 s that it took."""
        return Rehearsal(step_s=10.0, cpu_share=0.42, peak_bytes=3 * GIB, took_s=40.0)

    plan = planned(
        "train.steps=30", "budget.train_time=null", base=replace(BASE, rehearse=rehearse)
    )
    assert plan.predictions["step_s"].value == pytest.approx(4.4, rel=0.06)
    assert any("other work took the cores" in warning for warning in plan.warnings)
