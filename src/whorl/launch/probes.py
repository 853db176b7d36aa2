"""What a calibration times, done by torch: single operations, and whole training steps.

Operations are done on the threads of one lane. What one thread computes is timed by that thread's
own clock too, which stands still while another process has the core.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import functional

from whorl.arch.shape import ModelShape
from whorl.launch.candidates import CHOICE_STEP, Way
from whorl.launch.figures import (
    ATTENTION_HEADS,
    ATTENTION_TOKENS,
    OPERATIONS,
    Rate,
    reference_step,
    step_config,
)
from whorl.launch.rehearsal import rehearsed
from whorl.launch.turns import Try
from whorl.spec.resolved import TrainConfig
from whorl.stages.plan.step_time import reference_load
from whorl.stages.train.lanes import Lanes
from whorl.stages.train.optimizers.muon import DTYPES, orthogonalise

__all__ = ["MeteredLanes", "Pool", "TorchBench", "timed_step"]

ELEMENT_BYTES = 4
POOL_BYTES = 96 * 2**20
PRODUCT_SIZE = 384
ORTHOGONALISE_SHAPE = (4, 128, 384)
TRY_S = 0.002  # at least, of operations that take less: several of them are one try
MOST_AT_ONCE = 1_000
FINE_S = 1e-4  # at most, between two values of a clock that is of use
TINY = (1, 32, 32, 64, 256, 32, 1, False)  # a step of next to nothing
T = TypeVar("T")
Run = Callable[[], object]


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


class MeteredLanes(Lanes):
    """Lanes that know how long the busiest of them has computed, all meetings added up.

    That is what a step takes if no lane has to wait for a core: lanes wait for each other asleep.
    """

    busy_s = 0.0

    def run(self, work: Sequence[Callable[[], T]]) -> list[T]:
        if self.count == 1 or len(work) < 2:
            return super().run(work)
        took: dict[int, float] = {}
        found = super().run([partial(self._timed, item, took) for item in work])
        self.busy_s += max(took.values())
        return found

    def run_one(self, work: Callable[[], T]) -> T:
        if self.count == 1:
            return super().run_one(work)
        took: dict[int, float] = {}
        found = super().run_one(partial(self._timed, work, took))
        self.busy_s += sum(took.values())
        return found

    def _timed(self, item: Callable[[], T], took: dict[int, float]) -> T:
        begin_s = time.thread_time()
        try:
            return item()
        finally:
            own = threading.get_ident()
            took[own] = took.get(own, 0.0) + time.thread_time() - begin_s


def timed_step(shape: ModelShape, config: TrainConfig, mixed_rows: int = 0) -> Callable[[], Try]:
    """A function that does one more step of a new model on the same made-up rows."""
    trainer, batch = rehearsed(shape, config, mixed_rows)
    count = trainer.lanes.count
    trainer.lanes.close()
    lanes = MeteredLanes(count, config.threads)
    trainer.lanes = lanes
    each = max(1, config.threads // count)

    def once() -> Try:
        torch.set_num_threads(each)
        begin_s, begin_cpu_s, before_s = time.perf_counter(), time.thread_time(), lanes.busy_s
        trainer.step(0, batch)
        wall_s = time.perf_counter() - begin_s
        cpu_s = time.thread_time() - begin_cpu_s + lanes.busy_s - before_s
        return Try(wall_s, cpu_s if each == 1 and thread_clock_is_fine() else None)

    return once


@cache
def thread_clock_is_fine() -> bool:
    """Whether a thread's clock moves often enough: on some systems 64 times a second."""
    begin_s = time.thread_time()
    while (now_s := time.thread_time()) == begin_s:
        pass
    return now_s - begin_s < FINE_S


def timed(run: Run, threads: int = 1) -> Callable[[], Try]:
    """The seconds of one time, of as many at once as can be timed well; the first is for that."""
    count = 0

    def once() -> Try:
        nonlocal count
        torch.set_num_threads(threads)
        times = max(1, count)
        begin_s, begin_cpu_s = time.perf_counter(), time.thread_time()
        for _ in range(times):
            run()
        wall_s = (time.perf_counter() - begin_s) / times
        cpu_s = (time.thread_time() - begin_cpu_s) / times
        is_fine = threads == 1 and thread_clock_is_fine()
        own_s = max(cpu_s if is_fine else wall_s, 1e-9)
        count = max(1, min(MOST_AT_ONCE, math.ceil(TRY_S / own_s)))
        return Try(wall_s, cpu_s if is_fine else None)

    return once


