"""Whole training steps on made-up tokens: what a step of a given model really takes here."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from whorl.arch.shape import ModelShape
from whorl.model.attend import segments_of
from whorl.spec.resolved import TrainConfig
from whorl.stages.train.adapting import add_adapters
from whorl.stages.train.batch import Batch, MicroBatch
from whorl.stages.train.initial import initial_model
from whorl.stages.train.trainer import Trainer

__all__ = ["made_up_batch", "rehearsed", "rehearsed_step"]


def made_up_batch(
    shape: ModelShape, config: TrainConfig, mixed_rows: int = 0, seed: int = 0
) -> Batch:
    """One step's rows of random ids; the last mixed_rows of each micro-batch hold two documents."""
    generator = torch.Generator().manual_seed(seed)
    num_rows = config.batch_tokens // config.seq_len
    micro_batches = []
    for begin in range(0, num_rows, config.micro_batch_rows):
        rows = min(config.micro_batch_rows, num_rows - begin)
        sizes = (rows, config.seq_len)
        ids = torch.randint(shape.vocab_size, sizes, generator=generator)
        targets = torch.randint(shape.vocab_size, sizes, generator=generator)
        starts = torch.zeros(sizes, dtype=torch.bool)
        if mixed_rows:
            starts[-mixed_rows:, config.seq_len // 2] = True
        numbers = np.arange(begin, begin + rows, dtype=np.int64)
        micro_batches.append(MicroBatch(ids, targets, segments_of(starts), numbers))
    return Batch(num_rows * config.seq_len, tuple(micro_batches))


def rehearsed(shape: ModelShape, config: TrainConfig, mixed_rows: int = 0) -> tuple[Trainer, Batch]:
    """A new model's trainer and made-up rows for it."""
    model = initial_model(shape, config.seed)
    if config.lora is not None:
        add_adapters(model, config.lora, config.seed)
    return Trainer(model, config), made_up_batch(shape, config, mixed_rows)


def rehearsed_step(
    shape: ModelShape, config: TrainConfig, mixed_rows: int = 0
) -> Callable[[], object]:
    """A function that does one more training step of a new model on the same made-up rows."""
    trainer, batch = rehearsed(shape, config, mixed_rows)
    return lambda: trainer.step(0, batch)
