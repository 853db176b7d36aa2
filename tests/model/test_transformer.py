"""Segments against rows alone, hand-written gradients, long rows; families have their own test."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from whorl.arch.computable import MASK_TOKENS
from whorl.arch.dense import dense_shape
from whorl.arch.shape import ModelShape
from whorl.model.attend import Segments, segments_of
from whorl.model.fused import attention_heads, gated_silu, normed_linear, unit_rms
from whorl.model.transformer import Transformer


def small(family: str = "qwen3", **changes: object) -> ModelShape:
    sizes: dict[str, object] = {
        "family": family,
        "layers": 2,
        "width": 24,
        "heads": 4,
        "kv_heads": 2,
        "head_dim": 8,
        "ffn_width": 40,
        "vocab_size": 61,
        "max_seq_len": 64,
    }
    return dense_shape(**(sizes | changes))  # type: ignore[arg-type]


def random_model(shape: ModelShape, seed: int = 0) -> Transformer:
    torch.manual_seed(seed)
    model = Transformer(shape)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.2).add_(1.0 if parameter.ndim == 1 else 0.0)
    return model


@pytest.mark.parametrize("family", ["qwen3", "llama"])
def test_segments_are_as_if_alone(family: str) -> None:
    model = random_model(small(family)).double()
    lengths = [[40], [7, 1, 32], [20, 20]]  # a plainly causal row first, then masked ones
    ids = torch.randint(0, 61, (3, 40), generator=torch.Generator().manual_seed(3))
    starts = torch.zeros(3, 40, dtype=torch.bool)
    for row, parts in enumerate(lengths):
        for part in range(len(parts)):
            starts[row, sum(parts[:part])] = True
    segments = segments_of(starts)
    assert segments.lengths == ((40,), (7, 1, 32), (20, 20))
    together = model(ids, segments)
    for row, parts in enumerate(lengths):
        begin = 0
        for length in parts:
            alone = model(ids[row : row + 1, begin : begin + length])[0]
            assert (together[row, begin : begin + length] - alone).abs().max() < 1e-12
            begin += length


def test_one_segment_needs_no_mask() -> None:
    starts = torch.zeros(2, 9, dtype=torch.bool)
    assert segments_of(starts) == Segments()


def test_fused_gradients_are_right() -> None:
    generator = torch.Generator().manual_seed(4)

    def random(*shape: int) -> torch.Tensor:
        values = torch.randn(shape, generator=generator, dtype=torch.float64)
        return values.requires_grad_()

    check = torch.autograd.gradcheck
    assert check(lambda x: unit_rms(x, 1e-3), (random(3, 5, 8),))
    assert check(gated_silu, (random(3, 5, 8),))
    assert check(
        lambda x, norm, first, second: normed_linear(x, norm, (first, second), 1e-3),
        (random(2, 3, 4), random(4), random(5, 4), random(2, 4)),
    )
    angles = torch.randn(5, 1, 2, generator=generator, dtype=torch.float64)
    turns = angles.cos(), angles.sin()
    joined, norm = random(2, 5, (3 + 2 * 1) * 4), random(4, 4)
    assert check(lambda x, norm: attention_heads(x, (3, 1), norm, *turns, 1e-3), (joined, norm))
    assert check(lambda x: attention_heads(x, (3, 1), None, *turns, 1e-3), (joined,))


@pytest.mark.parametrize("family", ["qwen3", "llama"])
def test_the_fused_forward_is_the_plain_one(family: str) -> None:
    model = random_model(small(family)).double()
    ids = torch.randint(0, 61, (2, 30), generator=torch.Generator().manual_seed(6))
    with torch.no_grad():
        plain = model(ids)
    assert (model(ids) - plain).abs().max() < 1e-12
    model.join_products(False)
    assert (model(ids) - plain).abs().max() < 1e-12


def test_bf16_autocast_is_near() -> None:
    model = random_model(small())
    ids = torch.randint(0, 61, (2, 30), generator=torch.Generator().manual_seed(5))
    starts = torch.zeros(2, 30, dtype=torch.bool)
    starts[1, 11] = True
    exact = model(ids, segments_of(starts))
    with torch.autocast("cpu", torch.bfloat16):
        near = model(ids, segments_of(starts))
        near.float().square().mean().backward()
    assert (near - exact).abs().max() < 0.1 * exact.abs().max()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("window", [None, 100])
def test_long_rows_are_attended_document_by_document(window: int | None) -> None:
    """Rows beyond MASK_TOKENS: the same numbers as each document alone."""
    shape = small(max_seq_len=3000)
    if window:
        shape = replace(shape, attention=replace(shape.attention, window=window, windowed=(1,)))
    model = random_model(shape).double()
    ids = torch.randint(0, 61, (2, MASK_TOKENS + 400), generator=torch.Generator().manual_seed(7))
    starts = torch.zeros(ids.shape, dtype=torch.bool)
    starts[:, [3, 900, 901]] = True
    starts[1, 1200] = True
    together = model(ids, segments_of(starts))
    for row, places in enumerate(([0, 3, 900, 901], [0, 3, 900, 901, 1200])):
        for begin, end in pairwise([*places, ids.shape[1]]):
            alone = model(ids[row : row + 1, begin:end])[0]
            assert (together[row, begin:end] - alone).abs().max() < 1e-12


LONG = """
import pathlib, sys, torch
from tests.model.test_transformer import random_model, small
from whorl.model.attend import segments_of
torch.set_num_threads(1)
tokens = int(sys.argv[1])
model = random_model(small(max_seq_len=tokens))
def peak():  # KiB; ru_maxrss would count the parent's, from before exec
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])
before = peak()
ids = torch.zeros(1, tokens, dtype=torch.long)
starts = torch.zeros(1, tokens, dtype=torch.bool)
starts[:, tokens // 3 :: tokens // 5] = True
model.nats(ids, ids, segments_of(starts)).backward()
print(peak() - before)
"""


def test_a_row_of_32768_tokens_trains_in_linear_memory() -> None:
    """Four times the tokens: about four times the memory, where a mask would take 16 times."""
    grown = []
    for tokens in (8192, 32_768):
        command = [sys.executable, "-c", LONG, str(tokens)]
        ran = subprocess.run(command, capture_output=True, text=True, check=True)
        grown.append(int(ran.stdout))  # KiB
    assert grown[1] < 5 * grown[0] and grown[1] < 600 * 1024
