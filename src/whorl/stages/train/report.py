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
from whorl.core.rows import RowsIndex
from whorl.stages.train.trainer import StepResult

__all__ = ["ByteRates", "MetricsFile", "compare_with_plan", "history_lines", "planned_value"]

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
        """Over all steps, by the last line of each; a line cut by a kill is passed over."""
        steps: dict[int, tuple[float, float]] = {}
        for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                value = json.loads(line)
                steps[value["step"]] = (value["step_s"], value["data_s"])
            except (ValueError, KeyError, TypeError):
                continue
        if not steps:
            return {}
        total_s = sum(step_s for step_s, _ in steps.values())
        return {
            "train_s": total_s,
            "step_s": statistics.median(step_s for step_s, _ in steps.values()),
            "data_wait_share": sum(data_s for _, data_s in steps.values()) / max(total_s, 1e-9),
        }


def history_lines(steps: Sequence[StepResult], validations: Sequence[Validation]) -> Iterator[str]:
    """loss.jsonl: reproducible numbers only. Steps are counted from 1: done after that many."""
    by_step = {int(validation["step"]): validation for validation in validations}
    for number, result in enumerate(steps, start=1):
        yield _one_line({"step": number, **vars(result)})
        if number in by_step:
            yield _one_line(by_step[number])


def _one_line(value: Mapping[str, Any]) -> str:
    return json.dumps(json.loads(canonical_json(value))) + "\n"


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
