"""Rows of a product whose number changes from step to step, filled up to a multiple.

For each number of rows that it meets in bfloat16, oneDNN (as of torch 2.13) makes kernels anew and
keeps up to 1,024 of them: in 400 micro-batches of 1,024 tokens, of which another number was trained
each time, the process grew by 796 MiB and the loss took 2.7 times as long as with rows filled up
(`python benchmarks/head_rows.py`; docs/log.md, 29 November 2026).

Axes: N rows, D width.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

__all__ = ["ROWS_MULTIPLE", "pad_rows"]

ROWS_MULTIPLE = 32  # costs a product of 1,024 rows 1.5% on average


def pad_rows(part_ND: Tensor) -> Tensor:
    """The rows, and zeros below them up to a multiple of ROWS_MULTIPLE."""
    return functional.pad(part_ND, (0, 0, 0, -len(part_ND) % ROWS_MULTIPLE))