class TorchBench:
    """`Bench` on this machine."""

    def __init__(self) -> None:
        """Loads what any step needs into memory."""
        self._step(TINY, {"threads": 1, "lanes": 1})()
        self._pools: dict[str, Pool] = {}

    def way(self, way: Way) -> Callable[[], Try]:
        *sizes, _, masked = CHOICE_STEP
        rows = max(1, way.rows // int(way.settings["lanes"]))
        return self._step((*sizes, rows, masked), way.settings)

    def product(self, dtype: str) -> Callable[[], Try]:
        x = torch.randn(PRODUCT_SIZE, PRODUCT_SIZE).to(DTYPES[dtype])
        return timed(lambda: torch.mm(x, x))

    def muon(self, dtype: str) -> Callable[[], Try]:
        matrices = torch.randn(ORTHOGONALISE_SHAPE)
        return timed(lambda: orthogonalise(matrices, dtype=DTYPES[dtype]))

    def reference(self, values: tuple[Any, ...], settings: Mapping[str, Any]) -> Callable[[], Try]:
        return self._step(values, settings)

    def rate(self, rate: Rate, settings: Mapping[str, Any]) -> Callable[[], Try]:
        make = {
            "matmul": self._products,
            "orthogonalise": self._orthogonalise,
            "attention": self._attention,
            "traffic": self._traffic,
            "exponentials": self._softmax,
            "operations": self._chain,
        }[rate.kind]
        return timed(make(rate), max(1, settings["threads"] // settings["lanes"]))

    def _step(self, values: tuple[Any, ...], settings: Mapping[str, Any]) -> Callable[[], Try]:
        step = reference_step(values, settings)
        config = step_config(step.rows, step.seq_len, settings)
        mixed_rows = step.rows if step.masked else 0
        return timed_step(reference_load(step).shape, config, mixed_rows)

    def _pool(self, precision: str) -> Pool:
        if precision not in self._pools:
            self._pools[precision] = Pool(DTYPES[precision])
        return self._pools[precision]

    def _products(self, rate: Rate) -> Run:
        """y = x W^T with both gradients."""
        tokens, columns, rows = rate.shape
        pool, weight = self._pool(rate.precision), torch.randn(rows, columns)
        weight = weight.to(DTYPES[rate.precision])

        def run() -> None:
            x, g = pool.take(tokens, columns), pool.take(tokens, rows)
            functional.linear(x, weight)
            torch.mm(g, weight)
            torch.mm(g.t(), x)

        return run

    def _orthogonalise(self, rate: Rate) -> Run:
        """Muon's own iteration on a batch of matrices."""
        matrices, dtype = torch.randn(*rate.shape), DTYPES[rate.precision]
        return lambda: orthogonalise(matrices, dtype=dtype)

    def _attention(self, rate: Rate) -> Run:
        """Scaled dot-product attention and its gradients, plainly causal or with a mask."""
        seq_len, head_dim = rate.shape
        num_rows, pool = ATTENTION_TOKENS // seq_len, self._pool(rate.precision)
        size = num_rows, seq_len, ATTENTION_HEADS, head_dim
        mask: Tensor | None = None
        if rate.masked:
            lower = torch.ones(seq_len, seq_len, dtype=torch.bool).tril()
            blocked = torch.zeros(num_rows, 1, seq_len, seq_len).masked_fill_(~lower, -math.inf)
            mask = blocked.to(DTYPES[rate.precision])

        def run() -> None:
            inputs = [pool.take(*size).requires_grad_() for _ in range(3)]
            query, key, value = (tensor.transpose(1, 2) for tensor in inputs)
            out = functional.scaled_dot_product_attention(
                query, key, value, attn_mask=mask, is_causal=mask is None
            )
            torch.autograd.grad(out, inputs, pool.take(*size).transpose(1, 2))

        return run

    def _traffic(self, rate: Rate) -> Run:
        """c = a + b."""
        length, pool = rate.shape[0] // ELEMENT_BYTES // 3, self._pool("fp32")
        return lambda: torch.add(pool.take(length), pool.take(length), out=pool.take(length))

    def _softmax(self, rate: Rate) -> Run:
        """Over a vocabulary, the loss's main pass."""
        pool = self._pool("fp32")
        return lambda: functional.log_softmax(pool.take(*rate.shape), dim=-1).exp_()

    def _chain(self, rate: Rate) -> Run:
        """Operations on next to nothing, their gradients included."""
        x = torch.ones(8, requires_grad=True)

        def run() -> None:
            y = x
            for _ in range(OPERATIONS):
                y = y * 1.5
            torch.autograd.grad(y.sum(), x)

        return run
