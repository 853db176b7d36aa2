"""Rows of tokens -> tensors of a step, split into micro-batches.

Axes: B rows, T tokens of a row, N trained tokens, K ids of a teacher.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from whorl.core.errors import DataError
from whorl.core.rows import RowSet
from whorl.model.attend import Segments, lengths_of, row_block, segments_of

__all__ = ["UNTRAINED", "Batch", "MicroBatch", "Taught", "make_batch"]

UNTRAINED = -1


@dataclass(frozen=True)
class Taught:
    """The likeliest ids by a teacher at each trained token of a micro-batch, row by row."""

    ids_NK: Tensor
    logprobs_NK: Tensor


@dataclass(frozen=True)
class MicroBatch:
    """One forward. targets: the next id, or UNTRAINED."""

    ids_BT: Tensor
    targets_BT: Tensor
    segments: Segments
    row_numbers: NDArray[np.int64]
    taught: Taught | None = None

    @property
    def num_pairs(self) -> int:
        """Pairs of documents that stand side by side; what is left over in a row is padding."""
        return sum(len(lengths) // 2 for lengths in self.segments.lengths or ())


@dataclass(frozen=True)
class Batch:
    """One step. trained_tokens is known before the forward: the divisor of the loss."""

    trained_tokens: int
    micro_batches: tuple[MicroBatch, ...]

    @property
    def num_pairs(self) -> int:
        return sum(micro.num_pairs for micro in self.micro_batches)

    @property
    def row_numbers(self) -> list[int]:
        return [int(row) for micro in self.micro_batches for row in micro.row_numbers]


def make_batch(
    rows: RowSet,
    row_numbers: NDArray[np.int64],
    micro_batch_rows: int,
    device: torch.device,
) -> Batch:
    """Read rows and split them.

    Rows that are attended alike are neighbours (a sum over rows has no order): those of one
    segment, that run without a mask, then those of short documents.
    Raises DataError if nothing in them is trained.
    """
    read = rows.read(row_numbers)
    starts = read.segment_starts[:, :-1]
    blocks = [row_block(lengths_of(row)) for row in torch.from_numpy(starts)]
    alike = np.argsort(blocks, kind="stable")
    trained = read.loss_mask[:, 1:]
    if not trained.any():
        raise DataError(
            "a step would learn nothing: its rows have no trained token",
            found=f"rows {', '.join(map(str, row_numbers[:8]))}",
            do="prepare again: rows without a trained token are left out then",
        )
    targets = np.where(trained, read.ids[:, 1:], UNTRAINED)
    micro_batches = []
    count = -(-len(row_numbers) // micro_batch_rows)
    for number in range(count):
        part = alike[number::count]  # to each as much with a mask as to the others
        segments = segments_of(torch.from_numpy(starts[part]))
        micro_batches.append(
            MicroBatch(
                torch.from_numpy(read.ids[part, :-1]).to(device),
                torch.from_numpy(targets[part]).to(device),
                segments.to(device),
                row_numbers[part],
            )
        )
    return Batch(int(trained.sum()), tuple(micro_batches))
