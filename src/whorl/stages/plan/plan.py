"""plan.json: what the other stages will do, what is expected of it, and why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field, ValidationError

from whorl.arch.shape import ModelShape
from whorl.core.digests import read_sealed
from whorl.core.errors import RecordError
from whorl.core.frozen import Frozen
from whorl.core.records import Record
from whorl.core.validation import first_problem
from whorl.spec.resolved import (
    CompressConfig,
    EvaluateConfig,
    PrepareConfig,
    ServeConfig,
    TrainConfig,
)

__all__ = ["PLAN_FILE", "Decisions", "Plan", "Prediction"]

PLAN_FILE = "plan.json"
SHAPE_KEYS = ("family", "layers", "width", "ffn_width")  # what a recipe can say of them
ATTENTION_KEYS = ("heads", "kv_heads", "head_dim")


class Decisions(Frozen):
    """The config of every stage, each value explicit."""

    shape: ModelShape
    prepare: PrepareConfig
    train: TrainConfig
    compress: CompressConfig
    evaluate: EvaluateConfig
    serve: ServeConfig


class Prediction(Frozen):
    """A figure with its 90% interval. low = high = value: counted, not estimated."""

    value: float | None
    low: float | None = None
    high: float | None = None
    unit: str
    note: str = Field("", description="the reason when value is null, or how it was found")

    @classmethod
    def exact(cls, value: float, unit: str, note: str = "") -> Prediction:
        return cls.within(value, 1.0, unit, note)

    @classmethod
    def within(cls, value: float, factor: float, unit: str, note: str = "") -> Prediction:
        """With an interval as wide, as ratios go, on either side."""
        return cls(value=value, low=value / factor, high=value * factor, unit=unit, note=note)


class Plan(Frozen):
    version: int = 1
    decisions: Decisions
    chosen_from: str = Field(description="digest of what sizes and steps were chosen from")
    predictions: dict[str, Prediction]
    reasons: dict[str, str] = Field(description="dotted key of the recipe -> why this value")
    machine: dict[str, Any] = Field(description="identity and calibration this was made with")
    law: dict[str, Any] = Field(description="which law predicted the quality, and its error")
    warnings: tuple[str, ...] = ()

    @classmethod
    def load(cls, record: Record) -> Plan:
        """The plan of a plan record, verified. Raises RecordError."""
        path = record.file(PLAN_FILE)
        try:
            return cls.model_validate(read_sealed(path))
        except ValidationError as error:
            raise RecordError(
                f"{path} is not a plan of this version", found=first_problem(error)
            ) from error

    @property
    def resolved(self) -> Mapping[str, Any]:
        """Dotted keys of the recipe -> the value that runs."""
        d = self.decisions
        return {
            **{f"model.{key}": getattr(d.shape, key) for key in SHAPE_KEYS},
            **{f"model.{key}": getattr(d.shape.attention, key) for key in ATTENTION_KEYS},
            **{
                f"{stage}.{key}": value
                for stage in ("prepare", "train", "compress", "evaluate", "serve")
                for key, value in getattr(d, stage).model_dump().items()
            },
        }

    def predicted(self) -> dict[str, dict[str, Any]]:
        """Plain values, handed to `train` to be reported beside the actual ones."""
        return {name: item.model_dump() for name, item in self.predictions.items()}
