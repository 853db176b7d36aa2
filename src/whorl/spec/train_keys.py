"""The keys of training, each written once: for recipes, where many may be "auto", and resolved."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Generic, Literal, Never, Self, TypeVar, cast

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from whorl.core.errors import SpecError
from whorl.core.plugins import check_part
from whorl.spec.quantities import Length, Number, Share, Whole
from whorl.spec.saying import Spec, without_nothing

__all__ = [
    "BATCH_TOKENS",
    "OBJECTIVES",
    "OPTIMIZERS",
    "SEQ_LEN",
    "DistilKeys",
    "DpoKeys",
    "LoraKeys",
    "TrainConfig",
    "TrainSpec",
]

OBJECTIVES = ("distil", "dpo", "pretrain", "sft")  # that ship
OPTIMIZERS = ("adamw", "muon")
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


SEQ_LEN, BATCH_TOKENS = Length(1, 2**24), Length(1, 2**40)
Rows = Annotated[int, Whole(1, 10**6)]
Steps = Annotated[int, Whole(1, 10**12)]
StepsOrNone = Annotated[int, Whole(0, 10**12)]
Processors = Annotated[int, Whole(1, 4096)]  # of one machine; plan knows how many it has
Rate = Annotated[float, Number(1e-12, 1e6)]
RateOrNone = Annotated[float, Number(0, 1e6)]
Objective = Annotated[str, _part("objectives", OBJECTIVES)]
OptimizerName = Annotated[str, _part("optimizers", OPTIMIZERS, is_open=True)]


class LoraKeys(Spec):
    """Adapters beside frozen weights: only they are trained, and merged into them at the end."""

    rank: Annotated[int, Whole(1, 65_536)] = Field(16, description="of each adapter's matrices")
    alpha: Rate = Field(
        32.0, description="what is learned is multiplied by alpha / rank before it is added"
    )
    dropout: Annotated[float, Number(0, 0.99)] = Field(
        0.0, description="share of an adapter's inputs that are zero in training"
    )
    targets: Literal["all"] | Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        "all",
        description="names of linear layers, such as [q_proj, v_proj]; all: every one of the "
        "blocks but routers",
    )
    last_layers: Annotated[int, Whole(1, 10_000)] | None = Field(
        None, description="only in so many blocks, the last ones: those before need no backward"
    )
    dora: bool = Field(False, description="also learn the length of each row of a weight (DoRA)")
    base: Literal["none", "int8", "nf4"] = Field(
        "none", description="bits the frozen linear layers are kept in; none: as they are"
    )


class DpoKeys(Spec):
    """What dpo learns from pairs of answers."""

    beta: Rate = Field(0.1, description="how strongly the reference model is kept to")
    length_normalised: bool = Field(
        False, description="log-probabilities count by their mean per token, not their sum"
    )


class DistilKeys(Spec):
    """What distil learns from a teacher's probabilities."""

    teacher: Annotated[str, Field(min_length=1)] | None = Field(
        None, description="the model to learn from, named as a base is; of the same tokens"
    )
    top_k: Annotated[int, Whole(1, 100_000)] = Field(
        32, description="the teacher's likeliest ids that count one by one; all others together"
    )
    temperature: Rate = Field(1.0, description="both distributions are flattened by it")


GROUPS = ("dpo", "distil")  # keys with the settings of the objective of that name


class TrainKeys(BaseModel, Generic[A]):
    """How a model is trained."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    objective: Objective = Field("pretrain", description="what is learned")
    lora: LoraKeys | None = Field(
        None, description="train adapters only; left out: every weight is trained"
    )
    dpo: DpoKeys | None = Field(None, description="of the objective dpo")
    distil: DistilKeys | None = Field(None, description="of the objective distil")
    seq_len: Annotated[int, SEQ_LEN] | A = Field(AUTO, description="input tokens of one row")
    batch_tokens: Annotated[int, BATCH_TOKENS] | A = Field(
        AUTO, description="input tokens of one step, all rows"
    )
    micro_batch_rows: Rows | A = Field(
        AUTO, description="rows of one forward pass; changes nothing but rounding"
    )
    steps: Steps | A = Field(AUTO, description="optimiser steps; auto: from the budget")
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
    norm_learning_rate: RateOrNone = Field(0.01, description="peak, of the norms' weights")
    weight_decay: Annotated[RateOrNone | A, Plain(0.0)] = Field(
        AUTO, description="of the hidden matrices, per learning rate"
    )
    warmup_steps: Annotated[StepsOrNone | A, Plain(0)] = Field(
        AUTO, description="steps until the rates reach their peaks"
    )
    decay_steps: Annotated[StepsOrNone | A, Plain(0)] = Field(
        AUTO, description="linear decay to final_learning_rate_share at the end"
    )
    final_learning_rate_share: Annotated[float, Share()] = Field(
        0.0, description="of the peaks, after the last step"
    )
    clip_norm: RateOrNone = Field(1.0, description="of all gradients together; 0: no clipping")
    precision: Annotated[Precision | A, Plain("fp32")] = Field(
        AUTO, description="of products and what blocks hand on; bf16 by torch's autocast"
    )
    attention_dtype: Annotated[Precision | A, Plain("fp32")] = Field(
        AUTO, description="of attention's scores and softmax where precision is bf16"
    )
    muon_dtype: Annotated[Precision | A, Plain("fp32")] = Field(
        AUTO, description="of Muon's iteration"
    )
    threads: Annotated[Processors | A, Plain(2)] = Field(
        AUTO, description="CPU threads; same threads and lanes, same bits"
    )
    lanes: Annotated[Processors | A, Plain(1)] = Field(
        AUTO, description="micro-batches computed side by side, sharing the threads"
    )
    compiled: Annotated[bool | A, Plain(False)] = Field(
        AUTO, description="blocks run as C++ compiled for them: a tenth faster, after 10 to 20 s"
    )
    max_repeats: Annotated[float, Number(1e-6, 1e9)] = Field(
        4.0, description="epochs of a source that has a share; training on more is refused"
    )
    checkpoint_every_steps: Annotated[Steps | A, Plain(100)] = Field(
        AUTO, description="steps between checkpoints"
    )
    validate_every_steps: Annotated[Steps | A, Plain(100)] = Field(
        AUTO, description="steps between validations"
    )
    validate_rows: Rows = Field(32, description="held-out rows of the validation loss")

    @model_validator(mode="after")
    def _fit(self) -> Self:
        for key in GROUPS:
            if getattr(self, key) is not None and self.objective != key:
                raise SpecError(
                    f"train.{key} is given, but another objective is trained",
                    expected=f"objective: {key}",
                    do=f"set train.objective to {key}, or remove train.{key}",
                )
        if self.objective == "distil" and (self.distil is None or self.distil.teacher is None):
            raise SpecError(
                "train.objective is distil, and there is no teacher",
                expected="train.distil.teacher, a model's name or what `whorl import` takes",
                do="name the model to learn from",
            )
        if self.lora is not None and self.compiled is True:
            raise SpecError("blocks with adapters cannot be compiled", do="remove train.compiled")
        return self


class TrainSpec(TrainKeys[Literal["auto"]]):
    """As a recipe says it."""

    @model_validator(mode="before")
    @classmethod
    def _say_nothing(cls, values: Any) -> Any:
        return without_nothing(cls, values)

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
        if not isinstance(values, dict):
            return values
        objective, said = values.get("objective"), {**plain, **values}
        if said.get("lora") is not None and "optimizer" not in values:
            said["optimizer"] = "adamw"
        if objective in GROUPS and said.get(objective) is None:
            said[objective] = {}
        return said
