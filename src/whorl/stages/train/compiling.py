"""Compiling the blocks of a model before its training begins."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from whorl.core.errors import ResourceError
from whorl.model.attend import Segments
from whorl.model.compiled import compiled_around, has_compiler
from whorl.model.transformer import Transformer
from whorl.spec.resolved import TrainConfig
from whorl.stages.train.batch import MicroBatch

__all__ = ["compile_blocks"]


def compile_blocks(
    model: Transformer, config: TrainConfig, lanes: int, loss: Callable[[MicroBatch], Tensor]
) -> None:
    """For the micro-batches of a step, before lanes begin, on the threads of one lane.

    Raises ResourceError if it cannot be done here.
    """
    parameters = list(model.parameters())
    device = parameters[0].device
    threads = torch.get_num_threads()
    try:
        if not has_compiler():
            raise OSError("no C++ compiler (g++, or what CXX names)")
        torch.set_num_threads(max(1, config.threads // lanes))
        if not model.compute_by(compiled_around()):
            raise OSError("no layer of this model is one that can be compiled")
        for rows in sorted(_sizes(config.batch_tokens // config.seq_len, config)):
            ids = torch.zeros(rows, config.seq_len, dtype=torch.int64, device=device)
            micro = MicroBatch(ids, ids, Segments(), np.arange(rows, dtype=np.int64))
            with warnings.catch_warnings(action="ignore"):  # torch's, about its own tracing
                torch.autograd.grad(loss(micro), parameters)
    except (OSError, RuntimeError) as error:
        raise ResourceError(
            "the blocks of the model cannot be compiled here",
            found=str(error).strip().splitlines()[0],
            do="set train.compiled=false",
        ) from error
    finally:
        torch.set_num_threads(threads)


def _sizes(rows: int, config: TrainConfig) -> set[int]:
    """Rows of the micro-batches that `make_batch` makes of a step's."""
    count = -(-rows // config.micro_batch_rows)
    return {rows // count, -(-rows // count)}
