"""The angles of rotary positions, stretched or not."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from whorl.arch.shape import Rope
from whorl.core.errors import SpecError

__all__ = ["inverse_frequencies"]


def inverse_frequencies(rope: Rope, head_dim: int) -> Tensor:
    """[N/2], float32 on the CPU: by how much each pair of a head turns from token to token.

    Raises SpecError on a scaling that cannot be computed.
    """
    pairs = torch.arange(0, head_dim, 2, dtype=torch.float32, device="cpu")
    plain = 1.0 / rope.theta ** (pairs / head_dim)
    if rope.scaling == "default":
        return plain
    if rope.scaling == "linear":
        return plain / rope.factor
    if rope.scaling == "llama3":
        return _llama3(rope, plain)
    if rope.scaling == "yarn":
        return _yarn(rope, plain, head_dim)
    raise SpecError("rope scaling", found=rope.scaling, expected="default, linear, llama3 or yarn")


def _turns(rope: Rope, plain: Tensor) -> Tensor:
    """How often each pair turns in a sequence as long as those before stretching."""
    if rope.original_seq_len is None:
        raise SpecError(f"rope scaling {rope.scaling}: the length before stretching is missing")
    return rope.original_seq_len * plain / (2 * math.pi)


def _llama3(rope: Rope, plain: Tensor) -> Tensor:
    """Pairs that turn rarely are slowed by `factor`, frequent ones not, a line between."""
    low, high = rope.low_freq_factor, rope.high_freq_factor
    kept = ((_turns(rope, plain) - low) / (high - low)).clamp(0, 1)
    return (1 - kept) * plain / rope.factor + kept * plain


def _yarn(rope: Rope, plain: Tensor, head_dim: int) -> Tensor:
    """The same with a line over the pairs' numbers (arXiv 2309.00071, section 3.2)."""
    turns = _turns(rope, plain)

    def pair_that_turns(times: float) -> float:
        first = float(turns[0])  # theta^0: the fastest pair
        return head_dim * math.log(first / times) / (2 * math.log(rope.theta))

    low, high = pair_that_turns(rope.beta_fast), pair_that_turns(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0.0), min(high, head_dim - 1.0)
    number = torch.arange(head_dim // 2, dtype=torch.float32, device="cpu")
    kept = 1 - ((number - low) / max(high - low, 0.001)).clamp(0, 1)
    return (1 - kept) * plain / rope.factor + kept * plain
