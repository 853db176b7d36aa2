"""train: token rows -> a model folder."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict
from functools import partial
from typing import Any

import torch

from whorl.arch.shape import ModelShape, shape_values
from whorl.codecs.contract import Tokens
from whorl.core.context import StageContext
from whorl.core.digests import write_bytes
from whorl.core.errors import DivergedError, Interrupted, MissingExtra, SpecError
from whorl.core.lock import exclusive
from whorl.core.plugins import packages_of
from whorl.core.records import Record, RecordKey
from whorl.model.hf import save_model_folder
from whorl.spec.resolved import TrainConfig
from whorl.stages.train.adapting import merge, save_adapter
from whorl.stages.train.checkpoints.local import LocalCheckpoints
from whorl.stages.train.parallel.alone import Alone
from whorl.stages.train.picture import draw_loss
from whorl.stages.train.ports import Parallel
from whorl.stages.train.process import environment, peak_memory_bytes, training_process
from whorl.stages.train.report import (
    check_improved,
    check_learned,
    compare_with_plan,
    history_lines,
)
from whorl.stages.train.session import TrainingRun
from whorl.stages.train.signals import StopSignals

__all__ = ["LOGIC_VERSION", "run", "train_key"]

LOGIC_VERSION = 4  # raised when the same config and rows would give other bytes
BASE = "base"  # the role of an import's or a training's record
TEACHER = "teacher"  # likewise
LAST_SHARE = 0.05  # of the steps: what the final training loss is the mean of


def train_key(
    shape: ModelShape,
    config: TrainConfig,
    prepared: Record,
    base: Record | None = None,
    teacher: Record | None = None,
) -> RecordKey:
    """The key of the record this work makes. base: whose model it starts from."""
    parts = {
        "whorl.blocks": [shape.block],
        "whorl.objectives": [config.objective],
        "whorl.optimizers": [config.optimizer],
    }
    return RecordKey(
        "train",
        {
            "shape": shape_values(shape),
            "train": config.model_dump(exclude_none=True),
            **packages_of(parts),
        },
        _inputs(prepared, base, teacher),
        LOGIC_VERSION,
    )


def _inputs(prepared: Record, base: Record | None, teacher: Record | None) -> dict[str, str]:
    """Role -> digest of a record."""
    found = {"prepare": prepared, BASE: base, TEACHER: teacher}
    return {role: record.digest for role, record in found.items() if record is not None}


def run(
    context: StageContext,
    shape: ModelShape,
    config: TrainConfig,
    prepared: Record,
    predicted: Mapping[str, Any],
    parallel: Parallel | None = None,
    base: Record | None = None,
    teacher: Record | None = None,
) -> Record:
    """The trained record; found, resumed or made. predicted: the plan's figures, only reported.
    base: of an import or a training, whose model/ is gone on from. teacher: whose
    model/ says what distil learns.

    Files: model/ (HF folder), loss.jsonl; where adapters were trained, they are merged into that
    model, and kept in adapter/ as PEFT reads them. The run folder keeps metrics.jsonl (timings)
    and the picture of the loss. Killed at any time and run again with the same threads and lanes
    on the same machine, the record has the same bytes. parallel: how the ranks of a process group
    share the work; every rank calls this, the main one writes.

    Raises BusyError if another process works on it, Interrupted (after saving) on Ctrl-C and
    SIGTERM, SpecError, RecordError on damaged rows, ResourceError, DivergedError.
    """
    ranks = parallel or Alone()
    if config.lora is not None and ranks.num_lanes is not None:
        raise SpecError("adapters are trained by one process", do="remove train.lora, or ranks")
    key = train_key(shape, config, prepared, base, teacher)
    if (found := context.store.find(key)) is not None:
        if ranks.is_main:  # checkpoints may be left if it was killed just then
            LocalCheckpoints.of(context.store.run_path(key), context.log).remove()
        return found
    folder = context.store.run_folder(key)
    with (
        exclusive(folder, "training") if ranks.is_main else nullcontext(),
        StopSignals() as stop,
        training_process(config, context.store.home / "machine" / "compiled") as device,
    ):
        if (found := context.store.find(key)) is not None:
            return found
        tokens = Tokens.load(prepared.folder("tokens"))
        work = context, shape, config, prepared, predicted, key.digest, folder, device
        checkpoints = LocalCheckpoints.of(folder, context.log)
        session = TrainingRun.open(*work, checkpoints, ranks, base, teacher)
        _finish(session, stop, ranks, key, tokens)
    if stop.received is not None:
        raise Interrupted("training was finished and saved", signal_number=stop.received)
    return context.store.published(key)


def _finish(
    session: TrainingRun, stop: StopSignals, ranks: Parallel, key: RecordKey, tokens: Tokens
) -> None:
    """To the last step, and the record; the checkpoints go."""
    try:
        _train(session, stop)
        trained = ranks.whole(session.trainer.named)
        if ranks.is_main:
            _publish(session, key, tokens, trained)
        ranks.sum([0.0])  # until the record is there, no rank looks for it
    finally:
        session.trainer.lanes.close()
        session.metrics.close()
    if ranks.is_main:
        session.checkpoints.remove()


def _train(session: TrainingRun, stop: StopSignals) -> None:
    """To the last step. Raises DivergedError, with the picture drawn, if nothing was learned."""
    session.train(stop)
    steps, heldout = session.steps, [each["heldout_loss"] for each in session.validations]
    try:
        if session.is_compared:
            first_rows = steps[0].loss, session.loss_of_first_rows()
            pairs = (heldout[0], heldout[-1]), first_rows
            check_improved(session.config, len(steps), session.trainer.unit, *pairs)
        else:
            vocab_size = session.trainer.model.shape.vocab_size
            check_learned(session.config, vocab_size, steps, heldout[-1])
    except DivergedError:
        if session.trainer.parallel.is_main:
            _draw(session)
        raise


def _publish(
    session: TrainingRun,
    key: RecordKey,
    tokens: Tokens,
    trained: Mapping[str, torch.Tensor],
) -> None:
    """Write the record from the finished session, and the picture beside it."""
    begin_s = time.perf_counter()
    model, lora = session.trainer.model, session.config.lora
    weights, merged = trained, {}
    if lora is not None:
        check = session.trainer.lanes.run_one(partial(merge, model, session.probes()))
        merged = {"merge": asdict(check)}
        weights = dict(model.named_parameters())
    metrics = _metrics(session, weights) | merged
    _draw(session)
    lineage = {**key.inputs, "train": key.digest}
    quality = {name: metrics[name] for name in ("heldout_loss", "heldout_bits_per_byte")}
    with session.context.store.write(key) as writer:
        save_model_folder(writer.path / "model", weights, model.shape, tokens, lineage, quality)
        if lora is not None:
            save_adapter(writer.path / "adapter", trained, model, lora)
        lines = "".join(history_lines(session.steps, session.validations))
        write_bytes(writer.path / "loss.jsonl", lines.encode())
        session.metrics.write({"publish_s": time.perf_counter() - begin_s})
        report = _run_report(session, metrics, session.trainer.device)
        writer.metrics.update(metrics)
        writer.run.update(report)
    session.metrics.write({"report": report})
    for name, row in report["plan_vs_actual"].items():
        session.context.log(
            f"{name}: planned {row['predicted']:.4g}, actual {row['actual']:.4g}"
            + {True: "", False: " (outside the interval)", None: ""}[row["within"]]
        )


def _metrics(session: TrainingRun, weights: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    last = session.steps[-max(1, math.ceil(LAST_SHARE * len(session.steps))) :]
    trained_tokens = sum(result.trained_tokens for result in session.steps)
    first, final = session.validations[0], session.validations[-1]
    trained = sum(p.numel() for p in session.trainer.parameters)
    mixture = session.rows.mixture(session.config.seed)
    return {
        "steps": len(session.steps),
        "trained_tokens": trained_tokens,
        "epochs": trained_tokens / session.rows.index.trained_tokens,
        **({} if mixture is None else {"epochs_by_source": mixture.epochs(_rows_seen(session))}),
        "parameters": sum(weight.numel() for weight in weights.values()),
        **({} if session.config.lora is None else {"trained_parameters": trained}),
        "train_loss": sum(result.loss for result in last) / len(last),
        **({"heldout_loss_before": first["heldout_loss"]} if session.is_compared else {}),
        "heldout_loss": final["heldout_loss"],
        "heldout_bits_per_byte": final["heldout_bits_per_byte"],
    }


def _rows_seen(session: TrainingRun) -> int:
    return len(session.steps) * session.rows_per_step


def _run_report(
    session: TrainingRun, metrics: Mapping[str, Any], device: torch.device
) -> dict[str, Any]:
    timings = session.metrics.timings()
    peak = peak_memory_bytes(device)
    actual = {
        "step_s": timings.get("step_s"),
        "train_s": timings.get("train_s"),
        "peak_bytes": peak.get("device", peak["process"]),
        "heldout_bpb": metrics["heldout_bits_per_byte"],
        "train_tokens": session.config.steps * session.config.batch_tokens,
    }
    return {
        **timings,
        "peak_bytes": peak,
        "environment": environment(device),
        "plan_vs_actual": compare_with_plan(session.predicted, actual),
    }


def _draw(session: TrainingRun) -> None:
    try:
        draw_loss(
            session.folder,
            session.steps,
            session.validations,
            session.rates,
            session.predicted,
            session.trainer.unit,
        )
    except (MissingExtra, OSError) as error:  # the record is written: a picture must not undo it
        session.context.log(f"no picture of the loss: {error}")
