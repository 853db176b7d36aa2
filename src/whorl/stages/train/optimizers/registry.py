"""How the blocks' matrices move, one file each; others by entry points of whorl.optimizers."""

from __future__ import annotations

from typing import cast

from whorl.core.plugins import find_part
from whorl.stages.train.optimizers.adamw import AdamWKind
from whorl.stages.train.optimizers.muon import MuonKind
from whorl.stages.train.ports import OptimizerKind

__all__ = ["find_optimizer"]

BUILT_IN = {part.name: part for part in (AdamWKind(), MuonKind())}


def find_optimizer(name: str) -> OptimizerKind:
    """Raises SpecError if there is none of that name."""
    return cast(OptimizerKind, find_part("whorl.optimizers", name, BUILT_IN))
