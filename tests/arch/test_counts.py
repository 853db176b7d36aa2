"""Counts against published models, against torch's own parameters and its FLOP counter."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from whorl.arch.dense import dense_shape
from whorl.arch.layers import layer_matrices
from whorl.arch.shape import ModelShape
from whorl.arch.shape_counts import (
    attention_pairs,
    cache_bytes_per_token,
    count_shape,
    flops_per_token,
    kv_bytes_per_token,
    training_bytes,
)
from whorl.core.errors import SpecError


def dense(**changes: object) -> ModelShape:
    sizes: dict[str, object] = {
        "layers": 2,
        "width": 64,
        "heads": 4,
        "kv_heads": 2,
        "head_dim": 16,
        "ffn_width": 160,
        "vocab_size": 300,
        "max_seq_len": 48,
    }
    return dense_shape(**(sizes | changes))  # type: ignore[arg-type]


# (sizes of the public config.json, parameters its authors publish)
PUBLISHED = {
    "Llama-3-8B": (("llama", 32, 4096, 32, 8, 128, 14336, 128256, False), 8_030_261_248),
    "Llama-3.1-70B": (("llama", 80, 8192, 64, 8, 128, 28672, 128256, False), 70_553_706_496),
    "Llama-3.2-1B": (("llama", 16, 2048, 32, 8, 64, 8192, 128256, True), 1_235_814_400),
    "Llama-2-7B": (("llama", 32, 4096, 32, 32, 128, 11008, 32000, False), 6_738_415_616),
    "TinyLlama-1.1B": (("llama", 22, 2048, 32, 4, 64, 5632, 32000, False), 1_100_048_384),
    "SmolLM2-135M": (("llama", 30, 576, 9, 3, 64, 1536, 49152, True), 134_515_008),
    "Qwen3-0.6B": (("qwen3", 28, 1024, 16, 8, 128, 3072, 151936, True), 596_049_920),
    "Qwen3-4B": (("qwen3", 36, 2560, 32, 8, 128, 9728, 151936, True), 4_022_468_096),
    "Qwen3-8B": (("qwen3", 36, 4096, 32, 8, 128, 12288, 151936, False), 8_190_735_360),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_of_published_models(name: str) -> None:
    sizes, expected = PUBLISHED[name]
    keys = ("family", "layers", "width", "heads", "kv_heads", "head_dim", "ffn_width")
    sizes_by_name = dict(zip((*keys, "vocab_size", "tied_embeddings"), sizes, strict=True))
    assert count_shape(dense(**sizes_by_name)).total == expected


@pytest.mark.parametrize("family", ["qwen3", "llama"])
@pytest.mark.parametrize("tied", [True, False])
def test_parameters_and_bytes_match_torch(family: str, tied: bool) -> None:
    from whorl.model.transformer import Transformer

    shape = dense(family=family, tied_embeddings=tied)
    with torch.device("meta"):
        model = Transformer(shape)
    counted = count_shape(shape)
    by_name = {name: parameter.numel() for name, parameter in model.named_parameters()}
    assert counted.total == sum(by_name.values())
    assert counted.embedding == by_name["embed_tokens.weight"]
    assert counted.head == by_name.get("lm_head.weight", 0)
    assert counted.norms == sum(size for name, size in by_name.items() if "norm" in name)
    assert counted.attention == sum(n for k, n in by_name.items() if "attn" in k and "proj" in k)
    weights = sum(parameter.nbytes for parameter in model.parameters())
    assert training_bytes(shape).weights == weights == training_bytes(shape).gradients
    optimizer = torch.optim.AdamW(torch.nn.Linear(7, 5, bias=False).parameters())
    for parameter in optimizer.param_groups[0]["params"]:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    per_parameter = (
        sum(
            value.nbytes
            for state in optimizer.state.values()
            for value in state.values()
            if value.ndim
        )
        / 35
    )
    assert training_bytes(shape, "adamw").optimizer_state == per_parameter * counted.total


def test_matrices_match_torch() -> None:
    from whorl.model.transformer import Transformer

    shape = dense()
    with torch.device("meta"):
        block = Transformer(shape).layers[0]
    found = {k.split(".")[-2]: tuple(p.shape) for k, p in block.named_parameters() if p.ndim == 2}
    assert found == {m.name: (m.rows, m.columns) for m in layer_matrices(shape, "dense")}


def test_flops_of_the_matrices_match_torch() -> None:
    from whorl.model.transformer import Transformer

    shape, rows, seq_len = dense(), 3, 48
    model = Transformer(shape)
    counter = FlopCounterMode(display=False)
    with counter:
        hidden = model(torch.zeros(rows, seq_len, dtype=torch.long))
        model.logits(hidden).sum().backward()
    products = {"aten.mm", "aten.addmm", "aten.bmm"}
    measured = sum(
        flops for op, flops in counter.get_flop_counts()["Global"].items() if str(op) in products
    )
    counted = flops_per_token(shape, seq_len)
    assert 3 * (counted.blocks + counted.head) * rows * seq_len == measured


def test_attention_flops_match_brute_force() -> None:
    shape, seq_len = dense(), 37
    flops = 0
    for token in range(seq_len):
        for _past in range(token + 1):
            flops += shape.layers * 4 * (2 * 16 + 2 * 16)
    assert flops_per_token(shape, seq_len).attention * seq_len == pytest.approx(flops, rel=1e-12)
    assert attention_pairs(seq_len) == sum(range(1, seq_len + 1))


def test_training_flops_near_six_per_parameter() -> None:
    """Kaplan et al. 2020 (2001.08361), section 2.1: about 6 N per token when N is large."""
    shape = dense(layers=32, width=4096, heads=32, kv_heads=32, head_dim=128)
    shape = replace(shape, ffn_width=11008, vocab_size=32000)
    non_embedding = count_shape(shape).non_embedding
    assert flops_per_token(shape, 256).training / (6 * non_embedding) == pytest.approx(
        1.03, abs=0.03
    )


@pytest.mark.parametrize("head_dim", [16, 32, 128])
def test_a_served_cache_by_its_numbers(head_dim: int) -> None:
    """Keys and values of 32 tokens, added up: numbers, and two floats wherever a scale is kept."""
    shape = dense(layers=2, heads=4, kv_heads=2, head_dim=head_dim)
    numbers = 2 * 2 * 2 * 32 * head_dim  # layers, heads, keys and values
    by_token, by_channel = 2 * 2 * 2 * 32, 2 * 2 * 2 * head_dim
    most = numbers + 8 * max(by_token, by_channel)
    assert 32 * cache_bytes_per_token(shape, "f32") == 4 * numbers
    assert 32 * cache_bytes_per_token(shape, "int8") == most
    with pytest.raises(SpecError, match=r"numbers of a cache.*found: fp8"):
        cache_bytes_per_token(shape, "fp8")


def test_kv_cache_of_a_published_model() -> None:
    """Llama-3-8B in bf16: 128 KiB per token (8 heads x 128 x 32 layers x 2 x 2 bytes)."""
    shape = dense(layers=32, width=4096, heads=32, kv_heads=8, head_dim=128)
    assert kv_bytes_per_token(shape, 2) == 128 * 1024
