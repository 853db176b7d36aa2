"""Distillation (arXiv 1503.02531): the probabilities a teacher gave its likeliest ids.

All other ids are one more outcome, the rest, so that nothing is said about how the teacher shares
it out. Both distributions over those k + 1 outcomes are flattened by the temperature t (p^(1/t),
made to sum to one), and the loss is t² KL(teacher | student), which is 0 when both agree.

Axes: B rows, T tokens of a row, N trained tokens, K ids of the teacher, V vocabulary, O outcomes
(K + 1).
"""

from __future__ import annotations

import torch
from torch import Tensor

from whorl.core.errors import SpecError
from whorl.model.transformer import Transformer
from whorl.spec.train_keys import DistilKeys
from whorl.stages.train.batch import MicroBatch
from whorl.stages.train.ports import OF_TEACHER

__all__ = ["Distil"]


class Distil:
    """Summed over trained tokens."""

    name, unit = "distil", OF_TEACHER

    def __init__(self, keys: DistilKeys) -> None:
        self.keys = keys

    def loss(self, model: Transformer, micro_batch: MicroBatch) -> Tensor:
        taught, temperature = micro_batch.taught, self.keys.temperature
        if taught is None:
            raise SpecError(
                "the objective distil needs what a teacher says of the rows",
                do="give train.distil.teacher, or set another train.objective",
            )
        ids_NK, said_NK = taught.ids_NK, taught.logprobs_NK
        vocab_size = model.shape.vocab_size

        def read(logits_NV: Tensor, places: slice) -> Tensor:
            ids = ids_NK[places]
            wanted = _flattened(said_NK[places].to(logits_NV.dtype), ids, vocab_size, temperature)
            own = _of_logits(logits_NV, ids, temperature)
            surprise: Tensor = torch.special.xlogy(wanted, wanted) - wanted * own
            return surprise.sum(dim=-1) * temperature * temperature

        trained_BT = micro_batch.targets_BT >= 0
        return (
            model.values(micro_batch.ids_BT, trained_BT, read, micro_batch.segments).double().sum()
        )


def _flattened(said_NK: Tensor, ids_NK: Tensor, vocab_size: int, temperature: float) -> Tensor:
    """The teacher's probabilities of the outcomes, [N, O]; without the rest where it gave all."""
    if ids_NK.shape[1] < vocab_size:
        left = 1 - said_NK.exp().sum(dim=-1, keepdim=True)  # rounding may leave less than nothing
        said_NK = torch.cat((said_NK, left.clamp(min=0).log()), dim=-1)
    return torch.softmax(said_NK / temperature, dim=-1)


def _of_logits(logits_NV: Tensor, ids_NK: Tensor, temperature: float) -> Tensor:
    """The student's log-probabilities of the same outcomes."""
    found = logits_NV.gather(1, ids_NK)
    if ids_NK.shape[1] < logits_NV.shape[1]:
        others = logits_NV.scatter(1, ids_NK, float("-inf"))
        found = torch.cat((found, others.logsumexp(dim=-1, keepdim=True)), dim=-1)
    return torch.log_softmax(found / temperature, dim=-1)
