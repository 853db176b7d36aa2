"""Objectives beside next tokens: what another model holds and takes, what is written."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from whorl.arch.known_models import known_model
from whorl.arch.shape_counts import count_shape
from whorl.core.errors import SpecError
from whorl.planning import answer
from whorl.stages.plan.ask.objective import objective, trained_shape
from whorl.stages.plan.cluster.amounts import amounts
from whorl.stages.plan.cluster.devices import device
from whorl.stages.plan.cluster.job import Layout, Lora, TrainingJob
from whorl.stages.plan.cluster.learning import rollout
from whorl.stages.plan.cluster.memory import rank_memory
from whorl.stages.plan.cluster.step import step_time

GIB = 2**30


def job(text: str = "", lora: Lora | None = None, **changes: Any) -> TrainingJob:
    """Qwen2.5-7B on eight H100 by DeepSpeed's ZeRO-3, two sequences of 2,048 tokens at a time."""
    shape = known_model("qwen2.5-7b")
    base = TrainingJob(
        trained_shape(shape, text),
        device("h100-sxm"),
        Layout(8, shard="zero3", micro_batch=2),
        seq_len=2048,
        global_batch=64,
        stack="deepspeed",
        task="sft" if lora is None else "lora",
        lora=lora,
    )
    fields = objective(text, 2048, lora is not None)._asdict() if text else {}
    return replace(base, **(fields | changes))


def test_a_reference_is_one_forward_pass_more() -> None:
    """Of 6 N products of a token 8 N (forward 2, backward 4, reference 2); of adapters 4 to 6."""
    assert amounts(job("dpo")).layer_flops / amounts(job()).layer_flops == pytest.approx(8 / 6)
    plain, tuned = (amounts(job(text, Lora())).layer_flops for text in ("", "dpo"))
    assert tuned / plain == pytest.approx(6 / 4)
    stored = amounts(job("dpo,reference=stored"))
    assert stored == amounts(job())


def test_a_reference_is_a_second_set_of_weights_unless_adapters_can_be_taken_off() -> None:
    """16-bit weights of 7.6e9 elements, sharded over eight; none with adapters or stored ones."""
    parts = rank_memory(job("dpo")).parts
    assert parts["other_model"] == pytest.approx(7.615e9 * 2 / 8, rel=0.01)
    whole = job("dpo", layout=Layout(8, shard="zero2", micro_batch=2))
    assert rank_memory(whole).parts["other_model"] == pytest.approx(7.615e9 * 2, rel=0.01)
    for other in (job("dpo", Lora()), job("dpo,reference=stored"), job("dpo,reference=none")):
        assert "other_model" not in rank_memory(other).parts


def test_an_example_of_preferences_is_two_sequences() -> None:
    each = {"dpo": 2, "dpo,sequences=1": 1, "grpo": 1, "embedding": 2, "embedding,negatives=3": 5}
    assert {text: objective(text, 2048, False).per_example for text in each} == each


def test_a_teacher_costs_its_own_forward_pass() -> None:
    """32.8e9 parameters forward beside 7.6e9 trained: 2 x 32.8 on 6 x 7.6, in tables less."""
    taught = job("distil,teacher=qwen2.5-32b")
    share = amounts(taught).layer_flops / amounts(job()).layer_flops - 1
    assert share == pytest.approx(2 * 32.8 / (6 * 7.6), rel=0.1)
    assert rank_memory(taught).parts["other_model"] == pytest.approx(32.76e9 * 2 / 8, rel=0.01)
    assert amounts(job("distil")).layer_flops == amounts(job()).layer_flops


def test_embeddings_have_no_head() -> None:
    """152,064 x 3,584 elements less; no logits, and no product with them."""
    made = job("embedding")
    head = 152_064 * 3_584
    assert count_shape(job().shape).total - count_shape(made.shape).total == head
    assert rank_memory(made).parts["logits"] == 0
    assert amounts(made).head_flops == 0
    assert step_time(made).step_s < step_time(job()).step_s


