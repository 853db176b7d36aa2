"""One step, top to bottom, and the loss on held-out rows.

Axes: B rows, T tokens of a row.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from whorl.core.digests import digest_bytes
from whorl.core.errors import DivergedError
from whorl.model.adapters import dropping
from whorl.model.transformer import Transformer
from whorl.spec.resolved import TrainConfig
from whorl.stages.train.batch import Batch, MicroBatch
from whorl.stages.train.compiling import compile_blocks
from whorl.stages.train.lanes import Lanes
from whorl.stages.train.objectives.registry import find_objective, needs_reference
from whorl.stages.train.optimizers.groups import Groups
from whorl.stages.train.optimizers.tensors import local
from whorl.stages.train.parallel.alone import Alone
from whorl.stages.train.ports import OF_PAIRS, Parallel, unit_of
from whorl.stages.train.schedule import learning_rate_share

__all__ = ["StepResult", "Trainer"]


@dataclass(frozen=True)
class StepResult:
    """What a step did; the same numbers whenever it is done again."""

    loss: float  # in the objective's unit, of the weights before the update
    learning_rate: float
    gradient_norm: float  # of all gradients, before clipping
    trained_tokens: int


class Trainer:
    """A model with its objective and optimiser; `parallel` says which part of it is here.

    How a batch is split into micro-batches, lanes and ranks changes nothing but rounding: losses
    and gradients are sums over trained tokens (or pairs), divided by their number in the whole
    batch. What trains are the parameters that require gradients.
    """

    def __init__(
        self, model: Transformer, config: TrainConfig, parallel: Parallel | None = None
    ) -> None:
        self.config, self.parallel = config, parallel or Alone()
        apart = config.precision == "bf16" and config.attention_dtype == "fp32"
        model.attend_in(torch.float32 if apart else None)
        reference = None
        if needs_reference(config):
            reference = self.parallel.wrap(copy.deepcopy(model).requires_grad_(False))
        self.model = self.parallel.wrap(model)
        trained = [(n, p) for n, p in self.model.named_parameters() if p.requires_grad]
        self.named = dict(trained)
        self.parameters = list(self.named.values())
        self.objective = find_objective(config, reference)
        self.unit = unit_of(self.objective)
        self.optimizer = Groups(self.named, config)
        self.device = self.parameters[0].device
        most = self.parallel.num_lanes or config.lanes
        count = min(config.lanes, most) if self.device.type == "cpu" else 1
        self.lanes = Lanes(count, config.threads)
        if config.compiled and self.parallel.num_lanes is None:
            compile_blocks(self.model, config, self.lanes.count, self._loss)

    def step(self, step: int, batch: Batch) -> StepResult:
        """Move the weights by one batch. Raises DivergedError before a non-finite update."""
        tokens, count = self.parallel.sum([batch.trained_tokens, self._count(batch)])
        loss = self.gradients(batch, int(count), step)
        norm = self.clip()
        if not math.isfinite(norm):
            raise _diverged("the gradient", norm, step, batch.row_numbers)
        share = learning_rate_share(step, self.config)
        self.lanes.run(self.optimizer.work(share, self.lanes.count))
        return StepResult(loss, self.config.learning_rate * share, norm, int(tokens))

    def gradients(self, batch: Batch, count: int, step: int = 0) -> float:
        """Fill every .grad; gives the loss. count: trained tokens, or pairs, of all ranks."""
        scale = 1.0 / max(1, count)
        for parameter in self.parameters:
            parameter.grad = None  # or it would be held beside the next ones
        if self.parallel.num_lanes is not None:
            nats = self._backward(batch.micro_batches, scale, step)
        else:
            nats = self._in_lanes(batch.micro_batches, scale, step)
        (total,) = self.parallel.sum([nats])
        if not math.isfinite(total):
            raise _diverged("the loss", total, step, batch.row_numbers)
        return total * scale

    def clip(self) -> float:
        """Scale the gradients down to `clip_norm` together; gives their norm before."""
        gradients = [[local(g) for g in part] for part in self._gradients_by_lane()]
        norms = self.lanes.run([partial(_norm, part) for part in gradients])
        norm = math.sqrt(self.parallel.sum([math.fsum(float(n) ** 2 for n in norms)])[0])
        share = self.config.clip_norm / (norm + 1e-6)  # as torch.nn.utils.clip_grad_norm_
        if self.config.clip_norm > 0 and share < 1:
            self.lanes.run([partial(torch._foreach_mul_, part, share) for part in gradients])
        return norm

    def heldout_loss(self, batches: Iterable[Batch]) -> float:
        """In the objective's unit; every rank scores all of them."""
        nats, count = 0.0, 0
        left = iter(batches)
        while together := list(itertools.islice(left, self.lanes.count)):
            count += sum(self._count(batch) for batch in together)
            micro_batches = [micro for batch in together for micro in batch.micro_batches]
            nats += sum(self.lanes.run([partial(self._value, micro) for micro in micro_batches]))
        return nats / max(1, count)

    def _count(self, batch: Batch) -> int:
        return batch.num_pairs if self.unit == OF_PAIRS else batch.trained_tokens

    @torch.no_grad()
    def _value(self, micro: MicroBatch) -> float:
        return float(self._loss(micro))

    def _loss(self, micro: MicroBatch) -> Tensor:
        in_bf16 = self.config.precision == "bf16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=in_bf16):
            return self.objective.loss(self.model, micro)

    def _training_loss(self, micro: MicroBatch, step: int) -> Tensor:
        """With adapters' dropout, a pure function of the seed, the step and the row."""
        lora = self.config.lora
        if lora is None or not lora.dropout:
            return self._loss(micro)
        names = [f"{self.config.seed} {step} {row}" for row in micro.row_numbers]
        seeds = [int(digest_bytes(name.encode())[:15], 16) for name in names]
        with dropping(seeds, self.device):
            return self._loss(micro)

    def _backward(self, micro_batches: Sequence[MicroBatch], scale: float, step: int) -> float:
        """One micro-batch after the other, gradients by .backward(): hooks of modules run."""
        total = 0.0
        for micro in micro_batches:
            loss = self._training_loss(micro, step)
            total += float(loss.detach())
            (loss * scale).backward()  # type: ignore[no-untyped-call]
        return total  # a rank that raised here would leave the others waiting

    def _in_lanes(self, micro_batches: Sequence[MicroBatch], scale: float, step: int) -> float:
        """Each lane sums its own gradients; the sums are added in a fixed order."""
        count = min(self.lanes.count, len(micro_batches))
        shares = [micro_batches[lane::count] for lane in range(count)]
        lanes = self.lanes.run([partial(self._lane, share, scale, step) for share in shares])
        for parameter, gradient in zip(self.parameters, lanes[0][1], strict=True):
            parameter.grad = gradient
        for _, gradients in lanes[1:]:
            wholes = self._gradients_by_lane()
            parts = [gradients[lane :: len(wholes)] for lane in range(len(wholes))]
            work = zip(wholes, parts, strict=True)
            self.lanes.run([partial(torch._foreach_add_, whole, part) for whole, part in work])
        return sum(nats for nats, _ in lanes)

    def _lane(
        self, micro_batches: Sequence[MicroBatch], scale: float, step: int
    ) -> tuple[float, list[Tensor]]:
        """(nats, gradients of scale * nats), summed over micro-batches."""
        total = 0.0
        gradients: list[Tensor] = []
        for micro in micro_batches:
            loss = self._training_loss(micro, step)
            total += _finite(float(loss.detach()), micro, step)
            found = list(torch.autograd.grad(loss * scale, self.parameters))
            if gradients:
                torch._foreach_add_(gradients, found)
            else:
                gradients = found
            del loss, found  # or they would be held during the next forward
        return total, gradients

    def _gradients_by_lane(self) -> list[list[Tensor]]:
        """All gradients, dealt out to the lanes."""
        found = [p.grad for p in self.parameters if p.grad is not None]
        count = min(self.lanes.count, len(found))
        return [found[lane::count] for lane in range(count)]


def _norm(gradients: list[Tensor]) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    return norm


def _finite(nats: float, micro: MicroBatch, step: int) -> float:
    if math.isfinite(nats):
        return nats
    raise _diverged("the loss", nats, step, [int(row) for row in micro.row_numbers])


def _diverged(what: str, value: float, step: int, rows: list[int]) -> DivergedError:
    shown = ", ".join(map(str, rows[:16])) + (" …" if len(rows) > 16 else "")
    return DivergedError(
        f"{what} is not finite at step {step} (rows {shown})",
        found=value,
        expected="a finite number; the weights before this step are kept",
        do="lower train.learning_rate, or look at those rows of the prepared record",
    )
