"""Direct preference optimisation (arXiv 2305.18290): of two answers, the one that was preferred.

    -ln sigmoid(beta * (s(chosen) - s(rejected))),  s = ln p(answer) - ln p_reference(answer)

length_normalised: s is divided by the answer's tokens (Tulu 3, arXiv 2411.15124; SimPO's form).
A row holds pairs side by side, the chosen document before the rejected one.

Axes: B rows, T tokens of a row, N trained tokens, S documents.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from torch.nn import functional

from whorl.core.errors import DataError
from whorl.model.adapters import adapters_off
from whorl.model.transformer import Transformer
from whorl.spec.train_keys import DpoKeys
from whorl.stages.train.batch import MicroBatch
from whorl.stages.train.ports import OF_PAIRS

__all__ = ["Dpo"]


class Dpo:
    """Summed over pairs. reference: a frozen model; None: the trained one without its adapters."""

    name, unit = "dpo", OF_PAIRS

    def __init__(self, keys: DpoKeys, reference: Transformer | None) -> None:
        self.keys, self.reference = keys, reference

    def loss(self, model: Transformer, micro_batch: MicroBatch) -> Tensor:
        documents_N, count = _documents(micro_batch)
        with torch.no_grad(), self._off():
            kept = _logprobs(self.reference or model, micro_batch)
        above_N = (_logprobs(model, micro_batch) - kept).double()
        scores_S = above_N.new_zeros(count).index_add(0, documents_N, above_N)
        tokens_S = torch.bincount(documents_N, minlength=count)
        if not tokens_S.all():
            raise _no_pairs(micro_batch, "an answer without a trained token")
        if self.keys.length_normalised:
            scores_S = scores_S / tokens_S
        better = scores_S[0::2] - scores_S[1::2]
        return -functional.logsigmoid(self.keys.beta * better).sum()

    def _off(self) -> AbstractContextManager[None]:
        return adapters_off() if self.reference is None else nullcontext()


def _logprobs(model: Transformer, micro: MicroBatch) -> Tensor:
    """ln p of every trained token, [N]."""
    trained_BT = micro.targets_BT >= 0
    targets_N = micro.targets_BT[trained_BT]

    def read(logits: Tensor, places: slice) -> Tensor:
        return -functional.cross_entropy(logits, targets_N[places], reduction="none")

    return model.values(micro.ids_BT, trained_BT, read, micro.segments)


def _documents(micro: MicroBatch) -> tuple[Tensor, int]:
    """(the document of every trained token [N], how many documents). Raises DataError."""
    lengths = micro.segments.lengths
    if lengths is None or any(len(row) < 2 for row in lengths):
        raise _no_pairs(micro, "a row of one document")
    numbers, spans, first = [], [], 0
    for row in lengths:
        paired = len(row) // 2 * 2
        numbers += [*range(first, first + paired), *[-1] * (len(row) - paired)]
        spans += row
        first += paired
    device = micro.targets_BT.device
    of_BT = torch.repeat_interleave(torch.tensor(numbers), torch.tensor(spans)).to(device)
    documents_N = of_BT[micro.targets_BT.flatten() >= 0]
    if (documents_N < 0).any():
        raise _no_pairs(micro, "a trained document without another beside it")
    return documents_N, first


def _no_pairs(micro: MicroBatch, what: str) -> DataError:
    return DataError(
        "the objective dpo learns from pairs of answers, and these rows hold something else",
        found=f"{what} among the rows {', '.join(map(str, micro.row_numbers[:8]))}",
        expected="in every row a chosen answer, then a rejected one",
        do="prepare data of preferences with this objective, or set another train.objective",
    )