def test_completions_are_written_one_token_at_a_time() -> None:
    """Each token reads all weights: 15.2 GB at 3.35 TB/s are 4.5 ms at the least, 1,024 times."""
    written = rollout(job("grpo,completion=1024,rollout=server"), 0.0)
    assert written is not None
    least = 1024 * (2 * 7.07e9) / 3.35e12  # without the input's table
    assert least < written.seconds < 3 * least
    assert written.low_s < written.seconds < written.high_s
    step, trained = step_time(job("grpo,completion=1024,rollout=server")), step_time(job())
    assert step.parts_s["generation"] == pytest.approx(written.seconds)
    assert sum(step.parts_s.values()) == pytest.approx(step.step_s)
    # of the trained pass only the completions meet the head
    assert step.step_s - written.seconds < trained.step_s
    assert step.low_s < step.step_s < step.high_s
    assert step.tokens_per_s_per_device == pytest.approx(64 * 2048 / 8 / step.step_s)


def test_longer_completions_take_longer_and_eager_ones_longest() -> None:
    def seconds(text: str, launch_s: float = 0.0) -> float:
        found = rollout(job(text), launch_s)
        assert found is not None
        return found.seconds

    short, long = (seconds(f"grpo,completion={n},rollout=server") for n in (256, 1024))
    assert 3.5 < long / short < 4.5
    assert seconds("grpo,completion=256", 1e-3) == pytest.approx(256 * 28 * 1e-3, rel=0.2)


def test_an_engine_beside_the_training_holds_its_share_of_the_device() -> None:
    held = rank_memory(job("grpo,rollout=colocated")).parts["rollout"]
    assert held == pytest.approx(0.3 * 79.1 * GIB, rel=0.01)
    least = rank_memory(job("grpo,rollout=colocated,share=0.05")).parts["rollout"]
    assert least > 2 * 7.6e9  # its weights have to be there
    assert "rollout" not in rank_memory(job("grpo,rollout=server")).parts
    layout = Layout(8, shard="zero2", micro_batch=2)
    engines = (f"grpo,rollout={name}" for name in ("server", "torch"))
    peaks = [rank_memory(job(text, layout=layout)).peak_bytes for text in engines]
    assert math.isclose(*peaks, rel_tol=0.05)  # a cache that is gone before the activations


def test_torch_writes_with_all_weights_gathered_from_their_shards() -> None:
    """7.6e9 weights in 16 bits on each device, not an eighth of them, beside the cache."""
    apart, whole = (
        rollout(job("grpo", layout=Layout(8, shard=shard, micro_batch=2)), 0.0)  # type: ignore[arg-type]
        for shard in ("zero3", "zero2")
    )
    assert apart is not None and whole is not None
    assert apart.bytes - whole.bytes == pytest.approx(2 * 7.615e9, rel=0.01)
    alone = rollout(job("grpo", layout=Layout(1, shard="zero3", micro_batch=2)), 0.0)
    assert alone is not None and alone.bytes < 8 * whole.bytes * 1.01


def test_a_measured_step_of_grpo_is_refused() -> None:
    flags = {"--model": "qwen2.5-7b", "--device": "h100-sxm", "--count": "8", "--seq": "2048"}
    flags |= {"--global-batch-tokens": "131072", "--measured": "mbs=2,step_s=60"}
    assert answer(flags)
    with pytest.raises(SpecError, match="--measured does not go with grpo"):
        answer(flags | {"--objective": "grpo"})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ppo", "dpo, grpo"),
        ("dpo,generations=8", "generations is not known"),
        ("dpo,reference=adapters", "add --tune lora"),
        ("dpo,reference=mine", "stored"),
        ("grpo,completion=4096", "at most --seq 2048"),
        ("distil,teacher=no-such-model", "unknown model"),
    ],
)
def test_what_makes_no_sense_is_refused(text: str, words: str) -> None:
    with pytest.raises(SpecError, match=words):
        objective(text, 2048, False)
