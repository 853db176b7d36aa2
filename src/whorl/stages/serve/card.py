"""What a server tells of its model."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["ModelCard", "QualityFigure"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class QualityFigure(_Frozen):
    """One measured figure, with its 95% interval where there is one."""

    name: str
    metric: str
    value: float
    low: float | None = None
    high: float | None = None


class ModelCard(_Frozen):
    name: str = Field(description="what requests call it")
    contract_digest: str = Field(description="of the token contract in the model folder")
    context_tokens: int = Field(ge=2, description="prompt and answer together")
    variant: str = Field("", description="f32, int8 …")
    created: int = Field(0, description="Unix time in seconds")
    lineage: dict[str, str] = Field(default_factory=dict, description="role -> record digest")
    quality: tuple[QualityFigure, ...] = ()
    example_prompt: str = Field("", description="what the page starts with")
