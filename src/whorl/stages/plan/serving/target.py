"""What a service must do, and the plan that does it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Literal

from whorl.core.errors import SpecError
from whorl.stages.plan.serving.work import QUANTISATIONS

__all__ = ["ServingFigure", "ServingPlan", "ServingTarget"]


@dataclass(frozen=True)
class ServingFigure:
    """A prediction and the 90% interval around it; high is None when no bound was found."""

    value: float
    low: float
    high: float | None


@dataclass(frozen=True)
class ServingTarget:
    """Raises SpecError on sizes that no service can have."""

    users: int  # requests in flight at once
    input_tokens: int  # per request, mean
    output_tokens: int
    first_token_p95_s: float = 2.0
    tokens_per_s_per_user: float = 20.0
    quantisations: tuple[str, ...] = ("bf16", "fp8")  # what quality allows
    engines: tuple[str, ...] = ()  # empty: any that runs on the device
    devices_per_replica: int | None = None  # tensor parallel; None: searched

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if item.name in ("quantisations", "engines") or value is None:
                continue
            if not 0 < value < math.inf or (item.type != "float" and value != int(value)):
                expected = "a whole number of at least 1" if item.type != "float" else "above 0"
                raise SpecError(f"serving target: {item.name}", found=value, expected=expected)
        unknown = sorted(set(self.quantisations) - set(QUANTISATIONS))
        if unknown or not self.quantisations:
            raise SpecError(
                "serving target: quantisations",
                found=unknown or "none",
                expected=f"some of {', '.join(QUANTISATIONS)}",
            )


@dataclass(frozen=True)
class ServingPlan:
    """The cheapest deployment that meets the target by the central estimate."""

    model: str
    device: str
    method: Literal["roofline", "aiconfigurator"]
    engine: str
    quantisation: str
    devices_per_replica: int  # tensor parallel
    replicas: ServingFigure  # high: needed at the slow end, None if the target is missed there
    max_running: int  # requests in one replica's batch
    max_cache_tokens: int  # of one replica: what its memory can hold
    first_token_s: ServingFigure  # mean
    first_token_p95_s: ServingFigure
    tokens_per_s_per_user: ServingFigure
    tokens_per_s: ServingFigure  # output tokens of all replicas
    usd_per_million_tokens: ServingFigure  # output tokens; the prompts are in the price
    usd_per_hour: float | None  # None: not known, and the figure above is 0
    # one step of decoding at the device's own rates, before any loss
    decode_parts_s: dict[str, float] = field(default_factory=dict, hash=False)
    notes: tuple[str, ...] = ()

    @property
    def devices(self) -> int:
        return self.devices_per_replica * round(self.replicas.value)
