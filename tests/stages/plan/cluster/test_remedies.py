"""What would make a job fit: tried again by brute force, and against runs that people reported."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import pytest

from whorl.arch.known_models import known_model
from whorl.stages.plan.ask.answers import in_words
from whorl.stages.plan.cluster.devices import device
from whorl.stages.plan.cluster.job import Layout, TrainingJob
from whorl.stages.plan.cluster.memory import fits, needed_for
from whorl.stages.plan.cluster.remedies import CHANGES, Remedy, remedies, same_devices, together
from whorl.stages.plan.cluster.step import step_time

SMALL_CARD = device("rtx-4090")
LIMIT = SMALL_CARD.memory_bytes


def full(model: str = "llama-3.1-8b", **changes: object) -> TrainingJob:
    job = TrainingJob(
        *(known_model(model), SMALL_CARD, Layout(1, micro_batch=2, shard="none"), 2048, 16),
        stack="hf",
        task="sft",
    )
    return replace(job, **changes)  # type: ignore[arg-type]


def after(job: TrainingJob, names: tuple[str, ...]) -> TrainingJob:
    for name in names:
        job = CHANGES[name](job) or job
    return job


def test_an_8b_on_one_4090_is_answered_by_what_fits_there() -> None:
    """torchtune's README trains it there with LoRA (16.2 GiB) and QLoRA (7.4 GiB)."""
    job = full()
    assert not fits(job)
    found = same_devices(job, needed_for, LIMIT)
    assert found and all(fits(item.job) and item.job.layout.devices == 1 for item in found)
    kinds = {"qlora" if "qlora" in item.names else "lora" for item in found}
    assert kinds == {"lora", "qlora"}
    assert {item.job.lora.base for item in found if item.job.lora} == {"none", "nf4"}


def test_each_change_is_what_it_says() -> None:
    job = full()
    for item in remedies(job, needed_for, LIMIT):
        assert item.peak_bytes == needed_for(item.job)
        assert item.saved_bytes == pytest.approx(needed_for(job) - item.peak_bytes)
        assert item.saved_bytes > 0 and item.fits == fits(item.job)
        per_token = step_time(item.job).step_s / item.job.tokens_per_step
        before = step_time(job).step_s / job.tokens_per_step
        assert item.slower == pytest.approx(per_token / before - 1)


@pytest.mark.parametrize("model", ["qwen2.5-0.5b", "llama-3.2-1b", "qwen2.5-1.5b", "llama-3.2-3b"])
def test_no_change_of_several_is_superfluous(model: str) -> None:
    job = full(model, seq_len=4096, global_batch=8)
    found = together(job, needed_for, LIMIT)
    tried = tuple(name for name in CHANGES if name not in ("seq", "lora", "qlora"))
    if found is None:  # then no combination fits: brute force
        for count in range(1, 6):
            assert not any(fits(after(job, names)) for names in combinations(tried, count))
        return
    assert fits(found.job) and found.job == after(job, found.names)
    for name in found.names:
        assert not fits(after(job, tuple(other for other in found.names if other != name)))


def test_a_job_that_fits_keeps_its_changes_but_needs_none() -> None:
    job = full("qwen2.5-0.5b", seq_len=512, global_batch=8)
    assert fits(job)
    assert together(job, needed_for, LIMIT) == Remedy((), job, needed_for(job), 0.0, 0.0, True)


def test_pretraining_on_many_devices_is_not_told_to_tune() -> None:
    job = full(task="pretrain", stack="megatron", layout=Layout(8, tp=8))
    names = {name for item in remedies(job, needed_for, 1.0) for name in item.names}
    assert names and not names & {"lora", "qlora", "paged"}


@pytest.mark.parametrize(
    ("tool", "words"),
    [
        ("", "--layout recompute=full"),
        ("trainer", "gradient_checkpointing: true"),
        ("llamafactory", "disable_gradient_checkpointing: false"),
        ("torchtitan", 'activation_checkpoint.mode = "full"'),
        ("megatron", "--recompute-granularity full"),
    ],
)
def test_the_words_are_those_of_the_asker(tool: str, words: str) -> None:
    changed = CHANGES["recompute"](full())
    assert changed is not None
    said = in_words(tool)(Remedy(("recompute",), changed, 1.0, 1.0, 0.0, True))
    assert said.startswith(words)
