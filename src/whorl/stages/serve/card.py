"""What a server tells of its model."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from whorl.stages.serve.promise import Promise

__all__ = [
    "GREEDY",
    "SAMPLING",
    "AskedPart",
    "HeldoutExample",
    "ModelCard",
    "QualityFigure",
    "Sampling",
    "TaskCard",
    "VariantQuality",
]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class QualityFigure(_Frozen):
    """One measured figure, with its 95% interval where there is one."""

    name: str
    field: str = Field("", description="of the recipe's data")
    metric: str
    value: float
    shown: str = Field("", description="the value as people read it")
    low: float | None = None
    high: float | None = None


class VariantQuality(_Frozen):
    """Another variant of the same model, measured beside the one that is served."""

    variant: str
    quality: tuple[QualityFigure, ...]


class AskedPart(_Frozen):
    """A piece of a question, as a prompt of parts has it."""

    codec: str
    text: str


class HeldoutExample(_Frozen):
    """A held-out question and its right answer."""

    asked: tuple[AskedPart, ...]
    answer: str


class TaskCard(_Frozen):
    """What a model was taught to answer: a field of its recipe, and the codecs of both sides."""

    field: str = Field("", description="of the recipe's data; empty: only the codecs are known")
    asked: tuple[str, ...] = Field((), description="codecs of a question; none: it goes on")
    answer: str = Field(description="the codec of an answer")
    options: dict[str, str] = Field(default_factory=dict, description="of the field")
    examples: tuple[HeldoutExample, ...] = ()
    worlds: tuple[str, ...] = Field((), description="environments that it was taught to act in")


class Sampling(_Frozen):
    """How the tokens of an answer are drawn: the fields of a request that say so."""

    temperature: float
    top_p: float
    seed: int = 0


GREEDY = Sampling(temperature=0.0, top_p=1.0)
# What a person is shown. A small model's most probable tokens soon go round in circles; top_p as in
# Holtzman et al. (2020, arXiv 1904.09751), the temperature a little below one for its long tail.
SAMPLING = Sampling(temperature=0.7, top_p=0.95)


class ModelCard(_Frozen):
    name: str = Field(description="what requests call it")
    contract_digest: str = Field(description="of the token contract in the model folder")
    context_tokens: int = Field(ge=2, description="prompt and answer together")
    variant: str = Field("", description="openvino int8 …")
    version: int = Field(0, description="of the registry; 0: of none")
    created: int = Field(0, description="Unix time in seconds")
    lineage: dict[str, str] = Field(default_factory=dict, description="role -> record digest")
    quality: tuple[QualityFigure, ...] = ()
    variants: tuple[VariantQuality, ...] = Field((), description="the others that were measured")
    tasks: tuple[TaskCard, ...] = Field((), description="(): as far as the codecs tell")
    example_prompt: str = Field("", description="what the page starts with")
    promise: Promise | None = Field(None, description="what the server keeps to")
    sampling: Sampling = Field(SAMPLING, description="what the page starts with")
