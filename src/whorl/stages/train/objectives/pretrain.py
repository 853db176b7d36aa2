"""Pretraining: the next token, wherever the rows say that it is trained.

Axes: B rows, T tokens of a row.
"""

from __future__ import annotations

from torch import Tensor

from whorl.model.transformer import Transformer
from whorl.stages.train.batch import MicroBatch

__all__ = ["Pretrain"]


class Pretrain:
    """-ln p(next token), summed."""

    name = "pretrain"

    def loss(self, model: Transformer, micro_batch: MicroBatch) -> Tensor:
        return model.nats(micro_batch.ids_BT, micro_batch.targets_BT, micro_batch.segments)
