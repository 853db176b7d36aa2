"""What is learned, one file each; from outside by an entry point of the group whorl.objectives."""

from __future__ import annotations

from typing import cast

from whorl.core.plugins import find_part
from whorl.stages.train.objectives.pretrain import Pretrain
from whorl.stages.train.ports import Objective

__all__ = ["find_objective"]

BUILT_IN = {part.name: part for part in (Pretrain(),)}


def find_objective(name: str) -> Objective:
    """Raises SpecError if there is none of that name."""
    return cast(Objective, find_part("whorl.objectives", name, BUILT_IN))
