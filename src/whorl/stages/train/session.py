"""One run: from its newest checkpoint, or the start, to the last step."""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from whorl.arch.shape import ModelShape
from whorl.codecs.contract import Tokens
from whorl.core.context import StageContext
from whorl.core.errors import DataError, DivergedError, Interrupted, RecordError, SpecError
from whorl.core.mixture import check_repeats
from whorl.core.records import Record
from whorl.core.rows import RowSet
from whorl.core.units import format_duration
from whorl.spec.resolved import TrainConfig
from whorl.stages.train.adapting import add_adapters
from whorl.stages.train.batch import Batch, make_batch
from whorl.stages.train.checkpoints.local import Checkpoint
from whorl.stages.train.initial import base_model, initial_model
from whorl.stages.train.optimizers.groups import check_state
from whorl.stages.train.ports import OF_BITS, CheckpointStore, Parallel
from whorl.stages.train.report import ByteRates, MetricsFile, Validation, planned_value
from whorl.stages.train.signals import StopSignals
from whorl.stages.train.teacher import SaidTable, Teacher, load_teacher
from whorl.stages.train.trainer import StepResult, Trainer

__all__ = ["TrainingRun", "check_fit"]

PROBE_ROWS, PROBE_TOKENS = 4, 128
COLUMNS = ("loss", "learning_rate", "gradient_norm", "trained_tokens")


def check_fit(shape: ModelShape, config: TrainConfig, rows: RowSet) -> int:
    """Rows of one step.

    Raises SpecError if model, config and rows do not fit each other, DataError on rows of which
    nothing is trained.
    """
    rows_per_step, rest = divmod(config.batch_tokens, config.seq_len)
    wrong = {
        "train.seq_len is not that of the prepared rows": (config.seq_len, rows.seq_len),
        "model.vocab_size is not that of the prepared rows": (
            shape.vocab_size,
            rows.vocab_size,
        ),
    }
    for what, (found, expected) in wrong.items():
        if found != expected:
            raise SpecError(what, found=found, expected=expected, do="prepare again, or change it")
    if not rows.index.trained_tokens or not rows.index.heldout_trained_tokens:
        raise DataError(
            "the prepared rows have no trained token",
            found=f"{rows.index.trained_tokens} to train, "
            f"{rows.index.heldout_trained_tokens} held out",
            do="mark what is to be learned as trained and prepare again; `whorl show` prints rows",
        )
    if shape.max_seq_len < config.seq_len:
        raise SpecError(
            "model.max_seq_len is shorter than train.seq_len",
            found=shape.max_seq_len,
            expected=f"at least {config.seq_len}",
        )
    if rest or not rows_per_step:
        raise SpecError(
            f"train.batch_tokens {config.batch_tokens} is not a multiple of train.seq_len",
            do=f"use {max(1, rows_per_step) * config.seq_len}",
        )
    return rows_per_step


def _teachers(
    teacher: Record,
    prepared: Record,
    config: TrainConfig,
    device: torch.device,
    folder: Path,
    num_ranks: int,
) -> tuple[Teacher, Teacher]:
    assert config.distil is not None  # or there were no teacher
    contract = Tokens.load(prepared.folder("tokens")).contract
    model, top_k = load_teacher(teacher.folder("model"), contract, device), config.distil.top_k
    rows, heldout = (Teacher(model, top_k, SaidTable(folder, 2 * num_ranks)) for _ in range(2))
    return rows, heldout


