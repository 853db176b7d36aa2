"""One step, and the loss on held-out rows.

Axes: B rows, T tokens of a row.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from whorl.core.errors import DivergedError, ResourceError
from whorl.model.compiled import compiled_around, has_compiler
from whorl.model.transformer import Segments, Transformer
from whorl.spec.resolved import TrainConfig
from whorl.stages.train.batch import Batch, MicroBatch
from whorl.stages.train.lanes import Lanes
from whorl.stages.train.optimizers import Optimizers
from whorl.stages.train.schedule import learning_rate_share

__all__ = ["StepResult", "Trainer"]


@dataclass(frozen=True)
class StepResult:
    """What a step did; the same numbers whenever it is done again."""

    loss: float  # nats per trained token, of the weights before the update
    learning_rate: float
    gradient_norm: float  # of all gradients, before clipping
    trained_tokens: int


class Trainer:
    """A model with its optimisers. Rows of a batch may be split in any way: see `gradients`."""

    def __init__(self, model: Transformer, config: TrainConfig) -> None:
        self.model, self.config = model, config
        self.named = dict(model.named_parameters())
        self.parameters = list(self.named.values())
        self.optimizers = Optimizers(self.named, config)
        self.device = model.lm_head_weight.device
        self.lanes = Lanes(config.lanes if self.device.type == "cpu" else 1, config.threads)
        apart = config.precision == "bf16" and config.attention_dtype == "fp32"
        model.attend_in(torch.float32 if apart else None)
        if config.compiled:
            self._compile()

    def step(self, step: int, batch: Batch) -> StepResult:
        """Move the weights by one batch. Raises DivergedError before a non-finite update."""
        loss = self.gradients(batch, step)
        norm = self.clip()
        if not math.isfinite(norm):
            raise _diverged("the gradient", norm, step, batch.row_numbers)
        share = learning_rate_share(step, self.config)
        self.lanes.run(self.optimizers.work(share, self.lanes.count))
        return StepResult(loss, self.config.learning_rate * share, norm, batch.trained_tokens)

    def gradients(self, batch: Batch, step: int = 0) -> float:
        """Fill every .grad; gives the loss in nats per trained token of the whole batch.

        Both are sums over trained tokens divided by their number in the batch, so that
        micro-batches, lanes and packing change nothing but rounding.
        """
        scale = 1.0 / max(1, batch.trained_tokens)
        for parameter in self.parameters:
            parameter.grad = None  # or it would be held beside the next ones
        count = min(self.lanes.count, len(batch.micro_batches))
        shares = [batch.micro_batches[lane::count] for lane in range(count)]
        lanes = self.lanes.run([partial(self._lane, share, scale, step) for share in shares])
        for number, parameter in enumerate(self.parameters):
            parameter.grad = lanes[0][1][number]
        others = [gradients for _, gradients in lanes[1:]]
        if others:
            self.lanes.run([partial(self._add, others, part) for part in self._parts()])
        return sum(nats for nats, _ in lanes) * scale

    def clip(self) -> float:
        """Scale the gradients down to `clip_norm` together; gives their norm before."""
        parts = [[self.parameters[number].grad for number in part] for part in self._parts()]
        gradients = [[g for g in part if g is not None] for part in parts]
        norms = self.lanes.run([partial(_norm, part) for part in gradients])
        norm = float(torch.linalg.vector_norm(torch.stack(norms)))
        share = self.config.clip_norm / (norm + 1e-6)  # as torch.nn.utils.clip_grad_norm_
        if self.config.clip_norm > 0 and share < 1:
            self.lanes.run([partial(torch._foreach_mul_, part, share) for part in gradients])
        return norm

    def heldout_loss(self, batches: Iterable[Batch]) -> float:
        """Nats per trained token."""
        nats, tokens = 0.0, 0
        left = iter(batches)
        while together := list(itertools.islice(left, self.lanes.count)):
            tokens += sum(batch.trained_tokens for batch in together)
            micro_batches = [micro for batch in together for micro in batch.micro_batches]
            nats += sum(self.lanes.run([partial(self._value, micro) for micro in micro_batches]))
        return nats / max(1, tokens)

    @torch.no_grad()
    def _value(self, micro: MicroBatch) -> float:
        return float(self._nats(micro))

    def _lane(
        self, micro_batches: Sequence[MicroBatch], scale: float, step: int
    ) -> tuple[float, list[Tensor]]:
        """(nats, gradients of scale * nats), summed over micro-batches."""
        total = 0.0
        gradients: list[Tensor] = []
        for micro in micro_batches:
            loss = self._nats(micro)
            nats = float(loss.detach())
            if not math.isfinite(nats):
                rows = [int(row) for row in micro.row_numbers]
                raise _diverged("the loss", nats, step, rows)
            found = list(torch.autograd.grad(loss * scale, self.parameters))
            if gradients:
                torch._foreach_add_(gradients, found)
            else:
                gradients = found
            del loss, found  # or they would be held during the next forward
            total += nats
        return total, gradients

    def _nats(self, micro: MicroBatch) -> Tensor:
        in_bf16 = self.config.precision == "bf16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=in_bf16):
            return self.model.nats(micro.ids_BT, micro.targets_BT, micro.segments)

    def _compile(self) -> None:
        """Compile for the micro-batches of a step, before lanes begin, on the threads of one lane.

        Raises ResourceError if it cannot be done here.
        """
        config = self.config
        try:
            if not has_compiler():
                raise OSError("no C++ compiler (g++, or what CXX names)")
            threads = torch.get_num_threads()
            torch.set_num_threads(max(1, config.threads // self.lanes.count))
            self.model.compute_by(compiled_around())
            for rows in sorted(_sizes(config.batch_tokens // config.seq_len, config)):
                ids = torch.zeros(rows, config.seq_len, dtype=torch.int64, device=self.device)
                micro = MicroBatch(ids, ids, Segments(), np.arange(rows, dtype=np.int64))
                with warnings.catch_warnings(action="ignore"):  # torch's, about its own tracing
                    torch.autograd.grad(self._nats(micro), self.parameters)
            torch.set_num_threads(threads)
        except (OSError, RuntimeError) as error:
            raise ResourceError(
                "the blocks of the model cannot be compiled here",
                found=str(error).strip().splitlines()[0],
                do="set train.compiled=false",
            ) from error

    def _parts(self) -> list[range]:
        """Numbers of the parameters, shared out."""
        count = min(self.lanes.count, len(self.parameters))
        return [range(lane, len(self.parameters), count) for lane in range(count)]

    def _add(self, others: Sequence[Sequence[Tensor]], numbers: Sequence[int]) -> None:
        for gradients in others:
            for number in numbers:
                whole = self.parameters[number].grad
                assert whole is not None
                whole.add_(gradients[number])


def _sizes(rows: int, config: TrainConfig) -> set[int]:
    """Rows of the micro-batches that `make_batch` makes of a step's."""
    count = -(-rows // config.micro_batch_rows)
    return {rows // count, -(-rows // count)}


def _norm(gradients: list[Tensor]) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    return norm


def _diverged(what: str, value: float, step: int, rows: list[int]) -> DivergedError:
    shown = ", ".join(map(str, rows[:16])) + (" …" if len(rows) > 16 else "")
    return DivergedError(
        f"{what} is not finite at step {step} (rows {shown})",
        found=value,
        expected="a finite number; the weights before this step are kept",
        do="lower train.learning_rate, or look at those rows of the prepared record",
    )
