"""What values that are checked when they are read are made from."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

__all__ = ["Frozen"]


class Frozen(BaseModel):
    """Unchangeable; a key that it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")