@dataclass
class TrainingRun:
    """The state of a run in memory; `train` advances it to the end."""

    context: StageContext
    config: TrainConfig
    folder: Path
    work_digest: str
    predicted: Mapping[str, Any]
    rows: RowSet
    heldout: RowSet
    rates: ByteRates
    trainer: Trainer
    checkpoints: CheckpointStore
    metrics: MetricsFile
    rows_per_step: int
    teachers: tuple[Teacher, Teacher] | None  # of the rows, and of the held-out ones
    has_base: bool
    steps: list[StepResult] = field(default_factory=list)  # done so far
    validations: list[Validation] = field(default_factory=list)

    @classmethod
    def open(
        cls,
        context: StageContext,
        shape: ModelShape,
        config: TrainConfig,
        prepared: Record,
        predicted: Mapping[str, Any],
        work_digest: str,
        folder: Path,
        device: torch.device,
        checkpoints: CheckpointStore,
        parallel: Parallel,
        base: Record | None = None,
        teacher: Record | None = None,
    ) -> TrainingRun:
        """Verify and map the data, make the model, and go back to the newest checkpoint."""
        begin_s = time.perf_counter()
        rows = RowSet.open(prepared)
        rows_per_step = check_fit(shape, config, rows)
        if (mixture := rows.mixture(config.seed)) is not None:
            epochs = mixture.epochs(config.steps * rows_per_step)
            check_repeats(epochs, [s.field for s in rows.index.sources], config.max_repeats)
        heldout = RowSet.heldout(prepared)
        teachers = None
        if teacher is not None:
            num_ranks = round(parallel.sum([1.0])[0])
            teachers = _teachers(teacher, prepared, config, device, folder, num_ranks)
        if base is None:
            model = initial_model(shape, config.seed)
        else:
            model = base_model(base.folder("model"), shape)
        if config.lora is not None:
            names = add_adapters(model, config.lora, config.seed)
            frozen = " routed experts stay as they are;" if shape.expert_layers else ""
            context.log(f"adapters of rank {config.lora.rank} on {len(names)} layers;{frozen}")
        trainer = Trainer(model.to(device), config, parallel)
        in_bits = trainer.unit == OF_BITS
        session = cls(
            context,
            config,
            folder,
            work_digest,
            predicted,
            rows,
            heldout,
            ByteRates.of(rows.index, prepared.metrics) if in_bits else ByteRates(None, None),
            trainer,
            checkpoints,
            MetricsFile(folder / "metrics.jsonl" if parallel.is_main else Path(os.devnull)),
            rows_per_step,
            teachers,
            base is not None,
        )
        session._resume()
        session.metrics.write({"startup_s": time.perf_counter() - begin_s})
        return session

    def probes(self) -> NDArray[np.int64]:
        """Beginnings of held-out rows, on which models are compared."""
        count = min(PROBE_ROWS, self.heldout.num_rows)
        numbers = np.linspace(0, self.heldout.num_rows - 1, count).round().astype(np.int64)
        return self.heldout.read(numbers).ids[:, :PROBE_TOKENS]

    @property
    def done(self) -> int:
        return len(self.steps)

    @property
    def is_compared(self) -> bool:
        """Whether what it began with is validated too: a base, or a loss that is not of tokens."""
        return self.has_base or self.trainer.unit != OF_BITS

    def loss_of_first_rows(self) -> float:
        """That of the weights as they are now, on the rows of the first step; nothing dropped."""
        numbers = self.rows.rows_of_step(0, self.rows_per_step, self.config.seed)
        return self.trainer.heldout_loss([self._batch(self.rows, numbers)])

    def train(self, stop: StopSignals) -> None:
        """Do the steps that are left. Raises Interrupted after saving, DivergedError, and
        ResourceError when a checkpoint cannot be written."""
        begun = f" from step {self.done}" if self.done else ""
        self.context.progress.start(f"train{begun}", self.config.steps - self.done, "steps")
        try:
            self._steps(stop)
        finally:
            stopped = f"stopped at step {self.done}, " if self.done < self.config.steps else ""
            self.context.progress.finish(stopped + self._note())

    def _steps(self, stop: StopSignals) -> None:
        config = self.config
        if self.is_compared and not self.validations:
            self._validate()
        while self.done < config.steps:
            self._step()
            is_last = self.done == config.steps
            if is_last or self.done % config.validate_every_steps == 0:
                self._validate()
            (stopped_ranks,) = self.trainer.parallel.sum([float(stop.received is not None)])
            stopping = (stop.received or signal.SIGTERM) if stopped_ranks else None
            if is_last or stopping or self.done % config.checkpoint_every_steps == 0:
                self._save()
            self.context.progress.advance(1, self._note())
            if stopping and not is_last:
                raise Interrupted(
                    f"training stopped by a signal and saved at step {self.done} of {config.steps}",
                    signal_number=stopping,
                    do="run the same command again: it goes on from there",
                )

    def _step(self) -> None:
        step, begin_s = self.done, time.perf_counter()
        numbers = self.rows.rows_of_step(step, self.rows_per_step, self.config.seed)
        batch = self._batch(self.rows, self.trainer.parallel.rows(numbers))
        data_s = time.perf_counter() - begin_s
        result = self.trainer.step(step, batch)
        self.steps.append(result)
        step_s = time.perf_counter() - begin_s
        self.metrics.write({"step": step + 1, **vars(result), "step_s": step_s, "data_s": data_s})

    def _validate(self) -> None:
        begin_s = time.perf_counter()
        loss = self.trainer.heldout_loss(self._heldout_batches())
        if not math.isfinite(loss):
            raise DivergedError(
                f"the held-out loss is not finite after step {self.done}",
                found=loss,
                expected="a finite number; the checkpoint before is kept",
                do="lower train.learning_rate",
            )
        bits_per_byte = ByteRates.bits_per_byte(loss, self.rates.heldout)
        values = {
            "step": self.done,
            "heldout_loss": loss,
            "heldout_bits_per_byte": bits_per_byte,
        }
        self.validations.append(values)
        self.metrics.write({**values, "validate_s": time.perf_counter() - begin_s})

    def _heldout_batches(self) -> Iterator[Batch]:
        count = min(self.config.validate_rows, self.heldout.num_rows)
        numbers = np.linspace(0, self.heldout.num_rows - 1, max(1, count)).round().astype(np.int64)
        for begin in range(0, len(numbers), self.config.micro_batch_rows):
            yield self._batch(self.heldout, numbers[begin : begin + self.config.micro_batch_rows])

    def _batch(self, rows: RowSet, numbers: NDArray[np.int64]) -> Batch:
        batch = make_batch(rows, numbers, self.config.micro_batch_rows, self.trainer.device)
        if self.teachers is None:
            return batch
        return self.teachers[rows is self.heldout].beside(batch)

    def _note(self) -> str:
        """The latest loss, and the time that is left by the plan."""
        parts = [f"loss {self.steps[-1].loss:.3f}"] if self.steps else []
        if self.validations and (bpb := self.validations[-1]["heldout_bits_per_byte"]) is not None:
            parts.append(f"held out {bpb:.3f} bits/byte")
        left = self.config.steps - self.done
        if left and (step_s := planned_value(self.predicted, "step_s")) is not None:
            parts.append(f"planned {format_duration(step_s * left)} left")
        return ", ".join(parts)

    def _save(self) -> None:
        begin_s = time.perf_counter()
        values = [[float(vars(result)[name]) for name in COLUMNS] for result in self.steps]
        parallel = self.trainer.parallel
        checkpoint = Checkpoint(
            self.done,
            self.work_digest,
            parallel.whole(self.trainer.named),
            parallel.whole(self.trainer.optimizer.state()),
            {"steps": torch.tensor(values, dtype=torch.float64)},
            tuple(self.validations),
        )
        digest = self.checkpoints.save(checkpoint) if parallel.is_main else ""
        parallel.sum([0.0])  # until it is there, no rank goes on
        save_s = time.perf_counter() - begin_s
        self.metrics.write({"step": self.done, "saved": digest, "save_s": save_s})

    def _resume(self) -> None:
        """Raises RecordError on all ranks if they do not find the same checkpoint."""
        found, parallel = self.checkpoints.newest(self.work_digest), self.trainer.parallel
        mine = 0 if found is None else found[0].step
        (main,) = parallel.sum([float(mine) if parallel.is_main else 0.0])
        (others,) = parallel.sum([float(mine != main)])
        if others:
            raise RecordError(
                "ranks found different checkpoints",
                found=f"step {mine} here, step {main:.0f} on the main rank",
                do="give all ranks one home, on a file system they share",
            )
        if found is None:
            return
        checkpoint, digest = found
        history = checkpoint.history["steps"].tolist()
        expected = {name: tuple(tensor.shape) for name, tensor in self.trainer.named.items()}
        shapes = {name: tuple(tensor.shape) for name, tensor in checkpoint.model.items()}
        if shapes != expected or len(history) != checkpoint.step:
            raise RecordError(f"a checkpoint in {self.folder} is of another model", do="delete it")
        state = self.trainer.optimizer.state()
        check_state(state, checkpoint.optimizer)
        parallel.fill(self.trainer.named, checkpoint.model)
        parallel.fill(state, checkpoint.optimizer)
        self.steps = [StepResult(loss, rate, norm, int(n)) for loss, rate, norm, n in history]
        self.validations = list(checkpoint.validations)
        self.context.log(f"resumed at step {checkpoint.step} from checkpoint {digest[:16]}")
        self.metrics.write({"resumed": checkpoint.step, "checkpoint": digest})
