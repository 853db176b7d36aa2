"""Small timed loops: how fast this machine multiplies, attends, moves memory and steps.

Every figure is that of the fastest of many short repeats: what others do on the machine makes a
repeat slower, never faster.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from whorl.stages.plan.hardware import AttentionRate, MatmulRate, Precision, TrafficRate
from whorl.stages.train.optimizers.muon import DTYPES

__all__ = [
    "DTYPES",
    "Pool",
    "Stopwatch",
    "attention_rates",
    "exponentials_per_s",
    "matmul_rates",
    "operation_s",
    "orthogonalise_rates",
    "traffic_rates",
]

ELEMENT_BYTES = 4
BACKWARD_AND_FORWARD = 3

# (tokens, columns, rows): a narrow and a wide model's products, few and many tokens
MATMUL_SHAPES = (
    (1024, 64, 64),
    (1024, 128, 128),
    (1024, 128, 384),
    (1024, 384, 128),
    (1024, 256, 256),
    (1024, 256, 768),
    (1024, 256, 2048),
    (1024, 512, 1536),
    (4096, 128, 384),
    (4096, 256, 256),
)
ORTHOGONALISE_SHAPES = ((4, 64, 192), (4, 128, 128), (4, 128, 384), (4, 256, 768), (1, 512, 1536))
ATTENTION_SHAPES = ((128, 64), (256, 32), (256, 64), (512, 64))  # (seq_len, head_dim)
ATTENTION_TOKENS, ATTENTION_HEADS = 1024, 2
TRAFFIC_BYTES = (2**16, 2**18, 2**20, 4 * 2**20, 12 * 2**20)
POOL_BYTES = 96 * 2**20
LOGITS = (1024, 2048)
OPERATIONS = 20
MIN_REPEATS = 5


@dataclass
class Stopwatch:
    """Times functions, each for about `seconds_each`, and remembers how much they varied."""

    seconds_each: float = 0.03
    patience_s: float = 9.0  # afterwards one run must do
    clock: Callable[[], float] = time.perf_counter
    spreads: list[float] = field(default_factory=list)
    begin: float = field(default_factory=time.perf_counter)

    def fastest(self, run: Callable[[], object], seconds_each: float | None = None) -> float:
        """Seconds of the fastest repeat, after one that is not counted."""
        begin = self.clock()
        run()
        if self.clock() - self.begin > self.patience_s:
            return self.clock() - begin
        seconds: list[float] = []
        end = self.clock() + (self.seconds_each if seconds_each is None else seconds_each)
        while not seconds or self._goes_on(len(seconds), end):
            start = self.clock()
            run()
            seconds.append(self.clock() - start)
        best = min(seconds)
        self.spreads.append(statistics.median(seconds) / max(best, 1e-9) - 1)
        return best

    def _goes_on(self, repeats: int, end: float) -> bool:
        now = self.clock()
        return (repeats < MIN_REPEATS or now < end) and now - self.begin < self.patience_s

    @property
    def noise(self) -> float:
        """Median over probes of (median - fastest) / fastest."""
        return statistics.median(self.spreads) if self.spreads else 0.0


class Pool:
    """Memory larger than the caches, handed out piece by piece: operands arrive cold, as in a step.

    In training an operation's operands were written long ago, or are new memory.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self.memory = torch.randn(POOL_BYTES // ELEMENT_BYTES).to(dtype)
        self.next = 0

    def take(self, *shape: int) -> Tensor:
        """The next piece of that shape; after the last comes the first again."""
        length = math.prod(shape)
        if self.next + length > len(self.memory):
            self.next = 0
        piece = self.memory[self.next : self.next + length].view(shape)
        self.next += length
        return piece


