"""Models that see: tokens, time and memory of the images of a sequence."""

from __future__ import annotations

from dataclasses import replace

import pytest

from whorl.arch.known_models import known_model
from whorl.core.errors import SpecError
from whorl.planning import answer
from whorl.stages.plan.cluster.amounts import amounts
from whorl.stages.plan.cluster.devices import device
from whorl.stages.plan.cluster.images import beside_flops, check_images, parse_images
from whorl.stages.plan.cluster.job import Layout, Lora, TrainingJob
from whorl.stages.plan.cluster.memory import rank_memory
from whorl.stages.plan.cluster.memory_states import adapter_elements
from whorl.stages.plan.cluster.step import step_time
from whorl.stages.plan.serving.work import QUANTISATIONS, Deployment


def job(model: str = "qwen2.5-vl-7b", images: int = 0) -> TrainingJob:
    return TrainingJob(
        known_model(model),
        device("h100-sxm"),
        Layout(8, shard="zero3"),
        seq_len=4096,
        global_batch=64,
        stack="fsdp",
        images=images,
        image_pixels=784 * 1000,
    )


def test_an_image_passes_the_encoder_once() -> None:
    """4,000 patches of 14 x 14 pixels by twice its 0.63e9 elements; what joins four of them a
    quarter as often: 2 x (0.63e9 + 0.04e9 / 4) x 4,000."""
    per_image = (beside_flops(job(images=2)) - beside_flops(job())) * 4096 / 2
    assert per_image == pytest.approx(2 * 4000 * 0.64e9, rel=0.05)
    more = amounts(job(images=2)).layer_flops - amounts(job()).layer_flops
    assert more == pytest.approx(3 * 2 * per_image)  # forward, backward; two images a pass
    assert step_time(job(images=2)).step_s > step_time(job()).step_s


def test_images_are_kept_for_the_backward_pass() -> None:
    plain, one, two = (rank_memory(job(images=n)).parts["activations"] for n in range(3))
    assert two - one == pytest.approx(one - plain) and one > plain
    full = replace(job(images=1), layout=Layout(8, shard="zero3", recompute="full"))
    assert rank_memory(full).parts["activations"] < (one - plain)


def test_each_micro_batch_in_flight_keeps_its_images() -> None:
    """Of 1F1B over four stages the first holds four."""

    def kept(pp: int) -> float:
        found = (
            rank_memory(replace(job(images=n), layout=Layout(8, pp=pp)), stage=0) for n in (0, 1)
        )
        plain, seen = (memory.parts["activations"] for memory in found)
        return seen - plain

    assert kept(4) == pytest.approx(4 * kept(1))


def test_an_encoder_before_adapters_is_frozen() -> None:
    """One pass, whatever the layers have, and nothing kept for a backward pass."""
    lora = Lora(targets="all")
    none, two = (replace(job(images=n), task="lora", lora=lora) for n in (0, 2))
    per_image = (beside_flops(job(images=2)) - beside_flops(job())) * 4096 / 2
    for layout in (none.layout, none.layout.with_(recompute="full")):
        of = [amounts(replace(each, layout=layout)).layer_flops for each in (none, two)]
        assert of[1] - of[0] == pytest.approx(2 * per_image)
    parts = [rank_memory(each).parts["activations"] for each in (none, two)]
    assert parts[0] == parts[1]


def test_adapters_of_a_mixer_are_of_its_own_matrices() -> None:
    """Of Mamba-2.8B, width 2,560, inner 5,120, state 16, steps of rank 160: rank times the rows
    and columns of in_proj, x_proj, dt_proj and out_proj."""
    sides = (2560 + 2 * 5120) + (5120 + 160 + 2 * 16) + (160 + 5120) + (5120 + 2560)
    found = adapter_elements(known_model("mamba-2.8b"), Lora(rank=8, targets="all"))
    assert found == 8 * sides


def test_tiles_of_llama_are_limited() -> None:
    """However large, an image is four tiles of 1,601 patches; they are no tokens of the text."""
    large = replace(job("llama-3.2-11b-vision", 1), image_pixels=10**8)
    larger = replace(large, image_pixels=10**9)
    assert beside_flops(large) == beside_flops(larger)
    check_images(large.shape, 8, 10**8, 128)


def test_words_of_images() -> None:
    assert parse_images("2@640") == (2, 640 * 640)
    assert parse_images("3") == (3, 10**6)
    with pytest.raises(SpecError, match="no image encoder"):
        check_images(known_model("qwen2.5-7b"), 1, 10**6, 4096)
    with pytest.raises(SpecError, match="5,000 tokens"):  # a token of 28 x 28 pixels
        check_images(known_model("qwen2.5-vl-7b"), 5, 784_000, 4096)


def test_a_scan_keeps_no_cache_and_sees_no_pairs() -> None:
    """Mamba's time grows with tokens alone: twice the sequence, as many tokens, the same step."""
    short = job("mamba-2.8b")
    long = replace(short, seq_len=8192, global_batch=32)
    of_tokens = [amounts(each).layer_flops / each.seq_len for each in (short, long)]
    assert of_tokens[0] == pytest.approx(of_tokens[1])
    scans = [amounts(each).attention_flops / each.seq_len for each in (short, long)]
    assert scans[0] == pytest.approx(scans[1])


def test_encoders_see_every_pair() -> None:
    """Not half of them: scores of 12 layers, 12 heads of 64, 512 tokens, 2 x 2 FLOPs."""
    from whorl.arch.shape_counts import flops_per_token

    found = flops_per_token(known_model("bert-base"), 512).attention
    assert found == 4 * 12 * 768 * 512


def test_serving_holds_what_stands_beside() -> None:
    """Qwen2.5-VL-7B is Qwen2.5-7B and an image encoder of 676,550,144 elements, in 16 bits."""
    found = [
        Deployment(known_model(name), device("l40s"), 1, QUANTISATIONS["bf16"]).weight_bytes
        for name in ("qwen2.5-vl-7b", "qwen2.5-7b")
    ]
    assert found[0] - found[1] == 2 * 676_550_144
    alone = {"--device": "l40s", "--serve": "users=1"}
    with pytest.raises(SpecError, match="writes no text"):
        answer({"--model": "bert-base", **alone})
    (line,) = answer({"--model": "qwen2.5-vl-7b", **alone}).warnings
    assert line.startswith("image encoder")
