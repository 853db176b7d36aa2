"""Whole training steps on made-up tokens: what a step of a given model really takes here.

Axes: B rows, T tokens of a row, N trained tokens, K ids of a teacher.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial

import numpy as np
import torch
from torch import Tensor

from whorl.arch.shape import ModelShape
from whorl.core.errors import DivergedError
from whorl.model.attend import segments_of
from whorl.spec.resolved import TrainConfig
from whorl.stages.train.adapting import add_adapters, merge
from whorl.stages.train.batch import UNTRAINED, Batch, MicroBatch, Taught
from whorl.stages.train.initial import initial_model
from whorl.stages.train.trainer import Trainer

__all__ = ["made_up_batch", "merged", "rehearsed", "rehearsed_step"]


def made_up_batch(
    shape: ModelShape,
    config: TrainConfig,
    mixed_rows: int = 0,
    trained_share: float = 1.0,
    seed: int = 0,
) -> Batch:
    """One step's rows of random ids; the last mixed_rows of each micro-batch hold two documents.

    With dpo all do: a pair each. With distil a teacher has said something of what is trained.
    """
    generator = torch.Generator().manual_seed(seed)
    num_rows = config.batch_tokens // config.seq_len
    micro_batches = []
    for begin in range(0, num_rows, config.micro_batch_rows):
        rows = min(config.micro_batch_rows, num_rows - begin)
        sizes = (rows, config.seq_len)
        ids = torch.randint(shape.vocab_size, sizes, generator=generator)
        targets = torch.randint(shape.vocab_size, sizes, generator=generator)
        targets[torch.rand(sizes, generator=generator) >= trained_share] = UNTRAINED
        middle = config.seq_len // 2
        targets[:, [middle - 1, -1]] = 0  # something of each document
        starts = torch.zeros(sizes, dtype=torch.bool)
        if mixed := rows if config.objective == "dpo" else mixed_rows:
            starts[-mixed:, middle] = True
        numbers = np.arange(begin, begin + rows, dtype=np.int64)
        taught = None if config.distil is None else _made_up(targets, config.distil.top_k, shape)
        micro_batches.append(MicroBatch(ids, targets, segments_of(starts), numbers, taught))
    trained = sum(int((micro.targets_BT >= 0).sum()) for micro in micro_batches)
    return Batch(trained, tuple(micro_batches))


def _made_up(targets_BT: Tensor, top_k: int, shape: ModelShape) -> Taught:
    """As if every token's likeliest ids were the same ones, and half of all likelihood theirs."""
    count, most = int((targets_BT >= 0).sum()), min(top_k, shape.vocab_size)
    ids_NK = torch.arange(most).expand(count, most).contiguous()
    return Taught(ids_NK, torch.full((count, most), 0.5 / most).log())


def rehearsed(
    shape: ModelShape, config: TrainConfig, mixed_rows: int = 0, trained_share: float = 1.0
) -> tuple[Trainer, Batch]:
    """A new model's trainer and made-up rows for it."""
    model = initial_model(shape, config.seed)
    if config.lora is not None:
        add_adapters(model, config.lora, config.seed)
    return Trainer(model, config), made_up_batch(shape, config, mixed_rows, trained_share)


def merged(trainer: Trainer, num_rows: int, num_tokens: int) -> None:
    """What training does at its end where it has adapters; what they learned does not matter."""
    if trainer.config.lora is not None:
        with suppress(DivergedError):
            rows = np.zeros((num_rows, num_tokens), np.int64)
            trainer.lanes.run_one(partial(merge, trainer.model, rows))


def rehearsed_step(
    shape: ModelShape, config: TrainConfig, mixed_rows: int = 0
) -> Callable[[], object]:
    """A function that does one more training step of a new model on the same made-up rows."""
    trainer, batch = rehearsed(shape, config, mixed_rows)
    return lambda: trainer.step(0, batch)
