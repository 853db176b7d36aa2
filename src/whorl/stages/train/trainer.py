"""One step, and the loss on held-out rows.

Axes: B rows, T tokens of a row.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from whorl.core.errors import DivergedError
from whorl.model.transformer import Transformer
from whorl.spec.resolved import TrainConfig
from whorl.stages.train.batch import Batch, MicroBatch
from whorl.stages.train.loss import backward_from, head_loss
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

    def step(self, step: int, batch: Batch) -> StepResult:
        """Move the weights by one batch. Raises DivergedError before a non-finite update."""
        loss = self.gradients(batch, step)
        norm = self.clip()
        if not math.isfinite(norm):
            raise _diverged("the gradient", norm, step, batch.row_numbers)
        share = learning_rate_share(step, self.config)
        self.optimizers.step(share)
        return StepResult(loss, self.config.learning_rate * share, norm, batch.trained_tokens)

    def gradients(self, batch: Batch, step: int = 0) -> float:
        """Fill every .grad; gives the loss in nats per trained token of the whole batch.

        Both are sums over trained tokens divided by their number in the batch, so that
        micro-batches and packing change nothing but rounding.
        """
        scale = 1.0 / max(1, batch.trained_tokens)
        self._clear()
        total = 0.0
        for micro in batch.micro_batches:
            nats = self._micro_batch(micro, scale)
            if not math.isfinite(nats):
                rows = [int(row) for row in micro.row_numbers]
                raise _diverged("the loss", nats, step, rows)
            total += nats
        return total * scale

    def clip(self) -> float:
        """Scale the gradients down to `clip_norm` together; gives their norm before."""
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients, foreach=True)
        if self.config.clip_norm > 0:
            torch.nn.utils.clip_grads_with_norm_(
                self.parameters, self.config.clip_norm, norm, foreach=True
            )
        return float(norm)

    @torch.no_grad()
    def heldout_loss(self, batches: Iterable[Batch]) -> float:
        """Nats per trained token."""
        nats, tokens = 0.0, 0
        for batch in batches:
            tokens += batch.trained_tokens
            for micro in batch.micro_batches:
                hidden, targets = self._hidden(micro)
                weight = self.model.lm_head_weight.detach()
                nats += float(head_loss(hidden, weight, targets, 1.0, None)[0])
        return nats / max(1, tokens)

    def _micro_batch(self, micro: MicroBatch, scale: float) -> float:
        hidden, targets = self._hidden(micro)
        head = self.model.lm_head_weight
        nats, gradient = head_loss(hidden.detach(), head.detach(), targets, scale, head.grad)
        assert gradient is not None
        backward_from(hidden, gradient)
        return float(nats)

    def _hidden(self, micro: MicroBatch) -> tuple[Tensor, Tensor]:
        in_bf16 = self.config.precision == "bf16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=in_bf16):
            hidden = self.model(micro.ids_BT, micro.segments)
        if in_bf16:
            hidden = hidden.bfloat16()
        return hidden.flatten(0, 1), micro.targets_BT.flatten()

    def _clear(self) -> None:
        """No gradients but the head's, which is kept as zeros: the loss adds to it in place."""
        head = self.model.lm_head_weight
        for parameter in self.parameters:
            if parameter is not head:
                parameter.grad = None
            elif parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            else:
                parameter.grad.zero_()


def _diverged(what: str, value: float, step: int, rows: list[int]) -> DivergedError:
    shown = ", ".join(map(str, rows[:16])) + (" …" if len(rows) > 16 else "")
    return DivergedError(
        f"{what} is not finite at step {step} (rows {shown})",
        found=value,
        expected="a finite number; the weights before this step are kept",
        do="lower train.learning_rate, or look at those rows of the prepared record",
    )
