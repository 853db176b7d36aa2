"""Segments against rows alone, hand-written gradients, long rows; families have their own test."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from whorl.arch.computable import MASK_TOKENS, block_tokens
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


# A plainly causal row first, then masked ones; in the second, documents short enough for blocks of
# 32, one as long as a block that begins in the middle of another. In the third 32 does not divide.
ROWS = {
    "by a mask": ([40], [7, 1, 32], [20, 20]),
    "in blocks": ([256], [30, 2, *[1] * 16, 32, *[11] * 16], [*[32] * 8], [16, *[32] * 7, 16]),
    "no blocks fit": ([150], [*[10] * 15]),
}


@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS.keys())
@pytest.mark.parametrize("family, window", [("qwen3", None), ("llama", None), ("llama", 9)])
def test_segments_are_as_if_alone(
    family: str, window: int | None, rows: tuple[list[int], ...]
) -> None:
    shape = small(family, max_seq_len=256)
    if window:
        shape = replace(shape, attention=replace(shape.attention, window=window, windowed=(1,)))
    model = random_model(shape).double()
    tokens = sum(rows[0])
    ids = torch.randint(0, 61, (len(rows), tokens), generator=torch.Generator().manual_seed(3))
    starts = torch.zeros(ids.shape, dtype=torch.bool)
    for row, lengths in enumerate(rows):
        starts[row, [sum(lengths[:number]) for number in range(len(lengths))]] = True
    segments = segments_of(starts)
    assert segments.lengths == tuple(map(tuple, rows))
    together = model(ids, segments)
    together.square().sum().backward()
    found = [
        parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None
    ]
    model.zero_grad()
    for row, lengths in enumerate(rows):
        for part, own in zip(together[row].split(lengths), ids[row].split(lengths), strict=True):
            alone = model(own[None])[0]
            assert (part - alone).abs().max() < 1e-12
            alone.square().sum().backward()
    for parameter, of_all in zip(model.parameters(), found, strict=False):
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, of_all, rtol=1e-9, atol=1e-9)


def test_blocks_halve_the_pairs_at_least() -> None:
    assert block_tokens(256, 32) == 32 and block_tokens(512, 33) == 64
    assert block_tokens(256, 65) == 256  # in blocks of 128 all 256 would be seen from each
    assert block_tokens(150, 10) == 150  # no block divides it
    assert block_tokens(2 * MASK_TOKENS, 10) == 2 * MASK_TOKENS  # document by document


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
