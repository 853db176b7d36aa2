"""Records of training software against what their own projects say, and against each other."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace
from typing import get_args

import pytest

from whorl.arch.known_models import known_model
from whorl.arch.shape_counts import count_shape
from whorl.core.errors import SpecError
from whorl.model.head import CHUNK_ELEMENTS
from whorl.stages.plan.cluster.devices import device
from whorl.stages.plan.cluster.job import Layout, Lora, Optimizer, Stack, TrainingJob
from whorl.stages.plan.cluster.memory import rank_memory
from whorl.stages.plan.cluster.memory_activations import logit_bytes
from whorl.stages.plan.cluster.memory_states import MOMENT_BYTES
from whorl.stages.plan.cluster.step import step_time
from whorl.stages.plan.software import SOFTWARE, software

SHAPE = known_model("llama-3.1-8b")
TOTAL = count_shape(SHAPE).total
GIB = 2**30


def job(stack: Stack, devices: int = 1, shard: str = "none", **changes: object) -> TrainingJob:
    layout = Layout(devices, shard=shard, recompute="full", micro_batch=2)  # type: ignore[arg-type]
    one = TrainingJob(SHAPE, device("a100-80"), layout, 2048, 2 * devices, stack=stack)
    return replace(one, **changes)  # type: ignore[arg-type]


def states(one: TrainingJob) -> float:
    parts = rank_memory(one, "allocated").parts
    return sum(parts[name] for name in ("weights", "gradients", "optimizer"))


def test_every_stack_of_a_job_has_a_record() -> None:
    assert set(get_args(Stack)) == set(SOFTWARE)
    assert set(get_args(Optimizer)) == set(MOMENT_BYTES)
    with pytest.raises(FrozenInstanceError):
        software("hf").loss = "fused"  # type: ignore[misc]
    with pytest.raises(SpecError, match="unknown training software"):
        software("nosuch")
    assert software("TRL") is software("hf") and software("megatron-lm") is software("megatron")


@pytest.mark.parametrize("stack", sorted(SOFTWARE))
def test_every_software_has_time_and_memory(stack: Stack) -> None:
    for shard, devices in (("none", 1), ("zero2", 8), ("zero3", 8)):
        one = job(stack, devices, shard)
        assert step_time(one).step_s > 0
        assert rank_memory(one, "smi").peak_bytes > 0


@pytest.mark.parametrize(
    ("stack", "shard", "per_element"),
    [  # bytes per parameter on 64 ranks, by the projects' own papers and pages
        ("deepspeed", "none", 2 + 2 + 12),  # arXiv 1910.02054, section 3.1
        ("deepspeed", "zero2", 2 + (2 + 12) / 64),
        ("deepspeed", "zero3", (2 + 2 + 12) / 64),
        ("torchtitan", "zero3", (4 + 4 + 8) / 64),
        ("hf", "none", 4 + 4 + 8),  # transformers, "model training anatomy"
        ("megatron", "none", 2 + 4 + 12),  # Megatron-Core, distributed optimiser: 18
        ("megatron", "zero1", 2 + 4 + 12 / 64),  # 6 + 12 / d
    ],
)
def test_bytes_per_parameter(stack: Stack, shard: str, per_element: float) -> None:
    one = job(stack, 64, shard)
    assert states(one) / TOTAL == pytest.approx(per_element, rel=0.01)


@pytest.mark.parametrize(
    ("optimizer", "per_element"),
    [
        ("adamw", 8),
        ("adamw_8bit", 2 + 8 / 256),  # arXiv 2110.02861: blocks; here of 256
        ("paged_adamw_8bit", 0),
        ("lion", 4),  # arXiv 2302.06675: one moment
        ("adafactor", 0),  # arXiv 1804.04235: sublinear
    ],
)
def test_moments_by_optimiser(optimizer: Optimizer, per_element: float) -> None:
    found = rank_memory(job("hf", optimizer=optimizer), "allocated").parts["optimizer"]
    assert found / TOTAL == pytest.approx(per_element, rel=1e-3, abs=1e-9)


def test_losses_by_hand() -> None:
    """Eager: 16-bit logits, fp32 copy, log-softmax and gradient: 2 + 3 x 4 bytes of each."""
    logits = 2 * 2048 * SHAPE.vocab_size
    assert logit_bytes(job("hf")) == 14 * logits
    assert logit_bytes(job("hf", loss="fused")) == 4 * logits
    assert logit_bytes(job("hf", loss="chunked")) < 2 * logits
    assert logit_bytes(job("hf", precision="fp32")) == 12 * logits
    assert logit_bytes(job("whorl")) == 14 * CHUNK_ELEMENTS < logits / 8


def test_whorl_s_loss_is_in_the_chunks_of_its_head() -> None:
    """For Llama-3-8B at 8k the logits would be 11.7 GiB in fp32 that never exist."""
    assert software("whorl").chunk_elements == CHUNK_ELEMENTS
    eager, own = (rank_memory(job("whorl", loss=loss)).parts["logits"] for loss in ("eager", ""))
    assert eager > 6 * GIB and own < 0.1 * GIB


def test_a_step_in_the_backward_pass_keeps_no_gradients() -> None:
    """An 8B in pure bf16 with paged moments: weights, and little else (torchtune: 18.9 GiB)."""
    one = job("torchtune", optimizer="paged_adamw_8bit", pure_low_precision=True)
    after, in_backward = (
        rank_memory(replace(one, step_in_backward=value), "allocated").peak_bytes / GIB
        for value in (False, True)
    )
    largest = 2 * SHAPE.vocab_size * SHAPE.width  # the tables' are the last to go
    assert after - in_backward == pytest.approx(2 * (TOTAL - largest) / GIB, rel=0.01)
    assert in_backward == pytest.approx(18.9, rel=0.1)


@pytest.mark.parametrize(
    ("base", "precision", "per_element"),
    [("none", "fp32", 4), ("none", "bf16", 2), ("int8", "bf16", 1), ("int4", "bf16", 0.53)],
)
def test_a_frozen_base_by_its_format(base: str, precision: str, per_element: float) -> None:
    lora = Lora(base=base)  # type: ignore[arg-type]
    one = job("hf", lora=lora, task="lora", precision=precision)
    counts = count_shape(SHAPE)
    linears = TOTAL - counts.embedding - counts.head
    weights = rank_memory(one, "allocated").parts["weights"]
    width = 4 if precision == "fp32" else 2
    expected = per_element * linears + width * (counts.embedding + counts.head)
    assert weights == pytest.approx(expected, rel=0.01)


def test_a_quantised_base_takes_time_and_dora_memory() -> None:
    plain, nf4 = (
        step_time(job("torchtune", lora=Lora(base=base), task="lora")).step_s  # type: ignore[arg-type]
        for base in ("none", "nf4")
    )
    assert 1.01 * plain < nf4 < 2 * plain
    usual, dora = (
        rank_memory(job("hf", lora=Lora(targets="all", dora=value), task="lora")).peak_bytes
        for value in (False, True)
    )
    assert dora > usual


def test_experts_one_after_the_other_are_many_times_slower() -> None:
    """A public report of transformers before version 5 under ZeRO-3: 31 times."""
    layout = Layout(16, shard="zero3", recompute="full")
    shape = known_model("qwen3-30b-a3b")
    grouped, loop = (
        step_time(TrainingJob(shape, device("a800-80"), layout, 8192, 16, stack=stack)).step_s
        for stack in ("fsdp", "deepspeed")
    )
    assert 10 < loop / grouped < 60
