"""Amounts that no rank may lose or double, by hand; what physics demands of random layouts."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whorl.arch.known_models import known_model
from whorl.arch.shape import Experts, Latent, ModelShape
from whorl.arch.shape_counts import count_shape
from whorl.stages.plan.cluster import tables
from whorl.stages.plan.cluster.amounts import amounts
from whorl.stages.plan.cluster.devices import device
from whorl.stages.plan.cluster.job import SELECTIVE_PARTS, Layout, Lora, TrainingJob
from whorl.stages.plan.cluster.memory import rank_memory
from whorl.stages.plan.cluster.step import step_time, step_times

MIXTURE = known_model("qwen3-30b-a3b")
MASTER_AND_MOMENTS = 34  # bytes read and written per element by one update of mixed AdamW


def job(layout: Layout, shape: ModelShape = MIXTURE, **other: Any) -> TrainingJob:
    stack = other.pop("stack", "megatron")
    return TrainingJob(shape, device("h100-sxm"), layout, 4096, 512, stack=stack, **other)


@pytest.mark.parametrize("tp", [1, 4])
@pytest.mark.parametrize("ep", [1, 8, 64])
@pytest.mark.parametrize("shard", ["zero1", "zero3"])
def test_every_element_is_updated_once(tp: int, ep: int, shard: Any) -> None:
    found = amounts(job(Layout(64, tp=tp, ep=ep, shard=shard)))
    whole = 64 * found.step_optimizer_bytes
    assert whole == pytest.approx(MASTER_AND_MOMENTS * count_shape(MIXTURE).total)


@pytest.mark.parametrize("tp", [1, 4])
@pytest.mark.parametrize("ep", [4, 32])
def test_experts_multiply_every_token_once(tp: int, ep: int) -> None:
    """Rows of one expert times the experts of a rank: the rank's share of tokens times active."""
    experts = MIXTURE.experts
    assert experts
    found = amounts(job(Layout(64, tp=tp, ep=ep)))
    assert found.expert_rows * experts.count / ep == pytest.approx(4096 * experts.active / tp)
    products = list(tables._products(job(Layout(64, tp=tp, ep=ep)), 4096.0))
    rows = [(number, m) for number, m, _, _ in products if m != 4096]
    assert rows == 2 * [(pytest.approx(48 * experts.count / ep), pytest.approx(found.expert_rows))]


