"""Work of a pass against figures computed by hand from published sizes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from whorl.arch.known_models import known_model
from whorl.core.errors import SpecError
from whorl.stages.plan.cluster.devices import device
from whorl.stages.plan.serving.choose import room_for
from whorl.stages.plan.serving.times import ENGINES, ReplicaLoad, columns, steady_state
from whorl.stages.plan.serving.work import (
    QUANTISATIONS,
    Deployment,
    decode_work,
    distinct_experts,
    prefill_work,
)

H100_BYTES_PER_S, H100_BF16 = 3.35e12, 989.4e12  # NVIDIA's data sheet
LLAMA_70B, LLAMA_70B_TABLE = 70_553_706_496, 128_256 * 8_192  # parameters; embedding alone


def deployment(model: str, devices: int, weights: str = "bf16", name: str = "h100") -> Deployment:
    return Deployment(known_model(model), device(name), devices, QUANTISATIONS[weights])


def test_decode_of_one_request_reads_every_weight_once() -> None:
    work = decode_work(deployment("llama-3-70b", 4), 1, 1)
    expected = (LLAMA_70B - LLAMA_70B_TABLE) * 2 / 4 / H100_BYTES_PER_S  # 10.4 ms
    assert work.weights_s == pytest.approx(expected, rel=1e-4)  # norms are not counted
    assert expected == pytest.approx(0.01037, rel=1e-3)
    assert work.experts_s == 0


def test_decode_reads_the_cache_of_every_request() -> None:
    # 80 layers x 2 x 8 heads x 128 x 2 bytes = 320 KiB per token
    work = decode_work(deployment("llama-3-70b", 4), 16, 4_096)
    assert work.cache_s == pytest.approx(320 * 1024 * 4_096 * 16 / 4 / H100_BYTES_PER_S)


def test_more_devices_than_key_value_heads_copy_the_cache() -> None:
    # qwen3-235b has 4 key-value heads: 8 devices read as much each as 4 do
    four, eight = (decode_work(deployment("qwen3-235b-a22b", n), 8, 1_000) for n in (4, 8))
    assert four.cache_s == eight.cache_s > 0
    assert four.weights_s == pytest.approx(2 * eight.weights_s)


def test_latent_attention_keeps_576_elements_per_layer_on_every_device() -> None:
    # DeepSeek-V3: 61 layers x (512 + 64) x 1 byte, not divided by tensor parallel
    one = deployment("deepseek-v3", 8, "fp8", "h200")
    assert one.cache_bytes(10_000) == pytest.approx(61 * 576 * 10_000)


def test_windowed_layers_keep_their_window() -> None:
    # gpt-oss-120b: 36 layers of 8 heads x 64, every other sees 128 tokens
    found = deployment("gpt-oss-120b", 1, "mxfp4").cache_bytes(8_192)
    assert found == pytest.approx(2 * 8 * 64 * 18 * (8_192 + 128))


def test_prefill_multiplies_every_matrix_by_every_token() -> None:
    # Llama-3-8B: 8.03 B parameters, two tables of 128,256 x 4,096; the head meets one token
    table = 128_256 * 4_096
    flops = 2 * ((8_030_261_248 - 2 * table) * 1_000 + table)
    work = prefill_work(deployment("llama-3-8b", 1), 1, 1_000)
    assert work.compute_s == pytest.approx(flops / H100_BF16, rel=1e-4)
    # 32 layers x 32 heads x 4 x 128 FLOPs for each of 1,000 x 1,001 / 2 pairs
    pairs = 1_000 * 1_001 / 2
    assert work.attention_s == pytest.approx(32 * 32 * 4 * 128 * pairs / H100_BF16)


def test_all_reduces_move_two_thirds_more_on_four_than_needed_on_two() -> None:
    # a ring moves 2 (n - 1) / n of a message per device: 1 message on 2, 1.5 on 4
    two, four = (prefill_work(deployment("llama-3-8b", n), 1, 512) for n in (2, 4))
    assert four.network_s == pytest.approx(1.5 * two.network_s)
    assert two.network_s == pytest.approx(2 * 32 * 512 * 4_096 * 2 / 450e9)
    assert prefill_work(deployment("llama-3-8b", 1), 1, 512).network_s == 0


@pytest.mark.parametrize(("count", "active", "tokens"), [(128, 4, 16), (256, 8, 40), (8, 2, 3)])
def test_distinct_experts_against_drawing_them(count: int, active: int, tokens: int) -> None:
    rng = np.random.default_rng(0)
    drawn = [
        len(np.unique([rng.permutation(count)[:active] for _ in range(tokens)]))
        for _ in range(2_000)
    ]
    assert distinct_experts(count, active, tokens) == pytest.approx(np.mean(drawn), rel=0.02)


def test_four_bit_experts_leave_attention_wide() -> None:
    """DeepSeek-V3 in 4 bits takes what its published NVFP4 checkpoint does: some 400 GB."""
    assert deployment("deepseek-v3", 1, "nvfp4").weight_bytes == pytest.approx(400e9, rel=0.05)
    assert deployment("gpt-oss-120b", 1, "mxfp4").weight_bytes == pytest.approx(65e9, rel=0.05)


def test_without_losses_latency_is_the_roofline() -> None:
    ideal = dict.fromkeys(
        ("weights", "experts", "cache", "compute", "expert_compute", "network"), 1.0
    )
    none = ("routed", "reduce_s", "expert_layer_s", "interleave", "interleave_burst")
    none += ("queue", "queue_burst", "steps_before_first")
    per_engine = [f"{part}.{e}" for e in ENGINES for part in ("layer_s", "prefill_layer_s")]
    per_engine += [f"first_s.{e}" for e in ENGINES]
    one = deployment("llama-3-70b", 4)
    load = ReplicaLoad(np.array([0]), np.ones(1), np.zeros(1), np.full(1, 100.0), np.array([False]))
    latency = steady_state(
        columns([decode_work(one, 1, 1)]),
        columns([prefill_work(one, 1, 4_096)]),
        load,
        ideal | dict.fromkeys((*none, *per_engine), 0.0),
    )
    weights_s = (LLAMA_70B - LLAMA_70B_TABLE) * 2 / 4 / H100_BYTES_PER_S
    assert latency.token_s[0] == pytest.approx(weights_s, rel=0.01)
    flops = 2 * (LLAMA_70B - 2 * LLAMA_70B_TABLE) * 4_096 + 4 * 80 * 64 * 128 * 4_096**2 / 2
    ring = 2 * 80 * 1.5 * 4_096 * 8_192 * 2 / 450e9  # two all-reduces a layer, 450 GB/s a link
    writes = 80 * 4_096 * 8_192 * 2 / H100_BYTES_PER_S
    assert latency.first_s[0] == pytest.approx(flops / 4 / H100_BF16 + ring + writes, rel=0.01)


def test_impossible_splits_are_refused() -> None:
    with pytest.raises(SpecError, match="heads do not divide"):
        deployment("llama-3-8b", 3)
    with pytest.raises(SpecError, match="attention replicas"):
        Deployment(
            known_model("llama-3-8b"), device("h100"), 4, QUANTISATIONS["fp8"],
            attention_replicas=3,
        )  # fmt: skip


def test_room_is_what_the_weights_leave() -> None:
    # 70B at 2 bytes does not fit one H100 and 141 GB / 4 leaves room on four
    assert room_for(deployment("llama-3-70b", 1), 1_000) == 0
    free = 0.9 * 79.1 * 2**30 - 2e9 - LLAMA_70B * 2 / 4
    expected = free / (320 * 1024 / 4 * 1_000)
    assert room_for(deployment("llama-3-70b", 4), 1_000) == pytest.approx(expected, rel=1e-3)


def test_a_layer_of_one_block_reduces_once_and_writes_once() -> None:
    """Nemotron-H 8B: 52 layers, each a scan, an attention or a feed-forward block of 4,096."""
    work = decode_work(deployment("nemotron-h-8b", 2), 8, 1_000)
    assert work.reduces == 52 and work.layers == 26
    assert work.activations_s == pytest.approx(26 * 8 * 4_096 * 2 / H100_BYTES_PER_S)
    assert decode_work(deployment("llama-3-70b", 2), 8, 1_000).reduces == 2 * 80


def test_a_state_is_as_wide_as_its_config_says_and_split_as_heads_are() -> None:
    """Nemotron-H 8B: 24 scans of 8,192 channels with 128 elements each, and a window of 4."""
    elements = 24 * (8_192 * 128 + (8_192 + 2 * 8 * 128) * 4)
    few, many = (deployment("nemotron-h-8b", n) for n in (1, 16))
    keys = [2 * 4 * 8 * 128 * each for each in (2, 1)]  # of 4 layers with 8 heads, by format
    assert few.cache_bytes(1) == pytest.approx(4 * elements + keys[0])
    assert deployment("nemotron-h-8b", 1, "fp8").cache_bytes(1) == pytest.approx(
        4 * elements + keys[1]
    )
    assert many.cache_bytes(1) == pytest.approx(4 * elements / 16 + keys[0] / 8)
    jamba = known_model("jamba-v0.1").attention.mixer
    assert jamba is not None and jamba.state_bytes == 2


def test_tokens_go_to_experts_as_wide_as_experts_read_them() -> None:
    whole = known_model("nemotron-3-nano-30b-a3b")
    assert whole.experts is not None
    narrow = replace(whole, experts=replace(whole.experts, latent=whole.width // 2))
    of = (Deployment(each, device("h100"), 1, QUANTISATIONS["bf16"]) for each in (whole, narrow))
    wide_s, narrow_s = (decode_work(each, 8, 1_000).routed_s for each in of)
    assert narrow_s == wide_s / 2 > 0
