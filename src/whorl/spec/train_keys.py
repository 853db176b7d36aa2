"""The keys of training, each written once: for recipes, where many may be "auto", and resolved."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Generic, Literal, Never, TypeVar, cast

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from whorl.core.plugins import check_part
from whorl.core.units import parse_count

__all__ = ["OBJECTIVES", "OPTIMIZERS", "TrainConfig", "TrainSpec"]

OBJECTIVES, OPTIMIZERS = ("pretrain",), ("adamw", "muon")  # that ship
A = TypeVar("A")  # "auto" in a recipe, nothing where all is resolved
AUTO = cast(A, "auto")  # type: ignore[valid-type]
Precision = Literal["fp32", "bf16"]


@dataclass(frozen=True)
class Plain:
    """The value where neither a recipe nor a plan says one: in tests and by hand."""

    value: object


def _part(kind: str, built_in: tuple[str, ...], is_open: bool = False) -> AfterValidator:
    def check(name: str) -> str:
        if not (is_open and name == "auto"):
            check_part(f"whorl.{kind}", name, built_in)
        return name

    return AfterValidator(check)


def _count(value: Any) -> Any:
    return value if value == "auto" else parse_count(value)


Counted = BeforeValidator(_count)
AtLeastOne = Field(ge=1)
Rate = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Objective = Annotated[str, _part("objectives", OBJECTIVES)]
OptimizerName = Annotated[str, _part("optimizers", OPTIMIZERS, is_open=True)]


class TrainKeys(BaseModel, Generic[A]):
    """How a model is trained."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    objective: Objective = Field("pretrain", description="what is learned")
    seq_len: Annotated[int | A, Counted] = Field(AUTO, description="input tokens of one row")
    batch_tokens: Annotated[int | A, Counted] = Field(
        AUTO, description="input tokens of one step, all rows"
    )
    micro_batch_rows: Annotated[int, AtLeastOne] | A = Field(
        AUTO, description="rows of one forward pass; changes nothing but rounding"
    )
    steps: Annotated[int | A, Counted] = Field(
        AUTO, description="optimiser steps; auto: from the budget"
    )
    optimizer: Annotated[OptimizerName | A, Plain("muon")] = Field(
        AUTO, description="of the blocks' matrices"
    )
    learning_rate: Rate | A = Field(AUTO, description="peak, of the hidden matrices")
    embedding_learning_rate: Rate | A = Field(
        AUTO, description="peak, of the embedding, a tied head too"
    )
    head_learning_rate: Annotated[Rate | A, Plain(0.01)] = Field(
        AUTO, description="peak, of a head that is not tied"
    )
    norm_learning_rate: Rate = Field(0.01, description="peak, of the norms' weights")
    weight_decay: Annotated[Rate | A, Plain(0.0)] = Field(
        AUTO, description="of the hidden matrices, per learning rate"
    )
    warmup_steps: Annotated[Annotated[int, Field(ge=0)] | A, Plain(0)] = Field(
        AUTO, description="steps until the rates reach their peaks"
    )
    decay_steps: Annotated[Annotated[int, Field(ge=0)] | A, Plain(0)] = Field(
        AUTO, description="linear decay to final_learning_rate_share at the end"
    )
    final_learning_rate_share: Rate = Field(
        0.0, le=1, description="of the peaks, after the last step"
    )
    clip_norm: Rate = Field(1.0, description="of all gradients together; 0: no clipping")
    precision: Annotated[Precision | A, Plain("fp32")] = Field(
        AUTO, description="of products and what blocks hand on; bf16 by torch's autocast"
    )
    attention_dtype: Annotated[Precision | A, Plain("fp32")] = Field(
        AUTO, description="of attention's scores and softmax where precision is bf16"
    )
    muon_dtype: Annotated[Precision | A, Plain("fp32")] = Field(
        AUTO, description="of Muon's iteration"
    )
    threads: Annotated[Annotated[int, AtLeastOne] | A, Plain(2)] = Field(
        AUTO, description="CPU threads; same threads and lanes, same bits"
    )
    lanes: Annotated[Annotated[int, AtLeastOne] | A, Plain(1)] = Field(
        AUTO, description="micro-batches computed side by side, sharing the threads"
    )
    compiled: Annotated[bool | A, Plain(False)] = Field(
        AUTO, description="blocks run as C++ compiled for them: a tenth faster, after 10 to 20 s"
    )
    max_repeats: float = Field(
        4.0, gt=0, description="epochs of a source that has a share; training on more is refused"
    )
    checkpoint_every_steps: Annotated[int | A, Counted, Plain(100)] = Field(
        AUTO, description="steps between checkpoints"
    )
    validate_every_steps: Annotated[int | A, Counted, Plain(100)] = Field(
        AUTO, description="steps between validations"
    )
    validate_rows: int = Field(32, ge=1, description="held-out rows of the validation loss")


class TrainSpec(TrainKeys[Literal["auto"]]):
    """As a recipe says it."""

    @property
    def said(self) -> dict[str, Any]:
        """Every key that is not "auto"."""
        return {key: value for key, value in self.model_dump().items() if value != "auto"}


class TrainConfig(TrainKeys[Never]):
    """Every value explicit; hashed into the record of training."""

    seed: int = 0
    device: Literal["cpu", "cuda"] = "cpu"

    @model_validator(mode="before")
    @classmethod
    def _plain(cls, values: Any) -> Any:
        plain = {
            key: item.value
            for key, info in cls.model_fields.items()
            for item in info.metadata
            if isinstance(item, Plain)
        }
        return {**plain, **values} if isinstance(values, dict) else values