def matmul_rates(watch: Stopwatch, pool: Pool, precision: Precision) -> Iterator[MatmulRate]:
    """y = x W^T with both gradients, by shape."""
    shapes = MATMUL_SHAPES if precision == "fp32" else MATMUL_SHAPES[::3]
    for tokens, columns, rows in shapes:
        weight = torch.randn(rows, columns).to(DTYPES[precision])

        def products(
            size: tuple[int, int, int] = (tokens, columns, rows), w: Tensor = weight
        ) -> None:
            tokens, columns, rows = size
            x, g = pool.take(tokens, columns), pool.take(tokens, rows)
            functional.linear(x, w)
            torch.mm(g, w)
            torch.mm(g.t(), x)

        flops = BACKWARD_AND_FORWARD * 2.0 * tokens * columns * rows
        yield MatmulRate(
            precision=precision,
            tokens=tokens,
            columns=columns,
            rows=rows,
            flops_per_s=flops / watch.fastest(products),
        )


def orthogonalise_rates(
    watch: Stopwatch, run: Callable[[Any], object], precision: Precision
) -> list[MatmulRate]:
    """Muon's iteration on batches of matrices; tokens stands for their number.

    run: the optimiser's own function, [n, small, large] -> the same.
    """
    rates = []
    for count, small, large in ORTHOGONALISE_SHAPES:
        matrices = torch.randn(count, small, large)
        flops = count * 5 * (4.0 * small * small * large + 2.0 * small**3)
        seconds = watch.fastest(partial(run, matrices))
        rates.append(
            MatmulRate(
                precision=precision,
                tokens=count,
                columns=large,
                rows=small,
                flops_per_s=flops / seconds,
            )
        )
    return rates


def attention_rates(watch: Stopwatch, pool: Pool, precision: Precision) -> Iterator[AttentionRate]:
    """Scaled dot-product attention and its gradients, plainly causal and with a mask."""
    shapes = ATTENTION_SHAPES if precision == "fp32" else ATTENTION_SHAPES[-1:]
    for seq_len, head_dim in shapes:
        num_rows = ATTENTION_TOKENS // seq_len
        lower = torch.ones(seq_len, seq_len, dtype=torch.bool).tril()
        blocked = torch.zeros(num_rows, 1, seq_len, seq_len).masked_fill_(~lower, float("-inf"))
        for mask in (None, blocked.to(DTYPES[precision])):

            def attend(
                size: tuple[int, ...] = (num_rows, seq_len, ATTENTION_HEADS, head_dim),
                mask: Tensor | None = mask,
            ) -> None:
                inputs = [pool.take(*size).requires_grad_() for _ in range(3)]
                query, key, value = (tensor.transpose(1, 2) for tensor in inputs)
                out = functional.scaled_dot_product_attention(
                    query, key, value, attn_mask=mask, is_causal=mask is None
                )
                torch.autograd.grad(out, inputs, pool.take(*size).transpose(1, 2))

            pairs = num_rows * ATTENTION_HEADS * seq_len**2
            yield AttentionRate(
                precision=precision,
                seq_len=seq_len,
                head_dim=head_dim,
                masked=mask is not None,
                pairs_per_s=pairs / watch.fastest(attend),
            )


def traffic_rates(watch: Stopwatch, pool: Pool) -> Iterator[TrafficRate]:
    """c = a + b on arrays of several sizes."""
    for num_bytes in TRAFFIC_BYTES:
        length = num_bytes // ELEMENT_BYTES // 3

        def add(length: int = length) -> None:
            torch.add(pool.take(length), pool.take(length), out=pool.take(length))

        yield TrafficRate(num_bytes=num_bytes, bytes_per_s=num_bytes / watch.fastest(add))


def exponentials_per_s(watch: Stopwatch, pool: Pool) -> float:
    """Elements per second of a softmax over a vocabulary, the loss's main pass."""

    def softmax() -> None:
        functional.log_softmax(pool.take(*LOGITS), dim=-1).exp_()

    return math.prod(LOGITS) / watch.fastest(softmax)


def operation_s(watch: Stopwatch) -> float:
    """Seconds of one operation on next to nothing, its gradient included."""
    x = torch.ones(8, requires_grad=True)

    def chain() -> None:
        y = x
        for _ in range(OPERATIONS):
            y = y * 1.5
        torch.autograd.grad(y.sum(), x)

    return watch.fastest(chain) / OPERATIONS / 2
