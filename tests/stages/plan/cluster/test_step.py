"""Amounts by conservation laws and by hand, parts that add up, the Gaussian update another way."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from whorl.arch.known_models import known_model
from whorl.arch.shape_counts import count_shape, flops_per_token
from whorl.core.errors import SpecError
from whorl.stages.plan.cluster.amounts import amounts
from whorl.stages.plan.cluster.devices import device
from whorl.stages.plan.cluster.job import Layout, Precision, TrainingJob
from whorl.stages.plan.cluster.seconds import constants, jacobian, prior, table
from whorl.stages.plan.cluster.step import MeasuredStep, calibrate, step_time, step_times

GB = 1e9


def job(
    model: str = "llama-3-8b",
    layout: Layout | None = None,
    batch: int = 128,
    seq_len: int = 8192,
    precision: Precision = "bf16",
) -> TrainingJob:
    return TrainingJob(
        known_model(model),
        device("h100-sxm"),
        layout or Layout(8, shard="zero3"),
        seq_len,
        batch,
        precision,
        stack="megatron",
    )


@pytest.mark.parametrize("model", ["llama-3-8b", "qwen3-30b-a3b", "deepseek-v3", "gpt2"])
@pytest.mark.parametrize("tp", [1, 2, 4])
def test_flops_are_conserved_over_the_ranks(model: str, tp: int) -> None:
    """All ranks and micro-batches together do 3 times the forward FLOPs of every token."""
    sizes = Layout(8, tp=tp, micro_batch=2)
    one = replace(job(model, sizes, batch=64, seq_len=1024), shape=known_model(model))
    found = amounts(one)
    products = (found.layer_flops + found.head_flops) * found.micro_batches * 8
    forward = flops_per_token(one.shape, 1024)
    router = forward.router * (tp - 1)  # the router is not split over tp
    expected = 3 * (forward.blocks + forward.router + forward.head + router) * 64 * 1024
    assert products == pytest.approx(expected, rel=1e-9)


def test_full_recomputation_repeats_the_layers_once() -> None:
    plain, full = (
        amounts(job(layout=Layout(8, shard="zero3", recompute=mode)))  # type: ignore[arg-type]
        for mode in ("none", "full")
    )
    assert full.layer_flops == pytest.approx(4 / 3 * plain.layer_flops)
    assert full.head_flops == plain.head_flops


def test_sharded_weights_by_hand() -> None:
    """FSDP gathers 2-byte weights twice and scatters 2-byte gradients once, 7/8 of each."""
    found = amounts(job())
    total = count_shape(known_model("llama-3-8b")).total
    assert found.gather_bytes == pytest.approx(3 * 2 * total * 7 / 8)


def test_tensor_parallel_bytes_by_hand() -> None:
    """Four all-reduces a layer and micro-batch, each 2(tp-1)/tp of the hidden states."""
    found = amounts(job(layout=Layout(8, tp=8, micro_batch=1)))
    hidden = 8192 * 4096 * 2
    assert found.tp_bytes == pytest.approx(32 * 4 * 2 * 7 / 8 * hidden)
    assert found.tp_bandwidth == device("h100-sxm").link_bytes_per_s


def test_gradients_cross_nodes_over_every_port() -> None:
    """A ring over whole nodes uses all eight network ports, never more than the in-node link."""
    h100 = device("h100-sxm")
    wide = amounts(job(layout=Layout(64), batch=64))
    split = amounts(job(layout=Layout(64, tp=8), batch=64))
    assert wide.dp_bandwidth == min(h100.link_bytes_per_s, 8 * h100.network_bytes_per_s)
    assert split.dp_bandwidth == h100.network_bytes_per_s


def test_pipeline_fill_is_the_textbook_bubble_without_a_head() -> None:
    """(pp-1)/m of the work when stages are alike: Narayanan et al. 2021 (arXiv 2104.04473)."""
    shape = replace(known_model("llama-3-8b"), vocab_size=1)
    layout = Layout(8, pp=4, micro_batch=1)
    found = amounts(replace(job(layout=layout), shape=shape))
    assert found.fill == pytest.approx(3, rel=1e-4)
    interleaved = replace(layout, vpp=4, schedule="interleaved")
    assert amounts(replace(job(layout=interleaved), shape=shape)).fill == pytest.approx(
        3 / 4, rel=1e-4
    )


def test_parts_add_up_and_light_is_faster() -> None:
    for one in (job(), job(layout=Layout(64, tp=4, pp=4, vpp=2, schedule="interleaved"))):
        found = step_time(one)
        assert sum(found.parts_s.values()) == pytest.approx(found.step_s, rel=1e-9)
        assert all(value >= 0 for value in found.parts_s.values())
        assert found.roofline_s < found.low_s < found.step_s < found.high_s
        assert found.mfu == pytest.approx(found.roofline_s / found.step_s)
        tokens = one.tokens_per_step / one.layout.devices / found.step_s
        assert found.tokens_per_s_per_device == pytest.approx(tokens)


def test_llama_3_405b_near_its_published_mfu() -> None:
    """Llama 3 (arXiv 2407.21783, table 4): 43% MFU on 8,192 and 41% on 16,384 H100, bf16.

    This source is not among the fitted rows.
    """
    shape = known_model("llama-3.1-405b")
    for devices, published in ((8192, 0.43), (16384, 0.41)):
        layout = Layout(
            devices, tp=8, pp=16, vpp=8, shard="zero1", schedule="interleaved", micro_batch=1
        )
        one = TrainingJob(shape, device("h100-sxm"), layout, 8192, 2048, "bf16", stack="megatron")
        assert step_time(one).mfu == pytest.approx(published, rel=0.12)


def test_many_jobs_at_once_are_the_same_as_one_by_one() -> None:
    jobs = [job(), job(batch=256), job("qwen3-30b-a3b", Layout(8, ep=8), batch=64, seq_len=4096)]
    together = step_times(jobs, intervals=True)
    assert [item.step_s for item in together] == pytest.approx(
        [step_time(one).step_s for one in jobs]
    )


def test_calibration_is_the_gaussian_posterior() -> None:
    """Against the information form: (P^-1 + J^T J / s^2)^-1, which the code does not use."""
    jobs = [job(), job(layout=Layout(8, tp=4))]
    steps = [MeasuredStep(one, 1.3 * step_time(one).step_s) for one in jobs]
    model = calibrate(steps)
    theta = constants().array()
    base, slopes = jacobian(theta, table([amounts(one) for one in jobs]))
    precision = np.diag(prior().sigmas ** -2.0) + slopes.T @ slopes / 0.06**2
    covariance = np.linalg.inv(precision)
    residual = np.log([item.step_s for item in steps]) - base
    expected = theta + covariance @ slopes.T @ residual / 0.06**2
    assert model.theta == pytest.approx(expected, abs=1e-8)
    assert model.covariance == pytest.approx(covariance, abs=1e-8)


def test_calibrated_job_meets_its_measurement_and_narrows_its_neighbours() -> None:
    one, neighbour = job(), job(batch=256)
    plain = step_time(neighbour)
    model = calibrate([MeasuredStep(one, 1.4 * step_time(one).step_s)])
    assert step_time(one, model).step_s == pytest.approx(1.4 * step_time(one).step_s, rel=0.06)
    known = step_time(neighbour, model)
    assert known.step_s > 1.25 * plain.step_s
    assert known.high_s / known.low_s < plain.high_s / plain.low_s


def test_measured_step_must_be_a_time() -> None:
    for wrong in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(SpecError, match="measured step"):
            MeasuredStep(job(), wrong)


def test_expert_shards_use_the_one_port_their_ranks_have_in_a_node() -> None:
    """With ep over a whole node, ranks with the same experts meet across nodes, one port each."""
    h100, shape = device("h100-sxm"), known_model("qwen3-30b-a3b")
    counts = count_shape(shape)
    layout = Layout(64, ep=8, shard="zero3")
    one = replace(job("qwen3-30b-a3b", layout, batch=64, seq_len=4096), precision="bf16")
    found = amounts(one)
    dense_s = 3 * 2 * (counts.total - counts.experts) * 63 / 64 / found.shard_bandwidth
    expert_s = 3 * 2 * counts.experts / 8 * 7 / 8 / h100.network_bytes_per_s
    assert found.gather_bytes / found.shard_bandwidth == pytest.approx(dense_s + expert_s)
