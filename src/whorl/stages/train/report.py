"""What a run tells: lines of numbers while it works, plan against actual at its end."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whorl.core.digests import canonical_json
from whorl.core.disk import disk_error
from whorl.core.errors import DivergedError
from whorl.core.rows import RowsIndex
from whorl.spec.resolved import TrainConfig
from whorl.stages.train.trainer import StepResult

__all__ = [
    "ByteRates",
    "MetricsFile",
    "check_improved",
    "check_learned",
    "compare_with_plan",
    "history_lines",
    "planned_value",
]

LAST_STEPS = 20  # the last twentieth of the steps is the end
NOTHING_GAINED = 0.999  # a loss above this share of another is no better, but for rounding
# Seconds in the lines of metrics.jsonl -> what they are of: all that the plan's train_s has in it.
PARTS = {
    "startup_s": "startup",
    "step_s": "steps",
    "validate_s": "validations",
    "save_s": "checkpoints",
    "publish_s": "publishing",
}
Validation = Mapping[str, Any]  # step, heldout_loss, heldout_bits_per_byte


@dataclass(frozen=True)
class ByteRates:
    """Trained tokens per byte of text; None where the rows are not text."""

    train: float | None
    heldout: float | None

    @classmethod
    def of(cls, index: RowsIndex, metrics: Mapping[str, Any]) -> ByteRates:
        """From a prepared record's index of rows and its metrics."""

        def rate(tokens: int, num_bytes: float) -> float | None:
            return tokens / num_bytes if tokens and num_bytes else None

        if not metrics.get("all_text", True):  # bits of other fields, and no bytes of theirs
            return cls(None, None)
        return cls(
            rate(index.trained_tokens, metrics.get("train_bytes", 0)),
            rate(index.heldout_trained_tokens, metrics.get("heldout_bytes", 0)),
        )

    @staticmethod
    def bits_per_byte(nats_per_token: float, rate: float | None) -> float | None:
        return None if rate is None else nats_per_token / math.log(2) * rate


class MetricsFile:
    """metrics.jsonl of a run folder: timings and all, one object a line, flushed as written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = path.open("a", encoding="utf-8")
        except OSError as error:
            raise disk_error(error, path) from error

    def write(self, line: Mapping[str, Any]) -> None:
        """Raises ResourceError when the disk is full."""
        try:
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()
        except OSError as error:
            raise disk_error(error, self.path) from error

    def close(self) -> None:
        try:
            self._file.close()
        except OSError as error:
            raise disk_error(error, self.path) from error

    def timings(self) -> dict[str, float]:
        """Seconds of the work that the result is made of: `train_s` and its parts, a mean step.

        What was done again after a kill counts once, by its last line; a line cut by a kill is
        passed over.
        """
        last: dict[str, dict[int, float]] = {name: {} for name in (*PARTS, "data_s")}
        for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                value = json.loads(line)
                for name in last.keys() & value.keys():
                    last[name][value.get("step", 0)] = float(value[name])
            except (ValueError, TypeError, AttributeError):
                continue
        total_s = {name: sum(of.values()) for name, of in last.items()}
        if not last["step_s"]:
            return {}
        return {
            "train_s": sum(total_s[name] for name in PARTS),
            **{f"{part}_s": total_s[name] for name, part in PARTS.items()},
            "step_s": total_s["step_s"] / len(last["step_s"]),
            "data_wait_share": total_s["data_s"] / max(total_s["step_s"], 1e-9),
        }


def history_lines(steps: Sequence[StepResult], validations: Sequence[Validation]) -> Iterator[str]:
    """loss.jsonl: reproducible numbers only. Steps are counted from 1: done after that many."""
    by_step = {int(validation["step"]): validation for validation in validations}
    if 0 in by_step:  # of the weights that it began with
        yield _one_line(by_step[0])
    for number, result in enumerate(steps, start=1):
        yield _one_line({"step": number, **vars(result)})
        if number in by_step:
            yield _one_line(by_step[number])


def _one_line(value: Mapping[str, Any]) -> str:
    return json.dumps(json.loads(canonical_json(value))) + "\n"


def check_learned(
    config: TrainConfig, vocab_size: int, steps: Sequence[StepResult], heldout_loss: float
) -> None:
    """Raises DivergedError if a training from first weights has learned nothing of its tokens.

    It has not if its loss at the end, held out and of the last steps, is no better than
    ln(vocab_size), that of a model to which all ids are equally likely, and the held-out loss no
    better than that of any step: a short training whose first weights were worse than uniform,
    and which gets better, has begun to learn.
    """
    uniform = math.log(vocab_size)
    losses = [result.loss for result in steps]
    at_end = min(heldout_loss, statistics.fmean(losses[-max(1, len(losses) // LAST_STEPS) :]))
    if at_end < NOTHING_GAINED * uniform or heldout_loss < NOTHING_GAINED * min(losses):
        return
    raise DivergedError(
        f"training learned nothing in {len(steps)} steps: its model is no better than one to which "
        f"all {vocab_size} ids are equally likely",
        found=f"a held-out loss of {heldout_loss:.4g} nats per token",
        expected=f"below {uniform:.4g}, the logarithm of {vocab_size}",
        do=f"lower train.learning_rate ({config.learning_rate:g}) or embedding_learning_rate "
        f"({config.embedding_learning_rate:g}), or train longer; no model is written",
    )


def check_improved(
    config: TrainConfig,
    num_steps: int,
    unit: str,
    heldout: tuple[float, float],
    first_rows: tuple[float, float],
) -> None:
    """Raises DivergedError if a model is no better than the one that its training began with.

    Of a base, which is far better than uniform before its first step, and of losses that are not
    those of tokens. Each pair is (before the first step, after the last one) on the same rows: held
    out, and those of the first step. One that got better is enough: what was learned by heart is
    not nothing.
    """
    if any(after < NOTHING_GAINED * before for before, after in (heldout, first_rows)):
        return
    got_worse = first_rows[1] > first_rows[0] / NOTHING_GAINED
    change = f"{'lower' if got_worse else 'raise'} train.learning_rate ({config.learning_rate:g})"
    raise DivergedError(
        f"training learned nothing in {num_steps} steps: its model is no better than the one it "
        "began with",
        found=f"{heldout[0]:.4g} {unit} before and {heldout[1]:.4g} after on held-out rows, "
        f"{first_rows[0]:.4g} and {first_rows[1]:.4g} on the first step's",
        expected="either to fall by a thousandth or more",
        do=f"{change}, raise train.steps, or look at the rows (`whorl show`); no model is written",
    )


def planned_value(predicted: Mapping[str, Any], name: str) -> float | None:
    """The planned figure: a plain number, or the "value" of a prediction with an interval."""
    item = predicted.get(name)
    value = item.get("value") if isinstance(item, Mapping) else item
    return float(value) if isinstance(value, int | float) else None


def compare_with_plan(
    predicted: Mapping[str, Any], actual: Mapping[str, float | None]
) -> dict[str, dict[str, Any]]:
    """For each figure both planned and measured: both, their ratio, and if the interval held."""
    rows: dict[str, dict[str, Any]] = {}
    for name, value in actual.items():
        planned = planned_value(predicted, name)
        if planned is None or value is None:
            continue
        item = predicted[name]
        low, high = (
            (item.get("low"), item.get("high")) if isinstance(item, Mapping) else (None,) * 2
        )
        rows[name] = {
            "predicted": planned,
            "low": low,
            "high": high,
            "actual": value,
            "ratio": value / planned if planned else None,
            "within": None if low is None or high is None else bool(low <= value <= high),
        }
    return rows