@pytest.mark.parametrize(("stack", "kept"), [("megatron", list), ("megatron_bridge", set)])
def test_tokens_travel_to_their_experts(stack: str, kept: Callable[[Any], Any]) -> None:
    """Eight of 128 experts drawn at random, ranks in nodes of eight: to them and back, twice; by
    plain all-to-all for every expert, by DeepEP once to each place."""
    draws, whole = np.random.default_rng(0), 4 * MIXTURE.expert_layers * 4096 * MIXTURE.width * 2

    def trips(groups: int) -> float:
        found = (draws.choice(128, 8, replace=False) // (128 // groups) for _ in range(4000))
        places = (kept(place.tolist()) for place in found)
        return float(np.mean([sum(p != own % groups for p in at) for own, at in enumerate(places)]))

    far, inside = (amounts(job(Layout(64, ep=ep), stack=stack)) for ep in (64, 8))
    assert far.ep_network_bytes == pytest.approx(whole * trips(8), rel=0.05)
    assert inside.ep_node_bytes == pytest.approx(whole * trips(8), rel=0.05)
    assert inside.ep_network_bytes == 0 < far.ep_node_bytes
    if stack == "megatron":  # those that stay in the node, on its seven other devices
        assert far.ep_node_bytes == pytest.approx(whole * 8 * 7 / 64, rel=0.05)


def test_what_is_computed_again_is_exchanged_and_read_again() -> None:
    """Forward and backward, then forward again where all is repeated, or the experts are."""
    none, full, experts, mlp = (
        amounts(job(Layout(64, ep=8, recompute=kind, recompute_parts=parts)))
        for kind, parts in (
            ("none", ()), ("full", ()), ("selective", ("moe",)), ("selective", ("mlp",)),
        )
    )  # fmt: skip
    for found, share in ((full, 1.5), (experts, 1.5), (mlp, 1.0)):
        assert found.ep_node_bytes == pytest.approx(share * none.ep_node_bytes)
        assert found.ep_messages == pytest.approx(share * none.ep_messages)
    layout, llama = Layout(8, shard="zero3", recompute="selective"), known_model("llama-3-8b")
    selective = amounts(job(layout, llama, stack="torchtitan"))
    whole = amounts(job(layout.with_(recompute="full"), llama, stack="torchtitan"))
    assert selective.elementwise_bytes == whole.elementwise_bytes  # products alone are kept
    assert selective.layer_flops < whole.layer_flops


def test_only_layers_of_experts_launch_experts() -> None:
    shape = known_model("deepseek-v3")  # 3 of 61 layers are dense
    assert amounts(job(Layout(8, ep=8), shape)).expert_layer_passes == pytest.approx(3 * 58)


def test_keys_and_values_go_round_the_ring_by_hand() -> None:
    """Forward once, backward again with their gradients: to cp - 1 ranks, half the tokens each."""
    found = amounts(job(Layout(8, cp=2), known_model("llama-3-8b")))
    keys_and_values = 2 * 8 * 128 * 2
    assert found.cp_bytes == pytest.approx(3 * 32 * 2048 * keys_and_values)


def test_every_chunk_of_a_pipeline_sends_its_tokens() -> None:
    """Hidden states forward and their gradients backward, split over tp; logits too."""
    layout = Layout(16, tp=2, pp=4, vpp=2, schedule="interleaved")
    found = amounts(job(layout, known_model("llama-3-8b")))
    assert found.pp_bytes == pytest.approx(2 * 2 * 4096 * 4096 * 2 / 2)
    whole = amounts(job(Layout(16), known_model("llama-3-8b")))
    assert found.logit_bytes == pytest.approx(whole.logit_bytes / 2)


def test_experts_of_one_copy_have_nothing_to_exchange() -> None:
    """With ep as wide as the ranks no gradient of an expert has a second rank to be added to."""
    counts = count_shape(MIXTURE)
    found = amounts(job(Layout(64, ep=64)))
    others = counts.total - counts.experts
    assert found.step_reduce_bytes == pytest.approx(others * (4 + 2) * 63 / 64)
    sharded = amounts(job(Layout(64, ep=64, shard="zero3")))
    assert sharded.gather_bytes == pytest.approx(3 * 2 * others * 63 / 64)


@pytest.mark.parametrize("group", [8, 32])
def test_copies_of_shards_exchange_their_own_shard(group: int) -> None:
    """Hybrid sharding: each rank all-reduces its 1/group of the gradients over its one port."""
    shape = known_model("llama-3-8b")
    found = amounts(job(Layout(64, shard="zero3", shard_devices=group), shape))
    copies = 64 // group
    shard = count_shape(shape).total / group
    assert found.step_reduce_bytes == pytest.approx(shard * 2 * 2 * (copies - 1) / copies)
    assert found.dp_bandwidth == device("h100-sxm").network_bytes_per_s


def test_plain_data_parallelism_adds_up_fp32_gradients() -> None:
    """A ring all-reduce moves twice (n-1)/n of the gradients, 4 bytes each under autocast."""
    shape = known_model("gpt2")
    found = amounts(job(Layout(8, shard="none"), shape, stack="whorl"))
    assert found.step_reduce_bytes == pytest.approx(count_shape(shape).total * 2 * 4 * 7 / 8)


def test_zero_bubble_waits_a_third_as_long() -> None:
    """ZB-H1 against 1F1B with all passes alike: Qi et al. 2023 (arXiv 2401.10241)."""
    plain = Layout(8, pp=4)
    waits = [
        amounts(job(layout)).fill for layout in (plain, replace(plain, schedule="zero_bubble"))
    ]
    assert waits[1] == pytest.approx(waits[0] / 3)


def test_frozen_weights_save_only_their_own_gradients() -> None:
    """A product's weight gradient is a third of it; attention has no weights to spare."""
    full = amounts(job(Layout(8)))
    lora = amounts(job(Layout(8), task="lora", lora=Lora()))
    assert lora.layer_flops == pytest.approx(full.layer_flops * 2 / 3)
    assert lora.head_flops == pytest.approx(full.head_flops * 2 / 3)
    for name in ("attention_flops", "elementwise_bytes"):
        assert getattr(lora, name) == getattr(full, name)


def test_fp32_moves_twice_the_bytes() -> None:
    layout = Layout(16, tp=4, cp=2, shard="zero3")
    half, single = (amounts(job(layout, precision=name)) for name in ("bf16", "fp32"))  # type: ignore[arg-type]
    for name in ("tp_bytes", "cp_bytes", "gather_bytes", "matmul_bytes", "elementwise_bytes"):
        assert getattr(single, name) == pytest.approx(2 * getattr(half, name)), name


def test_keys_are_copied_to_ranks_beyond_their_number() -> None:
    """Four key-value heads: eight ranks pass on as many bytes each as four do."""
    four, eight = (amounts(job(Layout(64, tp=tp, cp=2))).cp_bytes for tp in (4, 8))
    assert eight == four


def test_an_optimizer_on_the_host_takes_longer() -> None:
    here, there = (job(Layout(8, offload_optimizer=off)) for off in (False, True))
    moved = step_time(there).parts_s["optimizer"] / step_time(here).parts_s["optimizer"]
    assert moved == pytest.approx(device("h100-sxm").memory_bytes_per_s / 25e9)


@st.composite
def random_jobs(draw: st.DrawFn) -> TrainingJob:
    heads, layers = draw(st.sampled_from([1, 3, 8, 32])), draw(st.sampled_from([1, 2, 13, 32]))
    kv_heads = draw(st.sampled_from([n for n in range(1, heads + 1) if heads % n == 0]))
    experts = None
    if draw(st.booleans()):
        count = draw(st.sampled_from([1, 8, 60]))
        experts = Experts(count, draw(st.integers(1, count)), draw(st.sampled_from([1, 1408])))
    base = known_model("llama-3-8b")
    latent = draw(st.sampled_from([None, Latent(None, 16, 8)]))
    shape = replace(
        base,
        layers=layers,
        width=draw(st.sampled_from([64, 4096])),
        vocab_size=draw(st.sampled_from([1, 32_000])),
        attention=replace(base.attention, heads=heads, kv_heads=kv_heads, latent=latent),
        experts=experts,
        predicted_tokens=draw(st.integers(0, 1)),
    )
    tp = draw(st.sampled_from([n for n in (1, 2, 3, 8) if heads % n == 0]))
    pp = draw(st.sampled_from([n for n in (1, 2, 3, 8) if n <= layers + 2]))
    cp, dp = draw(st.sampled_from([1, 4])), draw(st.sampled_from([1, 3, 64]))
    parts = draw(st.sets(st.sampled_from(SELECTIVE_PARTS), min_size=1))
    layout = Layout(
        *(tp * pp * cp * dp, tp, pp, 1, cp, draw(st.sampled_from([1, experts.count]))) if experts
        else (tp * pp * cp * dp, tp, pp, 1, cp),
        shard=draw(st.sampled_from(["none", "zero1", "zero2", "zero3"])),
        shard_devices=draw(st.sampled_from([None, 1, dp])),
        micro_batch=draw(st.sampled_from([1, 5])),
        recompute="selective",
        recompute_parts=tuple(sorted(parts)),
    )  # fmt: skip
    where = device(draw(st.sampled_from(["v100-32", "h100-sxm", "gb300", "tpu-v5p"])))
    stack = draw(st.sampled_from(["megatron", "megatron_2021", "fsdp", "whorl", "xla"]))
    seq_len, batch = draw(st.sampled_from([1, 512, 131_072])), draw(st.sampled_from([1, 7, 1024]))
    precision = draw(st.sampled_from(["bf16", "fp8", "nvfp4"]))
    flash = draw(st.booleans())
    return TrainingJob(
        *(shape, where, layout, seq_len, batch, precision), stack=stack, flash_attention=flash
    )


@settings(max_examples=120, deadline=None, derandomize=True)
@given(random_jobs())
def test_physics_of_any_layout(one: TrainingJob) -> None:
    """Parts add up, nothing beats light, faster hardware is no slower, recomputation costs time
    and saves activations."""
    found, where = step_time(one), one.device
    assert sum(found.parts_s.values()) == pytest.approx(found.step_s)
    assert all(math.isfinite(part) and part >= 0 for part in found.parts_s.values())
    assert 0 < found.roofline_s <= found.step_s
    assert found.low_s < found.step_s < found.high_s
    names = ("memory_bytes_per_s", "link_bytes_per_s", "network_bytes_per_s")
    better = [replace(where, **{name: 2 * getattr(where, name)}) for name in names]  # type: ignore[arg-type]
    peaks = {name: 2 * rate for name, rate in where.flops_per_s.items()}
    better.append(replace(where, flops_per_s=peaks))
    recomputed = [
        replace(one, layout=one.layout.with_(recompute=kind, recompute_parts=()))
        for kind in ("none", "full")
    ]
    kept, again = (rank_memory(item).parts["activations"] for item in recomputed)
    assert again <= kept
    every = step_times([*(replace(one, device=item) for item in better), *recomputed])
    *faster, least, most = (item.step_s for item in every)
    assert max(faster) <= found.step_s * (1 + 1e-9)
    assert least <= found.step_s * (1 + 1e-9)
    assert found.step_s <= most * (1 + 1e-9)
